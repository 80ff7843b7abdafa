"""`tail`: every entry once, in the order they come, whatever becomes of a connection."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from multidb import DataError, LogLevel, MultiDB, NotFoundError, NotOpenError, SystemLog, uuid7
from multidb.settings import Settings

from .relay import mongo_relay

pytestmark = pytest.mark.mongo


def entry(n: int, level: LogLevel = LogLevel.ERROR, **values: Any) -> SystemLog:
    return SystemLog(level=level, service="tail", message=str(n), **values)


class Follower:
    """Reads a tail in a task of its own."""

    def __init__(self, db: MultiDB, **how: Any) -> None:
        self._db = db
        self.told: list[str] = []
        self._task = asyncio.create_task(self._read(**how))

    async def _read(self, **how: Any) -> None:
        async for each in self._db.system_logs.tail(**how):
            self.told.append(each.message)

    async def until(self, message: str) -> list[str]:
        """Return all that was told once this was."""
        async with asyncio.timeout(30):
            while message not in self.told:
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.01)
        return self.told

    async def begun(self) -> None:
        """Wait until it follows: an entry that is appended then is told."""
        n = 0
        async with asyncio.timeout(30):
            while not self.told:
                await self._db.system_logs.append(entry(-1 - n, user_id=uuid7(), request_id="begin"))
                n += 1
                await asyncio.sleep(0.05)
        self.told.clear()

    async def stop(self) -> None:
        self._task.cancel()
        async with asyncio.timeout(30):
            await asyncio.wait([self._task])
        assert self._task.cancelled()


async def test_it_begins_now_and_tells_what_is_asked_for(db: MultiDB):
    await db.system_logs.append(entry(0))
    before = asyncio.all_tasks()
    follower = Follower(db, level="error")
    await follower.begun()
    for n in range(1, 40):
        level = LogLevel.ERROR if n % 2 else LogLevel.INFO
        if n % 3:
            await db.system_logs.append(entry(n, level))
        else:
            db.system_logs.emit(entry(n, level))
    async with asyncio.timeout(30):
        while db.system_logs.emitted.pending:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await db.system_logs.append(entry(99))
    told = [each for each in await follower.until("99") if int(each) > 0]
    assert sorted(map(int, told)) == [*range(1, 40, 2), 99]
    await follower.stop()
    assert {each for each in asyncio.all_tasks() - before if each.get_name() != "system_logs.emit"} == set()


async def test_from_a_moment_or_an_entry_it_tells_what_is_stored_first(db: MultiDB):
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    stored = [entry(n, timestamp=start + timedelta(seconds=n // 3)) for n in range(60)]
    await db.system_logs.append_many(stored)

    async def some(count: int, **how: Any) -> list[str]:
        async with asyncio.timeout(20), aclosing(db.system_logs.tail(**how)) as entries:
            return [(await anext(entries)).message for _ in range(count)]

    assert await some(45, since=start + timedelta(seconds=5)) == [str(n) for n in range(15, 60)]
    assert await some(20, after=stored[39].id) == [str(n) for n in range(40, 60)]
    assert await some(3, after=stored[39].id, level="error", service="tail") == ["40", "41", "42"]
    with pytest.raises(NotFoundError):
        await some(1, after=uuid7())
    wrong: dict[str, Any]
    for wrong, match in (
        ({"since": start, "after": stored[0].id}, "not both"),
        ({"since": "yesterday"}, "`since`"),
        ({"since": datetime(2026, 1, 1)}, "`since`"),  # noqa: DTZ001
        ({"after": "x"}, "`after` must be a UUID"),
    ):
        with pytest.raises(DataError, match=match):
            await some(1, **wrong)


async def test_between_what_is_stored_and_what_comes_nothing_is_missed_or_repeated(db: MultiDB):
    start = datetime.now(UTC) - timedelta(hours=1)
    await db.system_logs.append_many([entry(n) for n in range(3000)])
    appending = True

    async def append() -> int:
        n = 3000
        while appending:
            # Also ones whose time has been passed already.
            await db.system_logs.append(entry(n, timestamp=start + timedelta(seconds=n % 100)))
            n += 1
        return n

    writer = asyncio.create_task(append())
    follower = Follower(db, since=start)
    await follower.until("2999")
    await asyncio.sleep(0.2)
    appending = False
    last = await writer
    told = await follower.until(str(last - 1))
    assert sorted(map(int, told)) == list(range(last))
    await follower.stop()


async def test_connections_that_break_lose_nothing(multidb_settings: Settings):
    with mongo_relay(multidb_settings) as (relay, relayed):
        async with MultiDB(multidb_settings) as db, MultiDB(relayed) as reader:
            start = datetime.now(UTC)
            follower = Follower(reader, since=start)
            for n in range(60):
                await db.system_logs.append(entry(n))
                if n == 20:
                    await follower.until("20")
                    relay.cut()
                if n == 40:
                    relay.refuse()
                if n == 50:
                    await asyncio.sleep(0.3)
                    relay.allow()
            assert await follower.until("59") == [str(n) for n in range(60)]
            await follower.stop()


async def test_it_ends_when_the_database_is_closed(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    async with db:
        entries = db.system_logs.tail(since=datetime.now(UTC) - timedelta(hours=1))
        await db.system_logs.append(entry(1))
        assert (await anext(entries)).message == "1"
    with pytest.raises(NotOpenError):
        await anext(entries)
