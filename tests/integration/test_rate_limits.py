"""Rate limits in Redis: exact, whoever calls and whatever becomes of the server."""

import asyncio
import json
import logging
import pickle
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multidb import (
    DataError,
    Decision,
    MultiDB,
    Rate,
    RateLimitExceededError,
    StoreError,
    UnavailableError,
    uuid7,
)
from multidb.repositories.local_limits import How, LocalLimits
from multidb.repositories.rate_limits import asked
from multidb.settings import Settings
from multidb.stores.redis.commands import scripted

from .proxy import behind_proxy
from .rate_limit_worker import ALGORITHMS

ROOT = Path(__file__).parents[2]
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ZERO = timedelta(0)
#: In Unix microseconds.
NOW = 1_795_000_000_000_000

hows: st.SearchStrategy[How] = st.sampled_from(["hit", "hit", "hit", "peek", "refund"])
rates = st.builds(
    Rate,
    st.integers(1, 12),
    per=st.integers(1000, 9000).map(lambda us: timedelta(microseconds=us)),
    algorithm=st.sampled_from(ALGORITHMS),
)
steps = st.lists(st.tuples(hows, st.integers(-500, 2000), st.integers(1, 12)), max_size=60)


async def test_the_script_decides_as_the_model_does(db: MultiDB):
    """And of the model `tests/unit/test_rate_limits.py` shows what it promises."""
    loop = asyncio.get_running_loop()
    numbers = count()

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(limits=st.lists(rates, min_size=1, max_size=3, unique_by=asked), steps=steps)
    def agree(limits: list[Rate], steps: list[tuple[How, int, int]]) -> None:
        key = db.redis.pattern("test:{n}").key({"n": next(numbers)})
        # The first two share a key, as an endpoint's do.
        keyed = [(f"{key}:{number // 2}", rate) for number, rate in enumerate(limits)]
        model, commands, expected, now = LocalLimits(), [], [], NOW
        for how, pause, wanted in steps:
            now += pause
            cost = min(wanted, *(rate.limit for rate in limits))
            expected.append(model.decide(keyed, how, cost, now))
            arguments = [how, cost, now, *(each for rate in limits for each in asked(rate))]
            commands.append(scripted("rate_limit", [name for name, _ in keyed], arguments))
        sent = asyncio.run_coroutine_threadsafe(db.redis.send(commands, operation="test"), loop)
        assert sent.result(30) == expected

    await asyncio.to_thread(agree)


@pytest.mark.redis
async def test_a_day_of_calls(db: MultiDB):
    user, rate = uuid7(), Rate(3, per=HOUR)
    decisions = [await db.rate_limits.hit(user, "GET /a", rate) for _ in range(4)]
    assert [each.allowed for each in decisions] == [True, True, True, False]
    assert [each.remaining for each in decisions] == [2, 1, 0, 0]
    assert decisions[0].retry_after == ZERO
    assert HOUR - MINUTE < decisions[3].retry_after <= HOUR < decisions[3].reset_after
    assert decisions[3].headers()["RateLimit-Policy"] == '"3/3600s";q=3;w=3600'
    assert not decisions[3].degraded
    # Other users, endpoints and rates count for themselves.
    other = Rate(3, per=HOUR, algorithm="fixed_window")
    for where in ((uuid7(), "GET /a", rate), (user, "GET /b", rate), (user, "GET /a", other)):
        assert (await db.rate_limits.hit(*where)).remaining == 2
    assert (await db.rate_limits.refund(user, "GET /a", rate)).remaining == 1
    peeked = await db.rate_limits.peek(user, "GET /a", rate, cost=2)
    assert (peeked.allowed, peeked.remaining) == (False, 1)
    assert (await db.rate_limits.hit(user, "GET /a", rate)).allowed
    with pytest.raises(RateLimitExceededError) as caught:
        await db.rate_limits.require(user, "GET /a", rate)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)).decision, Decision)
    await db.rate_limits.reset(user, "GET /a")
    assert (await db.rate_limits.require(user, "GET /a", rate, cost=3)).remaining == 0
    # The key is the one that is promised, and goes when nothing counts any more.
    key = f"{db.settings.key_prefix}rate_limit:user:{{{user}}}:{{GET%20/a}}"
    assert 0 < await db.redis.execute("PTTL", key, operation="test") <= 2.5 * 3_600_000


