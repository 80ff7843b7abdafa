"""Changes of a collection: each once, in order, through broken connections, cancellations and drops."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from multidb import DataError, InvalidCursorError, MultiDB, NotOpenError, SystemLog, UnavailableError, uuid7
from multidb.settings import Settings
from multidb.stores.mongo.changes import Change, Changes

from .relay import Relay, mongo_relay

pytestmark = pytest.mark.mongo

LOGS = "system_logs"


def watch(db: MultiDB, **options: Any) -> Changes:
    return db.mongo.watch(LOGS, operation="system_logs.watch", **options)


async def append(db: MultiDB, **fields: Any) -> UUID:
    return await db.system_logs.append(
        SystemLog(**{"level": "info", "service": "test", "message": "m", **fields})
    )


async def take(changes: Changes, count: int) -> list[Change]:
    async with asyncio.timeout(30):
        return [await anext(changes) for _ in range(count)]


@pytest.fixture
async def wire(multidb_settings: Settings) -> AsyncIterator[tuple[Relay, MultiDB]]:
    """A wire to MongoDB, and a database that has no other way to it."""
    with mongo_relay(multidb_settings) as (relay, settings):
        impatient = settings.model_copy(update={"connect_timeout": settings.connect_timeout / 10})
        async with MultiDB(impatient) as db:
            yield relay, db


async def test_changes_are_those_since_the_block_was_entered(db: MultiDB):
    await append(db)
    async with watch(db) as changes:
        id = await append(db, message="first")
        collection = db.mongo.database[LOGS]
        await collection.update_one({"_id": id}, {"$set": {"message": "second"}})
        document = await collection.find_one({"_id": id})
        seen = await take(changes, 2)
        await collection.delete_one({"_id": id})
        seen += await take(changes, 1)
    assert [(each.kind, each.id) for each in seen] == [("insert", id), ("update", id), ("delete", id)]
    assert [(each.document or {}).get("message") for each in seen] == ["first", "second", None]
    assert seen[1].document == document


async def test_a_query_chooses_among_them(db: MultiDB):
    async with watch(db, match={"operationType": "insert", "fullDocument.level": "error"}) as changes:
        await append(db)
        id = await append(db, level="error")
        assert [each.id for each in await take(changes, 1)] == [id]


async def test_a_position_leads_on_from_there(db: MultiDB):
    async with watch(db) as changes:
        begin = changes.position
        ids = [await append(db) for _ in range(5)]
        assert [each.id for each in await take(changes, 2)] == ids[:2]
        position = changes.position
    for after, expected in ((begin, ids), (position, ids[2:])):
        async with watch(db, after=after) as changes:
            assert [each.id for each in await take(changes, len(expected))] == expected


async def test_a_position_that_the_oplog_has_lost_is_refused(db: MultiDB):
    async with watch(db) as changes:
        await append(db)
        await take(changes, 1)
        assert changes.position is not None
        token = changes.position["_data"]
    # A token begins with its time: here, of long ago.
    lost = {"_data": token[:2] + "00000001" + token[10:]}
    with pytest.raises(InvalidCursorError, match="no longer"):
        async with watch(db, after=lost) as changes:
            await take(changes, 1)


async def test_none_is_missed_or_repeated_however_often_the_connection_breaks(
    db: MultiDB, wire: tuple[Relay, MultiDB]
):
    relay, watching = wire
    stop = asyncio.Event()
    written: list[UUID] = []

    async def write() -> None:
        while not stop.is_set():
            written.append(await append(db))

    seen: list[UUID] = []
    async with watch(watching) as changes, asyncio.timeout(60):
        writer = asyncio.create_task(write())
        for breaks in range(8):
            if breaks % 4 == 3:  # for longer than the driver itself tries
                relay.refuse()
                start = len(written)
                while len(written) < start + 50:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                relay.allow()
            else:
                relay.cut()
            seen += [each.id for each in await take(changes, 20)]
        stop.set()
        await writer
        while len(seen) < len(written):
            seen.append((await anext(changes)).id)
    assert seen == written


# A connection that PyMongo was making when it was cancelled closes only when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_cancelled_wait_loses_nothing(db: MultiDB):
    written = [uuid7() for _ in range(30)]
    seen: list[UUID] = []

    async def write() -> None:
        for id in written:
            await append(db, id=id)

    async with watch(db) as changes, asyncio.timeout(60):
        writer = asyncio.create_task(write())
        patience = 0.0
        while len(seen) < len(written):
            patience += 0.001  # ever later within the call
            with suppress(TimeoutError):
                seen.append((await asyncio.wait_for(anext(changes), patience)).id)
        await writer
    assert seen == written


async def test_a_collection_that_takes_the_place_of_a_dropped_one_is_watched_too(db: MultiDB):
    async with watch(db) as changes, watch(db, match={"operationType": "insert"}) as inserts:
        first = await append(db)
        await db.mongo.database.drop_collection(LOGS)
        second = await append(db)
        assert [(each.kind, each.id) for each in await take(changes, 3)] == [
            ("insert", first),
            ("drop", None),
            ("insert", second),
        ]
        assert [each.id for each in await take(inserts, 2)] == [first, second]


async def test_going_on_anew_waits_out_an_outage(wire: tuple[Relay, MultiDB], db: MultiDB):
    relay, far = wire
    loads: list[int] = []

    async def load() -> None:
        loads.append(len(loads))
        if len(loads) == 1:
            relay.refuse()
            raise UnavailableError("it has gone away just now")
        relay.allow()

    async with watch(far) as changes, asyncio.timeout(30):
        await append(db)
        asyncio.get_running_loop().call_later(0.3, relay.allow)
        await changes.anew(load)
        assert len(loads) == 2
        id = await append(db)
        assert [each.id for each in await take(changes, 1)] == [id]
        with pytest.raises(DataError):
            await changes.anew(partial(fail, DataError("this will not pass")))


async def fail(error: Exception) -> None:
    raise error


async def test_waiting_ends_when_the_database_is_closed(multidb_settings: Settings):
    async with MultiDB(multidb_settings) as db:
        changes = watch(db)
        await changes.__aenter__()
        waiting = asyncio.create_task(anext(changes))
        await asyncio.sleep(0)
    with pytest.raises(NotOpenError):
        await waiting
    with pytest.raises(NotOpenError):
        await anext(changes)
    await changes.__aexit__(None, None, None)
    with pytest.raises(NotOpenError):
        async with watch(db):
            pass


async def test_a_server_that_is_away_is_told_when_it_is_opened(wire: tuple[Relay, MultiDB]):
    relay, db = wire
    await append(db)
    relay.refuse()
    with pytest.raises(UnavailableError):
        async with watch(db):
            pass


async def test_those_who_wait_leave_connections_to_those_who_call(multidb_settings: Settings):
    settings = multidb_settings.model_copy(update={"mongo_pool_size": 2})
    async with MultiDB(settings) as db:
        streams = [watch(db) for _ in range(12)]
        for each in streams:
            await each.__aenter__()
        waiting = [asyncio.create_task(anext(each)) for each in streams]
        for _ in range(20):
            await db.system_logs.find(limit=1)
        assert not any(each.done() for each in waiting)
        id = await append(db)
        assert {each.id for each in await asyncio.gather(*waiting)} == {id}
        for each in streams:
            await each.__aexit__(None, None, None)


async def test_nothing_is_left_behind(db: MultiDB):
    before = asyncio.all_tasks()
    for cancelled in (False, True):
        async with watch(db) as changes:
            waiting = asyncio.create_task(anext(changes))
            await asyncio.sleep(0)
            if not cancelled:
                await append(db)
                await waiting
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    assert asyncio.all_tasks() == before
    for thread in threading.enumerate():
        if thread.name.startswith("multidb-changes"):
            thread.join(timeout=5)
            assert not thread.is_alive()
    usage = db.mongo.pool_usage()
    assert usage is not None
    assert usage.in_use == 0
