"""Realtime events: told once each, replayed and then live without a gap, whatever breaks."""

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from multidb import DataError, InvalidCursorError, MultiDB, NotOpenError, RealtimeEvent, uuid7
from multidb.models.fields import utc_now
from multidb.repositories import realtime_events
from multidb.repositories.realtime_events import Subscription
from multidb.settings import Settings
from multidb.stores.mongo.changes import Changes

from .relay import mongo_relay

pytestmark = pytest.mark.mongo


def event(channel: str = "a", **fields: Any) -> RealtimeEvent:
    return RealtimeEvent(channel=channel, kind="card.moved", **fields)


async def publish(db: MultiDB, count: int = 1, channel: str = "a") -> list[UUID]:
    return [await db.realtime_events.publish(event(channel)) for _ in range(count)]


async def publish_many(db: MultiDB, channels: list[str]) -> list[UUID]:
    new = [event(channel) for channel in channels]
    await db.realtime_events.append_many(new)
    return [each.id for each in new]


async def take(events: Subscription, count: int) -> list[UUID]:
    async with asyncio.timeout(30):
        return [(await anext(events)).id for _ in range(count)]


async def test_a_subscriber_is_told_of_its_channels_from_now_on(db: MultiDB):
    await publish(db)
    async with db.realtime_events.subscribe("b", "c") as events:
        expected = await publish(db, channel="b")
        await publish(db)
        expected += await publish(db, channel="c")
        assert await take(events, 2) == expected
        last = event("b", payload={"n": [1]}, user_id=uuid7())
        await db.realtime_events.publish(last)
        assert await anext(events) == last


async def test_what_is_kept_comes_first_and_then_what_is_new(db: MultiDB):
    start = utc_now()
    await db.realtime_events.append(event(timestamp=start - timedelta(seconds=20)))
    kept = await publish_many(db, ["a"] * 250)
    async with (
        db.realtime_events.subscribe("a", since=start) as since,
        db.realtime_events.subscribe("a", after=kept[99], overlap=timedelta(0)) as after,
    ):
        new = await publish(db, 5)
        assert await take(since, 255) == kept + new
        # Of those of the same millisecond, some may come again.
        ids = await take(after, 155)
        again = ids.index(kept[100])
        assert set(ids[:again]) <= set(kept[:99])
    async with db.realtime_events.subscribe("a", after=kept[-1]) as events:
        ids = await take(events, len(kept) - 1 + 5)
        assert ids == kept[:-1] + new  # within the overlap, all but the one that was named


async def test_there_is_no_gap_and_no_repeat_between_what_is_kept_and_what_is_new(db: MultiDB):
    start = utc_now()
    chance = random.Random(3)
    written: list[UUID] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            # Clocks that differ, and several at once.
            late = timedelta(milliseconds=chance.randrange(400))
            ids = [(uuid7(), utc_now() - late) for _ in range(3)]
            written.extend(id for id, _ in ids)
            await asyncio.gather(
                *(db.realtime_events.publish(event(id=id, timestamp=moment)) for id, moment in ids)
            )

    writer = asyncio.create_task(write())
    since = start - timedelta(seconds=1)
    for _ in range(4):
        async with db.realtime_events.subscribe("a", since=since) as events:
            seen = await take(events, len(written) + 100)
            assert len(set(seen)) == len(seen)
    async with db.realtime_events.subscribe("a", since=since) as events:
        stop.set()
        await writer
        assert sorted(await take(events, len(written))) == sorted(written)