async def test_several_limits_admit_all_or_none(db: MultiDB):
    user = uuid7()
    burst, steady = Rate(2, per=MINUTE), Rate(3, per=HOUR)
    both = [burst, steady]
    assert [(await db.rate_limits.hit(user, "a", both)).allowed for _ in range(3)] == [True, True, False]
    # What the one refused has not counted for the other.
    assert (await db.rate_limits.peek(user, "a", steady)).remaining == 1
    decision = await db.rate_limits.hit_all(user, {"b": burst, "a": [steady]})
    assert (decision.allowed, decision.remaining) == (True, 0)
    assert [quota.remaining for quota in decision.quotas] == [1, 0]
    refused = await db.rate_limits.hit_all(user, {"b": burst, "a": steady})
    assert not refused.allowed
    assert refused.retry_after == refused.quotas[1].retry_after > ZERO == refused.quotas[0].retry_after
    assert (await db.rate_limits.peek(user, "b", burst)).remaining == 1
    assert refused.headers()["RateLimit"].count(";r=") == 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_who_waits_is_admitted(db: MultiDB, algorithm: Any):
    user, rate = uuid7(), Rate(20, per=timedelta(milliseconds=100), algorithm=algorithm)
    waited = 0
    admitted: list[float] = []
    loop = asyncio.get_running_loop()
    while waited < 3:
        before = loop.time()
        decision = await db.rate_limits.hit(user, "a", rate, cost=7)
        if decision.allowed:
            # Nobody else calls: by its own clock, the server's lies between these two.
            admitted.append(before)
            continue
        waited += 1
        await asyncio.sleep(decision.retry_after.total_seconds())
        assert (await db.rate_limits.peek(user, "a", rate, cost=7)).allowed


async def test_four_processes_admit_exactly_the_limit(db: MultiDB):
    limit, user = 200, uuid7()
    stores = ("postgres_url", "mongo_url", "redis_url")
    given: dict[str, Any] = {name: getattr(db.settings, name).get_secret_value() for name in stores}
    given |= {"key_prefix": db.settings.key_prefix, "open_timeout": 60, "redis_timeout": 60}
    order = json.dumps({"settings": given, "user": str(user), "limit": limit})
    program = sys.executable, "-m", "tests.integration.rate_limit_worker", order
    worker = await asyncio.create_subprocess_exec(*program, cwd=ROOT, stdout=PIPE)
    output, _ = await worker.communicate()
    admitted: Counter[str] = Counter()
    for each in json.loads(output):
        admitted.update(each)
    assert admitted == dict.fromkeys(ALGORITHMS, limit)


# --- Redis is away


async def test_without_redis_the_policy_decides(multidb_settings: Settings, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "multidb.rate_limits")
    assert multidb_settings.rate_limit_outage == "open"
    changes = {
        "redis_timeout": timedelta(seconds=0.5),
        "redis_breaker_limit": 1,
        "rate_limit_outage": "closed",
    }
    user, rate = uuid7(), Rate(2, per=HOUR)
    async with (
        behind_proxy(multidb_settings.model_copy(update=changes)) as (proxy, settings),
        MultiDB(settings) as db,
    ):
        hit = partial(db.rate_limits.hit, user, "a", rate)
        assert (await hit()).remaining == 1
        proxy.flowing.clear()
        closed = await hit()
        assert (closed.allowed, closed.degraded, closed.remaining) == (False, True, 0)
        assert closed.headers() == {"Retry-After": "1"}
        with pytest.raises(RateLimitExceededError):
            await db.rate_limits.require(user, "a", rate)
        # A call may have a policy of its own.
        opened = [await hit(outage="open") for _ in range(5)]
        assert all(each.allowed and each.degraded and each.headers() == {} for each in opened)
        local = [await hit(outage="local") for _ in range(3)]
        assert [each.allowed for each in local] == [True, True, False]
        assert local[2].degraded
        assert local[2].headers()["RateLimit"].startswith('"2/3600s";r=0')
        assert (await db.rate_limits.refund(user, "a", rate, outage="local")).remaining == 1
        with pytest.raises(UnavailableError):
            await db.rate_limits.reset(user, "a")
        assert (await db.rate_limits.peek(user, "a", rate, outage="local")).remaining == 2
        with pytest.raises(DataError, match="`outage` must be one of open, closed, local"):
            await hit(outage="ajar")  # type: ignore[arg-type]
        proxy.flowing.set()
        async with asyncio.timeout(30):
            while (back := await db.rate_limits.peek(user, "a", rate)).degraded:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert back.remaining <= 1
    told = [each.message for each in caplog.records if each.name == "multidb.rate_limits"]
    assert [each.startswith("Redis is away, the outage policy decides") for each in told] == [True, False]


