"""Usage: whatever is recorded counts once, and adds up by hour, day and month as Python adds it up."""

import asyncio
import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from multidb import (
    DataError,
    MultiDB,
    MultiDBError,
    NotOpenError,
    TransactionError,
    UnavailableError,
    Usage,
    UsageShare,
    UsageWindow,
    uuid7,
)
from multidb.models.usage_analytics import Granularity
from multidb.repositories.usage_pipelines import GRANULARITIES
from multidb.repositories.windows import begin, windows
from multidb.settings import Settings

from .mongo import lossy
from .plans_of_mongo import scanned

pytestmark = pytest.mark.mongo

NOW = datetime.now(UTC)
#: An hour that nothing of this test run can be late for.
HOUR = begin(NOW, "hour") - timedelta(days=3)
ADA, BOB, SHOP, BANK = (uuid7() for _ in range(4))


class Record(NamedTuple):
    at: datetime
    amount: int
    company_id: UUID | None
    user_id: UUID | None
    dimensions: dict[str, str]


def recorded(seed: int, count: int) -> list[Record]:
    """Return records of the last month, many on the edges of hours, days and months."""
    chance = random.Random(seed)
    first = begin(NOW - timedelta(days=28), "day")
    month = begin(NOW - timedelta(days=25), "month") if NOW.day < 4 else begin(NOW, "month")
    edges = [first, month, begin(NOW, "day"), *windows(NOW - timedelta(hours=2), NOW, "hour")]
    made = []
    for _ in range(count):
        at = chance.choice(edges) + timedelta(milliseconds=chance.choice([-1, 0, 1, chance.randrange(10**7)]))
        at = min(max(at, first), NOW)
        of = {"endpoint": chance.choice("abc")} if chance.random() < 0.8 else {}
        if chance.random() < 0.3:
            of["plan"] = "free"
        who = chance.choice([None, ADA, BOB]), chance.choice([None, SHOP, BANK])
        made.append(Record(at, chance.randrange(-50, 100), who[1], who[0], of))
    return made


def record(db: MultiDB, records: Sequence[Record], metric: str = "calls") -> None:
    for each in records:
        db.usage_analytics.record(
            metric,
            amount=each.amount,
            at=each.at,
            company_id=each.company_id,
            user_id=each.user_id,
            **each.dimensions,
        )


def usage(records: Sequence[Record]) -> dict[str, Any]:
    amounts = [each.amount for each in records]
    return {
        "count": len(amounts),
        "sum": sum(amounts),
        "min": min(amounts, default=None),
        "max": max(amounts, default=None),
        "users": len({each.user_id for each in records} - {None}),
    }


def expected(
    records: Sequence[Record], first: datetime, last: datetime, by: Granularity
) -> list[UsageWindow]:
    """Return what `range` must give."""
    return [
        UsageWindow(start=start, **usage([each for each in records if begin(each.at, by) == start]))
        for start in windows(first, last, by)
    ]


# --- adding up


async def test_windows_are_what_python_adds_up(db: MultiDB):
    records = recorded(seed=1, count=400)
    record(db, records)
    record(db, records[:7], metric="other")
    await db.usage_analytics.flush()
    assert await db.usage_analytics.rollup()
    for by in GRANULARITIES:
        await assert_added_up(db, records, by)