async def test_a_slow_subscriber_misses_nothing_and_holds_little(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(realtime_events, "_QUEUED", 20)
    async with db.realtime_events.subscribe("a") as slow, db.realtime_events.subscribe("a") as quick:
        written: list[UUID] = []
        for _ in range(3):
            written += await publish_many(db, ["a"] * 200)
            assert (await take(quick, 200)) == written[-200:]
            assert len(slow._told) <= 20
            seen = await take(slow, 60)
            assert seen == written[-200:][:60]
            assert await take(slow, 140) == written[-200:][60:]


async def test_hundreds_share_one_stream(db: MultiDB):
    channels = [f"channel {n}" for n in range(300)]
    subscriptions = [db.realtime_events.subscribe(each) for each in channels]
    for each in subscriptions:
        await each.__aenter__()
    usage = db.mongo.pool_usage()
    assert usage is not None
    assert usage.in_use in {0, 1}
    ids = await publish_many(db, channels)
    assert await asyncio.gather(*(take(each, 1) for each in subscriptions)) == [[id] for id in ids]
    before = len(asyncio.all_tasks())
    for each in subscriptions:
        await each.__aexit__(None, None, None)
    assert len(asyncio.all_tasks()) == before - 1


async def test_none_is_missed_or_repeated_while_connections_break(db: MultiDB, multidb_settings: Settings):
    with mongo_relay(multidb_settings) as (relay, settings):
        impatient = settings.model_copy(update={"connect_timeout": settings.connect_timeout / 10})
        async with MultiDB(impatient) as far, far.realtime_events.subscribe("a") as events:
            for breaks in range(6):
                relay.refuse() if breaks % 3 == 2 else relay.cut()
                ids = await publish(db, 20)
                relay.allow()
                assert await take(events, 20) == ids


async def test_what_the_oplog_has_lost_is_read_from_the_collection(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    step, written = Changes._step, asyncio.Event()

    async def losing(self: Changes) -> Any:
        """Lose events until they are written, and then say so, once."""
        if not written.is_set():
            _, position, alive = await step(self)
            return None, position, alive
        monkeypatch.setattr(Changes, "_step", step)
        raise InvalidCursorError("the oplog does not reach back so far")

    async with db.realtime_events.subscribe("a") as events:
        first = await publish(db, 3)
        assert await take(events, 3) == first
        monkeypatch.setattr(Changes, "_step", losing)
        ids = await publish(db, 3)
        written.set()
        assert await take(events, 3) == ids
        ids = await publish(db, 3)
        assert await take(events, 3) == ids


# A connection that PyMongo was making when it was cancelled closes only when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_cancelled_wait_loses_nothing(db: MultiDB):
    await publish(db, 5)
    async with db.realtime_events.subscribe("a", since=utc_now() - timedelta(minutes=1)) as events:
        written = list(reversed([each.id for each in (await db.realtime_events.find(limit=100)).items]))

        async def write() -> None:
            for _ in range(30):
                written.extend(await publish(db))

        writer = asyncio.create_task(write())
        seen: list[UUID] = []
        patience = 0.0
        async with asyncio.timeout(60):
            while len(seen) < 35:
                patience += 0.0005
                with suppress(TimeoutError):
                    seen.append((await asyncio.wait_for(anext(events), patience)).id)
        await writer
        assert seen == written


async def test_it_ends_with_the_database(multidb_settings: Settings):
    async with MultiDB(multidb_settings) as db:
        events = db.realtime_events.subscribe("a")
        await events.__aenter__()
        await publish(db)
        await take(events, 1)
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
    with pytest.raises(NotOpenError):
        await waiting
    await events.__aexit__(None, None, None)
    with pytest.raises(NotOpenError, match="inside the block"):
        await anext(db.realtime_events.subscribe("a"))
    async with db, db.realtime_events.subscribe("a") as events:
        ids = await publish(db)
        assert await take(events, 1) == ids
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        await events.__aexit__(None, None, None)
        with pytest.raises(NotOpenError, match="inside the block"):
            await waiting


async def test_a_loop_that_is_gone_keeps_nobody_waiting(db: MultiDB):
    gone = asyncio.new_event_loop()
    # What followed there will never be done.
    db.realtime_events._feed._following = gone.create_future()  # type: ignore[assignment]
    gone.close()
    async with db.realtime_events.subscribe("a") as events:
        ids = await publish(db)
        assert await take(events, 1) == ids


async def test_what_a_subscription_cannot_be(db: MultiDB):
    subscribe: Any = db.realtime_events.subscribe
    for channels, options, match in (
        ((), {}, "channel"),
        (("a", 5), {}, "channel"),
        (("a",), {"after": uuid7(), "since": utc_now()}, "not both"),
        (("a",), {"after": "x"}, "UUID"),
        (("a",), {"since": "yesterday"}, "timestamp"),
        (("a",), {"overlap": timedelta(-1)}, "overlap"),
        (("a",), {"overlap": "5s"}, "overlap"),
        (("a",), {"overlap": timedelta.max}, "overlap"),
        ((None,), {}, "channel"),
    ):
        with pytest.raises(DataError, match=match):
            subscribe(*channels, **options)
    before = asyncio.all_tasks()
    with pytest.raises(InvalidCursorError, match="after"):
        async with subscribe("a", after=uuid7()):
            pass
    assert asyncio.all_tasks() == before
