"""API requests: counts, error rates and percentiles are what Python makes of the same logs."""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from multidb import ApiRequestLog, DataError, MultiDB, RequestStats
from multidb.models import HttpMethod
from multidb.repositories.api_request_logs import Of
from multidb.repositories.request_pipelines import middle
from multidb.repositories.usage_pipelines import GRANULARITIES
from multidb.repositories.windows import Unit, begin, end, windows

from .plans_of_mongo import scanned

pytestmark = pytest.mark.mongo

#: Early in a month, so that a few days are of two months; and lately, lest the logs be deleted.
NOW = begin(datetime.now(UTC) - timedelta(days=2), "month") + timedelta(days=1, hours=5, minutes=30)
TODAY = begin(NOW, "day")
FIRST = TODAY - timedelta(days=3)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.repositories.api_request_logs.utc_now", lambda: NOW)


def request(at: datetime, took: float, **values: Any) -> ApiRequestLog:
    made = {"service": "shop", "method": "GET", "endpoint": "/", "status": 200, **values}
    return ApiRequestLog(timestamp=at, duration_ms=took, **made)


def requests(seed: int, count: int) -> list[ApiRequestLog]:
    """Return logs of six windows, many on their edges, from less than a microsecond to minutes."""
    chance = random.Random(seed)
    edges = [FIRST, begin(NOW, "month"), TODAY - timedelta(days=2), TODAY, begin(NOW, "hour")]
    methods: list[HttpMethod] = ["GET", "POST"]
    made = []
    for _ in range(count):
        off = chance.choice([-1, 0, 1, chance.randrange(3_000_000)])
        at = min(max(chance.choice(edges) + timedelta(milliseconds=off), FIRST), NOW)
        took = chance.choice([0.0, 0.0004, 12.0, chance.random(), chance.lognormvariate(3, 2)])
        made.append(
            request(
                at,
                took,
                endpoint=chance.choice(["/", "/users/{id}", "/orders"]),
                method=chance.choice(methods),
                status=chance.choice([200, 200, 204, 302, 404, 499, 500, 503]),
            )
        )
    return made


async def store(db: MultiDB, logs: Sequence[ApiRequestLog]) -> None:
    documents = [db.api_request_logs._encoded(each, "t") for each in logs]
    assert await db.mongo.insert_many("api_request_logs", documents, operation="t") == {}


def nearest_rank(values: Sequence[float], percent: int) -> float:
    return sorted(values)[math.ceil(percent * len(values) / 100) - 1]


def check(stats: RequestStats, logs: Sequence[ApiRequestLog], *, close: float = 1e-9) -> None:
    """Hold what MongoDB says against what Python makes of the same logs."""
    assert stats.requests == len(logs)
    assert stats.errors == sum(each.status >= 500 for each in logs)
    if not logs:
        assert stats.error_rate == 0
        assert {stats.p50_ms, stats.p99_ms, stats.mean_ms, stats.max_ms} == {None}
        return
    assert stats.error_rate == pytest.approx(stats.errors / len(logs))
    took = [each.duration_ms for each in logs]
    assert stats.mean_ms == pytest.approx(sum(took) / len(took), rel=1e-9, abs=close)
    assert stats.min_ms == pytest.approx(min(took), abs=close)
    assert stats.max_ms == pytest.approx(max(took), abs=close)
    for percent, told in ((50, stats.p50_ms), (95, stats.p95_ms), (99, stats.p99_ms)):
        # What is below a microsecond is told apart by nobody.
        assert told == pytest.approx(nearest_rank(took, percent), rel=0.0100001, abs=0.001)


def within(logs: Sequence[ApiRequestLog], first: datetime, last: datetime) -> list[ApiRequestLog]:
    return [each for each in logs if first <= each.timestamp < last]


@pytest.mark.parametrize("rolled", [False, True])
async def test_stats_are_what_python_makes_of_the_logs(db: MultiDB, rolled: bool):
    logs = requests(seed=2, count=600)
    await store(db, logs)
    # To a microsecond, where they are rolled up.
    close = 0.0005 if rolled else 1e-9
    last = begin(NOW, "hour") + timedelta(hours=1)
    if rolled:
        assert await db.api_request_logs.rollup(since=FIRST)
    units: list[Unit] = ["hour", "day", "month"] if rolled else ["minute", "hour", "day", "week", "month"]
    for by in units:
        first = last - timedelta(hours=3) if by in {"minute", "hour"} else FIRST
        found = await db.api_request_logs.range(first, last, by=by, rolled=rolled)
        assert [each.start for each in found] == list(windows(first, last, by))
        for each in found:
            check(each, within(logs, each.start, end(each.start, by)), close=close)
    total = await db.api_request_logs.total(FIRST, last, by="day", rolled=rolled)
    check(total, logs, close=close)
    some = [each for each in logs if each.endpoint == "/orders" and each.method == "POST"]
    selected = await db.api_request_logs.total(
        FIRST, last, by="month", rolled=rolled, endpoint="/orders", method="POST"
    )
    check(selected, some, close=close)
    parts: list[Of] = ["endpoint", "method"]
    for of in parts:
        top = await db.api_request_logs.top(FIRST, last, of=of, by="day", rolled=rolled)
        shares = {
            value: [each for each in logs if getattr(each, of) == value]
            for value in {getattr(each, of) for each in logs}
        }
        assert [each.value for each in top] == sorted(shares, key=lambda of: (-len(shares[of]), of))
        for share in top:
            check(share, shares[share.value], close=close)