async def assert_added_up(db: MultiDB, records: Sequence[Record], by: Granularity) -> None:
    first, last = NOW - timedelta(days=29), NOW + timedelta(hours=1)
    assert await db.usage_analytics.range("calls", first, last, by=by) == expected(records, first, last, by)
    some = [each for each in records if each.company_id == SHOP and each.dimensions.get("endpoint") == "a"]
    assert await db.usage_analytics.range(
        "calls", first, last, by=by, company_id=SHOP, endpoint="a"
    ) == expected(some, first, last, by)
    hers = [each for each in records if each.user_id == ADA]
    assert await db.usage_analytics.range("calls", first, last, by=by, user_id=ADA) == expected(
        hers, first, last, by
    )
    total = await db.usage_analytics.total("calls", first, last, by=by, plan="free")
    assert total == Usage(**usage([each for each in records if "plan" in each.dimensions]))
    for of in ("company_id", "user_id", "endpoint", "plan"):
        shares: dict[Any, list[Record]] = {}
        for each in records:
            value = each.dimensions.get(of, getattr(each, of, None))
            if value is not None:
                shares.setdefault(value, []).append(each)
        top = sorted(
            (UsageShare(value=value, **usage(several)) for value, several in shares.items()),
            key=lambda share: (-share.sum, share.value),
        )
        assert await db.usage_analytics.top("calls", first, last, of=of, by=by, limit=2) == top[:2]


async def test_windows_end_before_the_next_begins(db: MultiDB):
    day = begin(NOW, "day") - timedelta(days=2)
    last = day + timedelta(days=1) - timedelta(milliseconds=1)
    for at in (day, last, last + timedelta(milliseconds=1)):
        db.usage_analytics.record("calls", at=at)
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    days = await db.usage_analytics.range("calls", day, day + timedelta(days=2))
    assert [(each.start, each.count) for each in days] == [(day, 2), (day + timedelta(days=1), 1)]
    # The window in which a span begins is whole; one that begins where the span ends is none of it.
    assert await db.usage_analytics.range("calls", last, day + timedelta(days=1)) == days[:1]
    hours = await db.usage_analytics.range("calls", day, day + timedelta(days=1), by="hour")
    assert [each.count for each in hours] == [1, *[0] * 22, 1]


async def test_a_moment_of_another_zone_counts_in_its_day_of_utc(db: MultiDB):
    midnight = begin(NOW, "day") - timedelta(days=1)
    tokyo = timezone(timedelta(hours=9))
    db.usage_analytics.record("calls", at=(midnight - timedelta(seconds=1)).astimezone(tokyo))
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    counts = [
        each.count
        for each in await db.usage_analytics.range(
            "calls", (midnight - timedelta(days=1)).astimezone(tokyo), midnight + timedelta(days=1)
        )
    ]
    assert counts == [1, 0]


async def test_equal_sums_come_by_value(db: MultiDB):
    for name in "cab":
        db.usage_analytics.record("calls", at=HOUR, endpoint=name)
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    top = await db.usage_analytics.top("calls", HOUR, NOW, of="endpoint", limit=2)
    assert [each.value for each in top] == ["a", "b"]


async def test_nothing_counted_is_nothing(db: MultiDB):
    assert await db.usage_analytics.rollup() == 0
    assert await db.usage_analytics.total("calls", HOUR, NOW) == Usage()
    assert await db.usage_analytics.top("calls", HOUR, NOW, of="endpoint") == []


async def test_a_rollup_takes_what_is_new_and_may_run_twice(db: MultiDB):
    db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    assert await db.usage_analytics.rollup() == 3
    assert await db.usage_analytics.rollup() == 0
    # Late: its hour was added up before.
    db.usage_analytics.record("calls", at=HOUR + timedelta(minutes=59), amount=5)
    await db.usage_analytics.flush()
    assert await asyncio.gather(*(db.usage_analytics.rollup() for _ in range(3)))
    (hour,) = await db.usage_analytics.range("calls", HOUR, HOUR + timedelta(hours=1), by="hour")
    assert (hour.count, hour.sum, hour.max) == (2, 6, 5)
    assert (await db.usage_analytics.total("calls", HOUR, NOW, by="month")).sum == 6