async def test_an_answer_that_was_no_outage_is_raised(db: MultiDB):
    user, rate = uuid7(), Rate(2, per=HOUR)
    key = db.redis.pattern("rate_limit:user:{user_id}:{endpoint}").key({"user_id": user, "endpoint": "a"})
    await db.redis.execute("SET", key, "no hash", operation="test")
    with pytest.raises(StoreError):
        await db.rate_limits.hit(user, "a", rate, outage="open")


async def test_a_cancelled_caller_takes_nothing_from_the_others(db: MultiDB):
    user, rate = uuid7(), Rate(100, per=HOUR)
    calls = [asyncio.create_task(db.rate_limits.hit(user, "a", rate)) for _ in range(60)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, Decision) for each in outcomes[1::2])
    assert 40 <= (await db.rate_limits.peek(user, "a", rate)).remaining <= 70


# --- bad input


async def test_what_does_not_fit_is_refused(db: MultiDB):
    user, rate = uuid7(), Rate(3, per=HOUR)
    wrong: dict[str, list[tuple[Any, Any, Any, Any]]] = {
        "`user_id` must be a UUID": [
            (each, "a", rate, 1) for each in ("7", "{7}", "a b", "a\nb", "x" * 10_000, 7, None)
        ],
        "`endpoint` must be a text of 1 to 500": [
            (user, each, rate, 1) for each in ("", "x" * 10_000, None, 7)
        ],
        "`endpoint` cannot stand in a key": [(user, "\ud800", rate, 1)],
        "would be longer": [(user, "é" * 400, rate, 1)],
        "`cost` must be a whole number from 1 to the limit": [
            (user, "a", rate, each) for each in (0, -1, 4, 1.5, True, None)
        ],
        "`rate` must be a Rate": [(user, "a", each, 1) for each in (None, 100, "1/s", [rate, 1])],
        "a rate is given twice": [(user, "a", [rate, rate], 1)],
        "give 1 to 20 rates": [
            (user, "a", [], 1),
            (user, "a", [Rate(n, per=HOUR) for n in range(1, 22)], 1),
        ],
    }
    for message, calls in wrong.items():
        for user_id, endpoint, limits, cost in calls:
            for call in (db.rate_limits.hit, db.rate_limits.peek, db.rate_limits.refund):
                with pytest.raises(DataError, match=message):
                    await call(user_id, endpoint, limits, cost=cost)
    with pytest.raises(DataError):
        await db.rate_limits.reset("7", endpoint="a")  # type: ignore[arg-type]


async def test_no_endpoint_reaches_into_another_ones_key(db: MultiDB):
    user, rate = uuid7(), Rate(1, per=HOUR)
    endpoints = ["a", "a}", "{a", "a}:{b", "a b", "a\nb", "a%20b", "a:b", "*", "A", "ä"]
    decisions = [await db.rate_limits.hit(user, endpoint, rate) for endpoint in endpoints]
    assert all(each.allowed for each in decisions)
    pattern = f"{db.settings.key_prefix}rate_limit:*"
    keys = [key.decode() async for key in db.redis.client.scan_iter(pattern)]
    assert len(keys) == len(endpoints)
    for key in keys:
        assert key.startswith(f"{db.settings.key_prefix}rate_limit:user:{{{user}}}:{{")
        assert (key.count("{"), key.count("}")) == (2, 2)
        assert not any(each.isspace() for each in key)
