"""Streams: every row once, with no connection held between them, nor needed to outlast them."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest

from multidb import MultiDB, Settings, UnavailableError

from .entries import Entries, Entry, NewEntry, add_documents, ids, in_order, walk
from .postgres import raw

T = TypeVar("T")


@pytest.fixture
async def many(entries: Entries) -> list[Entry]:
    """2,500 rows, each of its own rank, in the order of it."""
    new = [NewEntry(rank=n, name="ab"[n % 2], tag=(None, "B", "a")[n % 3]) for n in range(2500)]
    await entries.add_many(new)
    return [row async for row in entries.stream(order_by="rank")]


def idle(db: MultiDB) -> bool:
    usage = db.postgres.pool_usage()
    assert usage is not None
    return usage.in_use == 0


async def outside(call: Coroutine[Any, Any, T]) -> T:
    """Await a call in a task that carries neither transaction nor company."""
    return await asyncio.create_task(call, context=contextvars.Context())


async def some(stream: AsyncIterator[T], number: int) -> list[T]:
    return [await anext(stream) for _ in range(number)]


async def test_a_stream_is_all_of_find_in_its_order(entries: Entries, many: list[Entry]):
    assert [row.rank for row in many] == list(range(2500))
    for order in ([], ["-rank"], ["tag", "-name"], ["-tag"], ["name", "created_at"]):
        streamed = [row async for row in entries.stream(order_by=order)]
        assert streamed == in_order(many, order)
        assert streamed == [row for page in await walk(entries, order, 1000) for row in page]


async def test_a_stream_ends_well_on_either_side_of_a_round_trip(entries: Entries, many: list[Entry]):
    for size in (0, 1, 999, 1000, 1001, 2000, 2001):
        rows = entries.stream(entries.c.rank < size, order_by=["tag", "-rank"])
        assert [row async for row in rows] == in_order(many[:size], ["tag", "-rank"])


async def test_a_stream_holds_no_connection_between_rows(
    opened: MultiDB, entries: Entries, many: list[Entry]
):
    # More of them than there are connections, and none is read to its end.
    streams = [entries.stream(order_by="rank") for _ in range(2 * opened.settings.postgres_pool_size)]
    for read in (1, 999, 1):  # the last one has begun the second round trip
        await asyncio.gather(*(some(stream, read) for stream in streams))
        assert idle(opened)
    async for row in entries.stream():
        assert row == many[0]
        break
    assert idle(opened)
    pool = (await opened.health()).postgres.pool
    assert pool is not None
    assert pool.in_use == 0


async def test_a_stream_in_repeatable_read_is_a_snapshot(
    opened: MultiDB, entries: Entries, many: list[Entry]
):
    async def meanwhile() -> None:
        await entries.add(NewEntry(rank=9000))
        await entries.delete_many(entries.c.rank.between(2000, 2100))

    async with opened.transaction(isolation="repeatable read"):
        stream = entries.stream(order_by="rank")
        found = await some(stream, 1)
        await outside(meanwhile())
        found += [row async for row in stream]
    assert found == many
    # What it was spared: a stream of its own would have met all of that.
    assert [row.rank async for row in entries.stream(order_by="rank")] == [
        *range(2000),
        *range(2101, 2500),
        9000,
    ]


async def kill_backends(settings: Settings) -> None:
    """End every other connection to this database, and return when the server has let go of them."""
    async with raw(settings) as connection:
        ended = await connection.fetch(
            "SELECT pg_terminate_backend(pid, 10000) AS ended FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            " AND backend_type = 'client backend'"
        )
        assert ended
        assert all(each["ended"] for each in ended)


async def test_a_stream_outlives_the_connection_of_its_last_round_trip(
    opened: MultiDB, entries: Entries, many: list[Entry]
):
    """It knows its place by the last row, so the next round trip may go out on any connection.

    The pool has seen by then that the old one was closed, and opens another.
    """
    stream = entries.stream(order_by="rank")
    found = await some(stream, 1000)
    await kill_backends(opened.settings)
    found += [row async for row in stream]
    assert found == many
    assert idle(opened)


async def test_a_snapshot_does_not_outlive_its_connection(
    opened: MultiDB, entries: Entries, many: list[Entry]
):
    """On another connection it would be another snapshot: the stream stops, and says so."""
    found = []
    with pytest.raises(UnavailableError):
        async with opened.transaction(isolation="repeatable read"):
            async for row in entries.stream(order_by="rank"):
                found.append(row)
                if len(found) == 1000:
                    await kill_backends(opened.settings)
    assert found == many[:1000]
    assert idle(opened)


async def test_the_company_of_a_stream_is_that_of_the_call(db: MultiDB):
    ours, theirs = await add_documents(db, "ours", 1100), await add_documents(db, "theirs", 2)
    async with db.tenant(ours):
        stream = db.documents.stream()
    first = await anext(stream)
    # The second round trip goes out inside another company's block.
    async with db.tenant(theirs):
        found = [first, *[row async for row in stream]]
    assert len(set(ids(found))) == 1100
    assert {row.company_id for row in found} == {ours}