async def test_a_rollup_that_failed_is_made_up_for(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    aggregate = db.mongo.aggregate
    for calls in range(5):
        left = calls

        async def failing(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise UnavailableError("gone", store="mongo")
            return await aggregate(*args, **options)

        monkeypatch.setattr(db.mongo, "aggregate", failing)
        if calls < 4:
            with pytest.raises(UnavailableError):
                await db.usage_analytics.rollup()
    assert await db.usage_analytics.rollup() == 3
    monkeypatch.undo()
    assert (await db.usage_analytics.total("calls", HOUR, NOW, by="month")).count == 1


async def test_what_is_stored_during_a_rollup_is_taken_by_the_next(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    aggregate = db.mongo.aggregate

    async def interrupted(collection: str, pipeline: Any, **options: Any) -> Any:
        found = await aggregate(collection, pipeline, **options)
        if "$merge" in pipeline[-1]:
            monkeypatch.undo()
            db.usage_analytics.record("calls", at=HOUR)
            await db.usage_analytics.flush()
        return found

    monkeypatch.setattr(db.mongo, "aggregate", interrupted)
    await db.usage_analytics.rollup()
    assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 1
    await db.usage_analytics.rollup()
    assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 2


async def test_a_slow_rollup_does_not_undo_a_later_one(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """What the slow one would write, it read before the later one."""
    db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    stored = db.mongo.database["usage_analytics"]
    old = await stored.find_one({"by": "hour"})
    db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    await stored.update_many({"by": "tally"}, {"$set": {"count": 1, "sum": 1, "pending": uuid7()}})
    await db.usage_analytics.rollup()
    assert (await stored.find_one({"by": "hour"})) == old | {"count": 2, "sum": 2}


async def test_expired_tallies_stay_counted(db: MultiDB):
    """A late record must not make its hour be only what is left of it."""
    for _ in range(2):
        db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    await db.mongo.database["usage_analytics"].delete_many({"by": "tally"})
    async with MultiDB(db.settings) as other:
        other.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.rollup()
    assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 2


async def test_records_and_rollups_at_once_lose_nothing(db: MultiDB):
    """Two processes record and flush, two others roll up, all the time."""
    done = asyncio.Event()

    async def work(each: MultiDB, count: int) -> None:
        for n in range(count):
            each.usage_analytics.record("calls", amount=n, at=HOUR + timedelta(hours=n % 3), user_id=ADA)
            if n % 5 == 0:
                await each.usage_analytics.flush()

    async def add_up(each: MultiDB) -> None:
        while not done.is_set():
            await each.usage_analytics.rollup()

    async with MultiDB(db.settings) as other, asyncio.TaskGroup() as group:
        for each in (db, other):
            group.create_task(add_up(each))
        await asyncio.gather(work(db, 200), work(other, 200))
        done.set()
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    total = await db.usage_analytics.total("calls", HOUR, NOW, by="month")
    assert total == Usage(count=400, sum=2 * sum(range(200)), min=0, max=199, users=1)


# --- counting once


@pytest.mark.parametrize(("retries", "losses"), [("true", 2), ("false", 1)])
async def test_a_flush_whose_answer_is_lost_counts_once(
    multidb_settings: Settings, retries: str, losses: int
):
    """With the driver's own retry, whose answer is lost too, and without."""
    by_hand = multidb_settings.model_copy(update={"usage_flush_interval": timedelta(hours=1)})
    async with (
        lossy(by_hand, command="update", retryWrites=retries) as (settings, network),
        MultiDB(settings) as db,
    ):
        for n in range(2):
            db.usage_analytics.record("calls", at=HOUR, amount=n)
            for _ in range(2):
                network.losses = losses
                with pytest.raises(UnavailableError):
                    await db.usage_analytics.flush()
                assert network.losses == 0
                db.usage_analytics.record("calls", at=HOUR, amount=10)
        await db.usage_analytics.flush()
        await db.usage_analytics.rollup()
        assert await db.usage_analytics.total("calls", HOUR, NOW) == Usage(count=6, sum=41, min=0, max=10)


async def test_a_flush_that_arrives_after_a_newer_changes_nothing(db: MultiDB):
    db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    stored = db.mongo.database["usage_analytics"]
    old = await stored.find_one()
    db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    new = await stored.find_one()
    assert new == old | {"count": 2, "sum": 2}
    assert await db.mongo.advance("usage_analytics", [old], by="count", operation="t") == {}
    assert await stored.find_one() == new


# A connection that PyMongo was making when it was cancelled closes only when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_cancelled_flush_is_made_up_for(db: MultiDB):
    chance = random.Random(4)
    for n in range(60):
        db.usage_analytics.record("calls", at=HOUR, amount=n)
        flush = asyncio.create_task(db.usage_analytics.flush())
        await asyncio.sleep(chance.random() * 0.003)
        flush.cancel()
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    total = await db.usage_analytics.total("calls", HOUR, NOW)
    assert total == Usage(count=60, sum=sum(range(60)), min=0, max=59)


async def test_what_is_recorded_is_stored_soon_and_each_key_once(multidb_settings: Settings):
    settings = multidb_settings.model_copy(update={"usage_flush_interval": timedelta(milliseconds=20)})
    async with MultiDB(settings) as db:
        stored = db.mongo.database["usage_analytics"]
        for _ in range(1000):
            db.usage_analytics.record("calls", at=HOUR)
        async with asyncio.timeout(30):
            while not (found := await stored.find().to_list(None)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert [each["count"] for each in found] == [1000]
            db.usage_analytics.record("calls", at=HOUR)
            while (await stored.find_one())["count"] < 1001:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # What the day's queries read has no documents of processes that ended.
        assert await stored.count_documents({}) == 1


async def test_closing_stores_what_waits_and_opening_again_goes_on(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    db.usage_analytics.record("calls", at=HOUR)  # before it is open
    before = asyncio.all_tasks()
    async with db:
        db.usage_analytics.record("calls", at=HOUR)
    assert asyncio.all_tasks() == before
    db.usage_analytics.record("calls", at=HOUR)
    with pytest.raises(NotOpenError):
        await db.usage_analytics.flush()
    async with db:
        await db.usage_analytics.flush()
        await db.usage_analytics.rollup()
        assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 3


async def test_closing_tries_until_mongodb_takes_it(
    multidb_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    async with MultiDB(multidb_settings) as db:
        tallies = db.usage_analytics._tallies
        advance = tallies._advance

        async def fails(_: object) -> dict[int, MultiDBError]:
            monkeypatch.setattr(tallies, "_advance", advance)
            raise UnavailableError("it is away for a moment")

        monkeypatch.setattr(tallies, "_advance", fails)
        db.usage_analytics.record("calls")
    async with MultiDB(multidb_settings) as db:
        assert await db.usage_analytics.count(metric="calls", by="tally") == 1


async def test_any_thread_may_record(db: MultiDB):
    def work() -> None:
        for _ in range(500):
            db.usage_analytics.record("calls", at=HOUR)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        await asyncio.sleep(0)
        await db.usage_analytics.flush()
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 2000


async def test_memory_is_bounded_and_what_finds_no_room_is_told(multidb_settings: Settings):
    async with MultiDB(multidb_settings.model_copy(update={"usage_tallies": 100})) as db:
        for _ in range(3):
            for n in range(100):
                db.usage_analytics.record("calls", at=HOUR, endpoint=str(n))
            # Those that are stored make room for others.
            await db.usage_analytics.flush()
            for n in range(100, 150):
                db.usage_analytics.record("calls", at=HOUR, endpoint=str(n))
            await db.usage_analytics.flush()
        assert db.usage_analytics.lost == 0
        for n in range(150):
            db.usage_analytics.record("more", at=HOUR, endpoint=str(n))
        assert db.usage_analytics.lost == 50
        await db.usage_analytics.flush()
        await db.usage_analytics.rollup()
        assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 450
        assert (await db.usage_analytics.total("more", HOUR, NOW)).count == 100


async def test_a_tally_that_mongodb_refuses_keeps_none_from_being_stored(db: MultiDB):
    command = {"collMod": "usage_analytics", "validator": {"dimensions.endpoint": {"$ne": "bad"}}}
    listed = await db.mongo.database.command("listCollections", filter={"name": "usage_analytics"})
    before = listed["cursor"]["firstBatch"][0]["options"]["validator"]
    await db.mongo.command(command, operation="t")
    try:
        for name in ("good", "bad", "fine"):
            db.usage_analytics.record("calls", at=HOUR, endpoint=name)
        with pytest.raises(MultiDBError, match="validator"):
            await db.usage_analytics.flush()
        assert db.usage_analytics.lost == 1
        await db.usage_analytics.flush()
        await db.usage_analytics.rollup()
        top = await db.usage_analytics.top("calls", HOUR, NOW, of="endpoint")
        assert [each.value for each in top] == ["fine", "good"]
    finally:
        await db.mongo.command({**command, "validator": before}, operation="t")


async def test_the_greatest_sums_are_stored(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("multidb.stores.mongo.tallies._FULL", 3)
    for _ in range(7):
        db.usage_analytics.record("bytes", at=HOUR, amount=10**12)
    db.usage_analytics.record("bytes", at=HOUR, amount=-(10**12))
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    total = await db.usage_analytics.total("bytes", HOUR, NOW)
    assert total == Usage(count=8, sum=6 * 10**12, min=-(10**12), max=10**12)
    assert await db.mongo.database["usage_analytics"].count_documents({"by": "tally"}) == 3


async def test_the_questions_and_the_rollup_use_indexes(db: MultiDB):
    record(db, recorded(seed=5, count=50))
    await db.usage_analytics.flush()
    with scanned(db) as scans:
        await db.usage_analytics.rollup()
        whoses: list[dict[str, Any]] = [
            {},
            {"company_id": SHOP},
            {"user_id": ADA},
            {"endpoint": "a"},
        ]
        for by in GRANULARITIES:
            for whose in whoses:
                await db.usage_analytics.range("calls", HOUR, NOW, by=by, **whose)
            await db.usage_analytics.total("calls", HOUR, NOW, by=by)
            for of in ("company_id", "user_id", "endpoint"):
                await db.usage_analytics.top("calls", HOUR, NOW, by=by, of=of)
    assert await scans() == []


# --- transactions


async def test_what_is_counted_in_a_transaction_stays_counted_if_it_is_rolled_back(db: MultiDB):
    with pytest.raises(ZeroDivisionError):
        async with db.mongo_transaction():
            db.usage_analytics.record("calls", at=HOUR)
            await db.usage_analytics.flush()
            raise ZeroDivisionError
    async with db.mongo_transaction():
        with pytest.raises(TransactionError):
            await db.usage_analytics.rollup()
        with pytest.raises(TransactionError):
            await db.api_request_logs.rollup()
    await db.usage_analytics.rollup()
    async with db.mongo_transaction():
        assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 1


# --- whose


async def test_a_tenant_sees_and_adds_its_own_usage(db: MultiDB):
    async with db.tenant(SHOP):
        db.usage_analytics.record("calls", at=HOUR)
        with pytest.raises(DataError, match="company_id"):
            db.usage_analytics.record("calls", at=HOUR, company_id=BANK)
    async with db.tenant(BANK):
        db.usage_analytics.record("calls", at=HOUR)
    await db.usage_analytics.flush()
    await db.usage_analytics.rollup()
    assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 2
    async with db.tenant(SHOP):
        assert (await db.usage_analytics.total("calls", HOUR, NOW)).count == 1
        top = await db.usage_analytics.top("calls", HOUR, NOW, of="company_id")
        assert [each.value for each in top] == [SHOP]
        assert {each.company_id for each in (await db.usage_analytics.find()).items} == {SHOP}
        with pytest.raises(DataError, match="company_id"):
            await db.usage_analytics.range("calls", HOUR, NOW, company_id=BANK)
