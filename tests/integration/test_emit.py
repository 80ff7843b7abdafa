"""`emit`: it returns at once, and what it took is stored once, or counted."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from multidb import DataError, LogLevel, MultiDB, SystemLog, UnavailableError, uuid7
from multidb.models.emitted import Emitted
from multidb.settings import Settings

pytestmark = pytest.mark.mongo


def entry(level: str = "info", **values: Any) -> SystemLog:
    return SystemLog(**{"level": level, "service": "emit", "message": "m", **values})


async def stored(db: MultiDB) -> list[UUID]:
    return [each["_id"] async for each in db.mongo.database["system_logs"].find({}, {"_id": 1})]


def spilled(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*.spill")]


async def settled(db: MultiDB) -> Emitted:
    """Wait until nothing is pending, and return what became of all."""
    async with asyncio.timeout(20):
        while db.system_logs.emitted.pending or (  # noqa: ASYNC110 - one turn of the loop at a time
            db.settings.log_overflow == "spill" and db.system_logs.emitted.spilled
        ):
            await asyncio.sleep(0.01)
    return db.system_logs.emitted


@pytest.fixture
def quick(multidb_settings: Settings) -> Settings:
    """Settings that lose no time."""
    return multidb_settings.model_copy(
        update={
            "log_flush_interval": timedelta(seconds=0.02),
            "log_drain_timeout": timedelta(seconds=0.5),
            "connect_timeout": timedelta(seconds=1),
        }
    )


class Broken:
    """Stands between the store and the driver: says that MongoDB is away, before it was asked or after."""

    def __init__(self, db: MultiDB, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = self.after = 0
        self.calls: list[int] = []
        store = db.system_logs._emitter._store

        async def insert(documents: Sequence[Any]) -> Any:
            self.calls.append(len(documents))
            if self.before:
                self.before -= 1
                raise UnavailableError("away")
            answer = await store(documents)
            if self.after:
                self.after -= 1
                raise UnavailableError("the answer was lost")
            return answer

        monkeypatch.setattr(db.system_logs._emitter, "_store", insert)


@pytest.fixture
def broken(db: MultiDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    yield Broken(db, monkeypatch)


async def test_what_is_emitted_is_stored_soon_as_it_was_given(db: MultiDB):
    given = entry(user_id=uuid7(), request_id="r", context={"n": 1, "deep": {"list": [1, "two", None]}})
    db.system_logs.emit(given)
    assert db.system_logs.emitted.pending == 1
    assert (await settled(db)).stored == 1
    assert await db.system_logs.get(given.id) == given


async def test_entries_share_round_trips(db: MultiDB, broken: Broken):
    for _ in range(2500):
        db.system_logs.emit(entry())
    assert (await settled(db)).stored == 2500
    assert broken.calls == [1000, 1000, 500]


async def test_one_that_is_emitted_twice_or_was_appended_is_stored_once(db: MultiDB):
    given = entry()
    await db.system_logs.append(given)
    for _ in range(3):
        db.system_logs.emit(given)
    assert (await settled(db)).stored == 3
    assert await stored(db) == [given.id]


async def test_a_lost_acknowledgement_stores_nothing_twice(db: MultiDB, broken: Broken):
    broken.before, broken.after = 1, 2
    given = [entry() for _ in range(1500)]
    for each in given:
        db.system_logs.emit(each)
    counts = await settled(db)
    assert (counts.emitted, counts.stored, counts.refused) == (1500, 1500, 0)
    assert sorted(await stored(db)) == sorted(each.id for each in given)
    assert len(broken.calls) == 5


async def test_bad_entries_are_counted_and_take_none_along(db: MultiDB, caplog: pytest.LogCaptureFixture):
    bad: list[Any] = [
        entry(context={"a": object()}),
        entry(context={"a": 2**70}),
        entry(context={"a": "\ud800"}),
        entry(context={"a\0b": 1}),
        entry(context={"a": {"$gt": 1}}),
        entry(context={"a.b": 1}),
        entry(context={"a": "x" * 17_000_000}),
        entry().model_copy(update={"service": ""}),  # against the validator
        SystemLog.model_construct(id=uuid7()),  # type: ignore[call-arg]
        "no entry",
        None,
    ]
    good = [entry(context={"n": 1}) for _ in range(200)]
    for n, each in enumerate(good):
        db.system_logs.emit(each)
        if n % 15 == 10 and bad:
            db.system_logs.emit(bad.pop())
    counts = await settled(db)
    assert (counts.stored, counts.refused) == (200, 11)
    assert sorted(await stored(db)) == sorted(each.id for each in good)
    assert "emit" in caplog.text
    assert "(field service)" in caplog.text
    assert await db.system_logs.get(good[0].id) == good[0]


async def test_one_that_makes_mongodb_refuse_them_all_is_found(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    store = db.system_logs._emitter._store

    async def insert(documents: Sequence[Any]) -> Any:
        if any(each["message"] == "poison" for each in documents):
            return dict.fromkeys(range(len(documents)), DataError("one of them"))
        return await store(documents)

    monkeypatch.setattr(db.system_logs._emitter, "_store", insert)
    given = [entry(message="poison" if n in {7, 30} else "m") for n in range(40)]
    for each in given:
        db.system_logs.emit(each)
    counts = await settled(db)
    assert (counts.stored, counts.refused) == (38, 2)
    assert len(await stored(db)) == 38


async def test_both_ways_are_redacted(multidb_settings: Settings):
    settings = multidb_settings.model_copy(update={"redacted_keys": frozenset({"shoe_size"})})
    async with MultiDB(settings) as db:
        given = [
            entry(message="GET /?token=abc", context={"password": "x", "ShoeSize": 46}) for _ in range(2)
        ]
        db.system_logs.emit(given[0])
        await db.system_logs.append(given[1])
        await settled(db)
        for each in given:
            found = await db.system_logs.get(each.id)
            assert found is not None
            assert found.message == "GET /?token=[redacted]"
            assert found.context == {"password": "[redacted]", "ShoeSize": "[redacted]"}
        # Not the caller's own.
        assert given[0].context["password"] == "x"


async def test_an_application_brings_its_own_redaction(multidb_settings: Settings):
    def redact(document: dict[str, Any]) -> dict[str, Any]:
        if "forbidden" in document["context"]:
            raise ValueError("do not store")
        return {**document, "message": document["message"].upper()}

    async with MultiDB(multidb_settings, redact=redact) as db:
        first, second = entry(message="a"), entry(message="b", context={"forbidden": 1})
        db.system_logs.emit(first)
        db.system_logs.emit(second)
        assert (await settled(db)).refused == 1
        found = await db.system_logs.get(first.id)
        assert found is not None
        assert found.message == "A"
        with pytest.raises(ValueError, match="do not store"):
            await db.system_logs.append(second)
        assert await stored(db) == [first.id]


async def test_threads_emit(db: MultiDB):
    def work() -> None:
        for _ in range(200):
            db.system_logs.emit(entry())

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
    counts = await settled(db)
    assert counts.stored == 800
    assert len(await stored(db)) == 800


def test_before_and_after_every_loop(quick: Settings):
    """What is emitted while no loop runs waits for the next one."""
    db = MultiDB(quick)
    db.system_logs.emit(entry())

    async def use() -> int:
        async with db:
            db.system_logs.emit(entry())
            await settled(db)
            return len(await stored(db))

    assert asyncio.run(use()) == 2
    db.system_logs.emit(entry())
    assert db.system_logs.emitted.pending == 1
    assert asyncio.run(use()) == 4
    assert db.system_logs.emitted.stored == 4


# Whose loop is gone, PyMongo cannot close its connections.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ends_without_closing_loses_nothing(quick: Settings):
    db = MultiDB(quick)

    async def abandon() -> None:
        await db.mongo.open()
        db._connections._loop = asyncio.get_running_loop()
        for _ in range(50):
            db.system_logs.emit(entry())
        await asyncio.sleep(0)

    asyncio.run(abandon())
    thread = threading.Thread(target=db.system_logs.emit, args=(entry(),))
    thread.start()
    thread.join()

    async def use() -> None:
        async with db:
            await settled(db)
            assert len(await stored(db)) == 51

    asyncio.run(use())


async def test_closing_stores_what_waits(quick: Settings):
    never, long = timedelta(hours=1), timedelta(seconds=30)
    db = MultiDB(quick.model_copy(update={"log_flush_interval": never, "log_drain_timeout": long}))
    before = asyncio.all_tasks()
    async with db:
        for _ in range(3000):
            db.system_logs.emit(entry())
    assert asyncio.all_tasks() == before
    counts = db.system_logs.emitted
    assert (counts.stored, counts.pending) == (3000, 0)
    async with db:
        assert len(await stored(db)) == 3000


def away(settings: Settings, port: int, **update: Any) -> Settings:
    return settings.model_copy(
        update={
            "mongo_url": SecretStr(f"mongodb://127.0.0.1:{port}/d"),
            "degradable_stores": frozenset({"mongo"}),
            **update,
        }
    )


@pytest.mark.parametrize("cancelled", [True, False])
async def test_closing_ends_at_its_deadline_and_counts_what_it_sheds(
    quick: Settings, unused_tcp_port: int, cancelled: bool
):
    db = MultiDB(away(quick, unused_tcp_port))
    before = asyncio.all_tasks()
    await db.open()
    for level in LogLevel:
        for _ in range(10):
            db.system_logs.emit(entry(level))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        closing = asyncio.create_task(db.close())
        if cancelled:
            await asyncio.sleep(0.05)
            closing.cancel()
        await asyncio.wait([closing])
    assert asyncio.all_tasks() == before
    counts = db.system_logs.emitted
    assert counts.shed == {level.value: 10 for level in LogLevel}
    assert counts.pending == 0
    assert db.mongo.pool_usage() is None


async def test_while_mongodb_is_away_the_least_grave_are_shed(quick: Settings, unused_tcp_port: int):
    settings = away(quick, unused_tcp_port, log_buffer_entries=100, log_drain_timeout=timedelta(seconds=0.1))
    async with MultiDB(settings) as db:
        for level in ("debug", "error", "info"):
            for _ in range(80):
                db.system_logs.emit(entry(level))
        assert db.system_logs.emitted.shed == {"debug": 80, "info": 60}
        assert db.system_logs.emitted.pending == 100


async def test_what_was_spilled_is_stored_once_there_is_room(quick: Settings, tmp_path: Path):
    settings = quick.model_copy(
        update={"log_overflow": "spill", "log_spill_directory": tmp_path, "log_buffer_entries": 100}
    )
    async with MultiDB(settings) as db:
        given = [entry() for _ in range(5000)]
        for each in given:
            db.system_logs.emit(each)
        assert db.system_logs.emitted.spilled > 4000
        counts = await settled(db)
        assert (counts.stored, counts.spilled, counts.shed) == (5000, 0, {})
        assert sorted(await stored(db)) == sorted(each.id for each in given)
        assert spilled(tmp_path) == []


async def test_what_one_process_leaves_in_files_the_next_one_stores(
    quick: Settings, tmp_path: Path, unused_tcp_port: int
):
    spilling = {"log_overflow": "spill", "log_spill_directory": tmp_path}
    url = quick.mongo_url.get_secret_value()
    elsewhere = SecretStr(f"mongodb://127.0.0.1:{unused_tcp_port}/{url.rpartition('/')[2]}")
    given = [entry(context={"token": "x"}) for _ in range(1500)]
    async with MultiDB(away(quick, 1, **spilling, mongo_url=elsewhere)) as db:
        for each in given:
            db.system_logs.emit(each)
    assert db.system_logs.emitted.spilled == 1500
    # Nothing secret in the files.
    assert all(b"[redacted]" in each for each in spilled(tmp_path))
    async with MultiDB(quick.model_copy(update=spilling)) as following:
        async with asyncio.timeout(20):
            while following.system_logs.emitted.recovered < 1500:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert sorted(await stored(following)) == sorted(each.id for each in given)
        assert following.system_logs.emitted.emitted == 0
    assert spilled(tmp_path) == []


async def test_the_spilling_goes_on_while_mongodb_is_away(
    quick: Settings, tmp_path: Path, unused_tcp_port: int
):
    """From half of the room on the task writes, so that no caller has to."""
    settings = away(
        quick,
        unused_tcp_port,
        log_overflow="spill",
        log_spill_directory=tmp_path,
        log_buffer_entries=1000,
    )
    async with MultiDB(settings) as db:
        db.system_logs.emit(entry())
        async with asyncio.timeout(20):
            # What is on its way is not in the buffer.
            while not db.system_logs._emitter._backlog.on_the_way:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            for _ in range(600):
                db.system_logs.emit(entry())
            while not db.system_logs.emitted.spilled:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_an_emit_inside_a_transaction_is_no_part_of_it(db: MultiDB):
    """Also where it is the first, whose caller's context the task would have."""
    given = entry()
    with pytest.raises(KeyError):
        async with db.mongo_transaction():
            db.system_logs.emit(given)
            await settled(db)
            raise KeyError
    assert await stored(db) == [given.id]
