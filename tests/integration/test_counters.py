"""Counters in Redis: exact, whatever becomes of an answer."""

import asyncio
import logging
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from multidb import DataError, EndpointCount, MultiDB, NotOpenError, UnavailableError
from multidb.settings import Settings

from .proxy import behind_proxy

TODAY = datetime.now(UTC).date()


@pytest.fixture(autouse=True)
def one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test runs over midnight."""

    monkeypatch.setattr("multidb.repositories.counters._today", lambda: TODAY)


@pytest.mark.redis
async def test_calls_are_counted_exactly(db: MultiDB, multidb_settings: Settings):
    async with MultiDB(multidb_settings) as other:
        await asyncio.gather(
            *(
                each.counters.increment(f"GET /{n % 7}", by=1 + n % 3)
                for each in (db, other)
                for n in range(300)
            )
        )
        totals = {f"GET /{e}": 2 * sum(1 + n % 3 for n in range(300) if n % 7 == e) for e in range(7)}
        for endpoint, total in totals.items():
            assert await other.counters.get(endpoint, TODAY) == total
        top = await db.counters.top(TODAY, limit=3)
        assert [each.count for each in top] == sorted(totals.values(), reverse=True)[:3]
        assert top[0] == EndpointCount(endpoint=top[0].endpoint, count=totals[top[0].endpoint])


async def test_what_cannot_be_stored_at_once_is_stored_piece_by_piece(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("multidb.repositories.counting._TOGETHER", 10)
    send, sizes = db.redis.send, list[int]()

    async def lost_now_and_then(commands: Any, **named: Any) -> Any:
        sizes.append(len(commands))
        if len(sizes) == 3:
            monkeypatch.setattr("multidb.repositories.counting._PAUSE", 0)
            await send(commands, **named)
            raise UnavailableError("lost")
        return await send(commands, **named)

    monkeypatch.setattr(db.redis, "send", lost_now_and_then)
    # What is refused for good takes nothing from the others.
    await db.redis.execute(
        "SET", f"{db.settings.key_prefix}counter:api_calls:{{3}}:{{{TODAY}}}:flushes", 1, operation="t"
    )
    calls = [db.counters.increment(str(n)) for n in range(50)]
    await asyncio.gather(*calls)
    await db.counters._counting._storing.over()
    counts = await asyncio.gather(*(db.counters.get(str(n), TODAY) for n in range(50)))
    assert counts == [n != 3 for n in range(50)]
    assert len(await db.counters.top(TODAY, limit=60)) == 50
    assert max(sizes) == 10


@pytest.mark.redis
async def test_a_range_has_every_day(db: MultiDB):
    await db.counters.increment("a {b}\n", by=5)
    before = TODAY - timedelta(days=2)
    assert await db.counters.range("a {b}\n", before, TODAY) == {
        before: 0,
        TODAY - timedelta(days=1): 0,
        TODAY: 5,
    }
    assert await db.counters.get("a", TODAY) == 0
    assert await db.counters.top(before) == []


async def test_what_is_counted_together_is_stored_together(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    sent: list[int] = []
    send = db.redis.send

    async def recorded(commands: Any, **named: Any) -> Any:
        sent.append(len(commands))
        return await send(commands, **named)

    monkeypatch.setattr(db.redis, "send", recorded)
    await asyncio.gather(*(db.counters.increment("a") for _ in range(500)))
    assert sum(sent) <= 4
    assert await db.counters.get("a", TODAY) == 500


async def test_counters_expire(db: MultiDB):
    await db.counters.increment("a")
    lifetime = db.settings.counter_lifetime.total_seconds() * 1000
    keys = [key async for key in db.redis.client.scan_iter(f"{db.settings.key_prefix}*")]
    assert len(keys) == 4
    for key in keys:
        assert lifetime - 60_000 < await db.redis.client.pttl(key) <= lifetime


async def test_a_flush_whose_answer_was_lost_counts_once(multidb_settings: Settings):
    async with behind_proxy(multidb_settings) as (proxy, settings), MultiDB(settings) as db:
        await db.counters.increment("a")
        lost = iter([None, None])  # the answer to it, and to its repetition
        connected = proxy.accepted

        def answer(data: bytes) -> bytes | None:
            return data if b"server" in data or b"OK" in data else next(lost, data)

        proxy.answer = answer
        await asyncio.gather(*(db.counters.increment("a") for _ in range(10)))
        async with asyncio.timeout(20):
            while db.counters._counting._outage.is_on or db.counters._counting._flush:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert proxy.accepted > connected
        assert await db.counters.get("a", TODAY) == 11
        assert [each.count for each in await db.counters.top(TODAY)] == [11]


async def test_while_redis_is_away_counting_goes_on(multidb_settings: Settings, caplog):
    caplog.set_level(logging.WARNING, "multidb.counters")
    changes = {"redis_timeout": timedelta(seconds=0.5), "redis_breaker_pause": timedelta(seconds=0.1)}
    async with behind_proxy(multidb_settings.model_copy(update=changes)) as (proxy, settings):
        async with MultiDB(settings) as db:
            await db.counters.increment("a")
            proxy.deaf = True
            async with asyncio.timeout(30):
                for _ in range(100):
                    await db.counters.increment("a")
            with pytest.raises(UnavailableError):
                await db.counters.get("a", TODAY)
            proxy.deaf = False
        # Closing has stored what was left.
        async with MultiDB(settings) as db:
            assert await db.counters.get("a", TODAY) == 101
        told = [each.message for each in caplog.records if "Redis is away" in each.message]
        assert len(told) == 1


async def test_closing_waits_for_redis_to_come_back(multidb_settings: Settings):
    changes = {"redis_timeout": timedelta(seconds=0.2), "redis_breaker_pause": timedelta(seconds=0.1)}
    async with behind_proxy(multidb_settings.model_copy(update=changes)) as (proxy, settings):
        db = MultiDB(settings)
        await db.open()
        proxy.deaf = True
        for _ in range(10):
            await db.counters.increment("a")
        closing = asyncio.create_task(db.close())
        # A try that began before closing, and those after it, find Redis away.
        await asyncio.wait([closing], timeout=1)
        assert not closing.done()
        proxy.deaf = False
        await closing
    async with MultiDB(multidb_settings) as db:
        assert await db.counters.get("a", TODAY) == 10


async def test_who_waits_for_a_count_is_told_that_it_was_closed(multidb_settings: Settings):
    changes = {"close_timeout": timedelta(seconds=0.1)}
    async with behind_proxy(multidb_settings.model_copy(update=changes)) as (proxy, settings):
        async with MultiDB(settings) as db:
            proxy.deaf = True
            counting = asyncio.create_task(db.counters.increment("a"))
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            with pytest.raises(UnavailableError, match="closed"):
                await counting


async def test_what_cannot_be_stored_before_closing_is_told(multidb_settings: Settings, caplog):
    changes = {"redis_timeout": timedelta(seconds=0.5), "close_timeout": timedelta(seconds=1)}
    async with behind_proxy(multidb_settings.model_copy(update=changes)) as (proxy, settings):
        async with MultiDB(settings) as db:
            proxy.flowing.clear()
            await db.counters.increment("a")
        assert any("counts" in each.message and "lost" in each.message for each in caplog.records)
        proxy.flowing.set()
    with pytest.raises(NotOpenError):
        await db.counters.increment("a")


async def test_a_cancelled_caller_has_counted(db: MultiDB):
    calls = [asyncio.create_task(db.counters.increment("a")) for _ in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[1::2] == [None] * 25
    assert await db.counters.get("a", TODAY) == 50


@pytest.mark.parametrize("endpoint", ["", "x" * 501, None, 7, "\ud800", "é" * 400])
async def test_what_is_no_endpoint_is_refused(db: MultiDB, endpoint: Any):
    with pytest.raises(DataError):
        await db.counters.increment(endpoint)
    with pytest.raises(DataError):
        await db.counters.get(endpoint, TODAY)
    await db.counters.increment("a")


@pytest.mark.parametrize("by", [0, -1, 1.5, True, None, 10**12 + 1])
async def test_what_is_no_number_of_calls_is_refused(db: MultiDB, by: Any):
    with pytest.raises(DataError, match="`by`"):
        await db.counters.increment("a", by=by)
    assert await db.counters.get("a", TODAY) == 0


async def test_what_are_no_days_is_refused(db: MultiDB):
    wrong: list[tuple[Any, Any]] = [
        (TODAY, TODAY - timedelta(days=1)),
        (TODAY - timedelta(days=1000), TODAY),
        (datetime.now(UTC), TODAY),
        (TODAY, "2026-01-01"),
        (date.min, date.max),
    ]
    for first, last in wrong:
        with pytest.raises(DataError, match=r"`(first|last)`"):
            await db.counters.range("a", first, last)
    with pytest.raises(DataError, match="`limit`"):
        await db.counters.top(TODAY, limit=0)


@pytest.mark.mongo
async def test_a_rollup_takes_a_days_counts_once(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("multidb.repositories.counters.MAX_PAGE", 2)
    for endpoint, times in {"a": 3, "b": 1, "c}{ \n": 2, "d": 4, "e": 5}.items():
        await db.counters.increment(endpoint, by=times)
    begin = datetime.combine(TODAY, datetime.min.time(), UTC)
    day = begin, begin + timedelta(days=1)

    async def calls() -> dict[Any, int]:
        assert await db.counters.rollup(TODAY) == 5
        await db.usage_analytics.rollup()
        top = await db.usage_analytics.top("api_calls", *day, of="endpoint")
        return {each.value: each.count for each in top}

    assert await calls() == {"a": 3, "b": 1, "c}{ \n": 2, "d": 4, "e": 5}
    # Again, and with what was counted since: nothing counts twice.
    await db.counters.increment("a", by=4)
    assert (await calls())["a"] == 7
    assert (await calls())["a"] == 7
    assert (await db.usage_analytics.total("api_calls", *day)).sum == 19
    assert await db.counters.rollup(TODAY - timedelta(days=29)) == 0
    wrong: list[Any] = [TODAY + timedelta(days=1), TODAY - timedelta(days=30), datetime.now(UTC), None]
    for each in wrong:
        with pytest.raises(DataError, match="`day` must be"):
            await db.counters.rollup(each)