@pytest.mark.parametrize("rolled", [False, True])
async def test_the_greatest_come_first_and_equals_by_the_alphabet(db: MultiDB, rolled: bool):
    at = begin(NOW, "hour")
    await store(
        db,
        [
            *(request(at, 5, endpoint="/b") for _ in range(3)),
            *(request(at, 5, endpoint="/a", status=status) for status in (200, 200, 500)),
            *(request(at, 50, endpoint="/c", status=status) for status in (500, 500)),
        ],
    )
    await db.api_request_logs.rollup()

    async def first(order_by: Any, limit: int = 10) -> list[str]:
        top = await db.api_request_logs.top(
            at, NOW + timedelta(seconds=1), order_by=order_by, limit=limit, rolled=rolled
        )
        return [each.value for each in top]

    assert await first("requests") == ["/a", "/b", "/c"]
    assert await first("errors") == ["/c", "/a", "/b"]
    assert await first("error_rate", limit=1) == ["/c"]
    assert await first("p95_ms") == ["/c", "/a", "/b"]
    assert await first("mean_ms") == ["/c", "/a", "/b"]


async def test_no_requests_are_none(db: MultiDB):
    last = TODAY + timedelta(days=1)
    for rolled in (False, True):
        assert await db.api_request_logs.total(TODAY, last, rolled=rolled) == RequestStats()
        assert await db.api_request_logs.top(TODAY, last, rolled=rolled) == []
        (day,) = await db.api_request_logs.range(TODAY, last, by="day", rolled=rolled)
        assert day.requests == 0
    assert await db.api_request_logs.rollup() == 4


async def test_a_total_of_the_logs_ends_where_it_says(db: MultiDB):
    at = TODAY - timedelta(hours=1)
    await store(db, [request(at + timedelta(minutes=each), 1) for each in range(5)])
    total = await db.api_request_logs.total(at + timedelta(minutes=1), at + timedelta(minutes=3))
    assert total.requests == 2
    whole = await db.api_request_logs.range(at + timedelta(minutes=1), at + timedelta(minutes=3))
    assert [each.requests for each in whole] == [5]


async def test_a_rollup_may_run_twice_and_takes_what_came_late(db: MultiDB):
    at = begin(NOW, "hour")
    await store(db, [request(at, 1) for _ in range(3)])
    for _ in range(2):
        await db.api_request_logs.rollup()
    last = NOW + timedelta(seconds=1)
    assert (await db.api_request_logs.total(at, last, by="month", rolled=True)).requests == 3
    old = at - timedelta(days=3)
    await store(db, [request(old, 1), request(at, 9)])
    await db.api_request_logs.rollup()
    assert (await db.api_request_logs.total(old, last, by="day", rolled=True)).requests == 4
    await db.api_request_logs.rollup(since=old)
    assert (await db.api_request_logs.total(old, last, by="day", rolled=True)).requests == 5


async def test_a_duration_that_cannot_be_keeps_no_other_from_being_added_up(db: MultiDB):
    at = begin(NOW, "hour")
    # Nanoseconds since 1970, as of a clock that was not subtracted from.
    await store(db, [request(at, 1.8e18), request(at, 2)])
    await db.api_request_logs.rollup()
    total = await db.api_request_logs.total(at, at + timedelta(hours=1), rolled=True)
    assert (total.requests, total.min_ms, total.max_ms) == (2, 2, 1e9)


async def test_what_is_rolled_up_outlives_its_logs(db: MultiDB):
    at = begin(NOW, "hour")
    await store(db, [request(at, 1) for _ in range(3)])
    await db.api_request_logs.rollup()
    await db.mongo.database["api_request_logs"].delete_many({})
    await store(db, [request(at, 1)])
    await db.api_request_logs.rollup()
    for by in GRANULARITIES:
        total = await db.api_request_logs.total(at, NOW + timedelta(seconds=1), by=by, rolled=True)
        assert total.requests == 3


def test_the_middle_of_a_bucket_is_near_to_all_in_it() -> None:
    growth = 1.01 / 0.99
    for bucket in range(-400, 1000, 7):
        low, high = growth ** (bucket - 1), growth**bucket
        assert abs(middle(bucket) - low) / low <= 0.01 + 1e-9
        assert abs(middle(bucket) - high) / high <= 0.01 + 1e-9
    assert all(a < b for a, b in pairwise(map(middle, range(-400, 1000))))


async def test_the_questions_use_indexes(db: MultiDB):
    await store(db, requests(seed=3, count=50))
    with scanned(db) as scans:
        await db.api_request_logs.rollup()
        whose: list[dict[str, Any]] = [{}, {"endpoint": "/"}, {"service": "shop"}]
        for selected in whose:
            for rolled in (False, True):
                await db.api_request_logs.range(TODAY, NOW, rolled=rolled, **selected)
                await db.api_request_logs.total(TODAY, NOW, rolled=rolled, **selected)
                await db.api_request_logs.top(TODAY, NOW, rolled=rolled, **selected)
    assert await scans() == []


async def test_a_question_that_does_not_fit_is_refused(db: MultiDB):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"first": datetime(2026, 1, 1)}, "first"),  # noqa: DTZ001
        ({"last": TODAY}, "last"),
        ({"by": "year"}, "by"),
        ({"by": "week", "rolled": True}, "by"),
        ({"by": "minute", "first": TODAY - timedelta(days=8)}, "windows"),
        ({"method": "get"}, "method"),
        ({"endpoint": 5}, "endpoint"),
    ]
    requests = db.api_request_logs
    for values, named in wrong:
        for question in (requests.range, requests.total, requests.top):
            with pytest.raises(DataError, match=named):
                await question(**{"first": TODAY, "last": NOW, **values})
    for values in ({"of": "user_id"}, {"order_by": "p42_ms"}, {"limit": 0}):
        with pytest.raises(DataError, match=next(iter(values))):
            await requests.top(TODAY, NOW, **values)
    with pytest.raises(DataError, match="since"):
        await requests.rollup(since=NOW - timedelta(days=500))
