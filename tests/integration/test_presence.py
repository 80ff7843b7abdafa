"""Presence: who is there, and that each coming and going is told once."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from multidb import DataError, InvalidCursorError, MultiDB, PresenceEvent, UnavailableError, uuid7
from multidb.settings import Settings
from multidb.stores.redis.commands import Command

TIMEOUT = timedelta(milliseconds=300)


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


@pytest.fixture
async def other(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """Another process, as far as presence can tell."""
    async with MultiDB(multidb_settings) as opened:
        yield opened


@pytest.fixture
async def brief(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """A database whose users are gone soon."""
    async with MultiDB(changed(multidb_settings, presence_timeout=TIMEOUT)) as opened:
        yield opened


def key_of(db: MultiDB, user: UUID) -> str:
    return f"{db.settings.key_prefix}realtime:user:{{{user}}}:presence"


def register_of(db: MultiDB, user: UUID) -> str:
    return f"{db.settings.key_prefix}realtime:presence:{{{user.int % 16}}}"


async def die(db: MultiDB, user: UUID) -> None:
    """Let a user's last beat be too long ago, and nobody have told of it."""
    await db.redis.client.delete(key_of(db, user))
    await db.redis.client.zadd(f"{register_of(db, user)}:due", {str(user): 1})


async def events_of(db: MultiDB, register: str) -> list[tuple[str, UUID]]:
    found = await db.redis.execute("XRANGE", f"{register}:events", "-", "+", operation="test")
    each = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in found]
    return [(fields[b"kind"].decode(), UUID(fields[b"user"].decode())) for fields in each]


async def told(db: MultiDB) -> list[tuple[str, UUID]]:
    """Return all that was ever told, each user's in their order."""
    await db.presence.sweep()
    registers = [register_of(db, UUID(int=number)) for number in range(16)]
    return [event for register in registers for event in await events_of(db, register)]


def beginning(db: MultiDB) -> str:
    """Return the cursor after which everything follows that was ever told."""
    return db.presence._resources.cursors.encode(["0-0"] * 16, query=b"presence.watch")


async def first(db: MultiDB, count: int, after: str | None = None) -> list[PresenceEvent]:
    events: list[PresenceEvent] = []
    async with asyncio.timeout(20), aclosing(db.presence.watch(after=after)) as watched:
        async for event in watched:
            events.append(event)
            if len(events) == count:
                break
    return events


# --- who is there


@pytest.mark.redis
async def test_a_user_is_there_until_the_last_device_leaves(db: MultiDB):
    user, nobody = uuid7(), uuid7()
    assert await db.presence.online([user, nobody]) == set()
    await db.presence.beat(user, device="phone")
    await db.presence.beat(user, device="laptop")
    await db.presence.beat(user, device="laptop")
    assert await db.presence.online([user, nobody, user]) == {user}
    assert await db.presence.count() == 1
    await db.presence.leave(user, device="phone")
    assert await db.presence.online([user]) == {user}
    await db.presence.leave(user, device="phone")
    await db.presence.leave(user, device="laptop")
    assert await db.presence.online([user]) == set()
    assert await told(db) == [("join", user), ("leave", user)]
    assert await db.presence.count() == 0
    assert await db.presence.online([]) == set()


async def test_a_device_is_there_for_a_while_after_each_beat(brief: MultiDB):
    user = uuid7()
    await brief.presence.beat(user, device="phone")
    left = await brief.redis.client.pttl(key_of(brief, user))
    assert left <= 300
    assert left != -1, "it would never be gone"
    async with asyncio.timeout(30):
        while await brief.presence.online([user]):
            pass
    assert await brief.presence.count() == 0


async def test_the_users_key_lives_as_long_as_the_device_that_stays_longest(db: MultiDB):
    user = uuid7()
    await db.presence.beat(user, device="phone")
    await db.redis.client.zincrby(key_of(db, user), -50_000, "phone")
    await db.presence.beat(user, device="laptop")
    await db.presence.leave(user, device="laptop")
    assert 0 < await db.redis.client.pttl(key_of(db, user)) <= 10_000
    # And the register looks at it again by then.
    await db.presence.sweep()
    assert await db.presence.count() == 1


async def test_ten_thousand_users_are_asked_for_in_one_trip(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    users = [uuid7() for _ in range(10_000)]
    for user in users[::1000]:
        await db.presence.beat(user, device="phone")
    trips, send = [], db.redis.send

    async def counted(commands: Any, **kwargs: Any) -> Any:
        trips.append(len(commands))
        return await send(commands, **kwargs)

    monkeypatch.setattr(db.redis, "send", counted)
    assert await db.presence.online(users) == set(users[::1000])
    assert trips == [10_000]


async def test_devices_have_a_limit(db: MultiDB):
    user = uuid7()
    await asyncio.gather(*(db.presence.beat(user, device=str(n)) for n in range(120)))
    assert await db.redis.client.zcard(key_of(db, user)) == 100


# --- what is told


@pytest.mark.redis
async def test_watching_tells_who_comes_and_goes(db: MultiDB, other: MultiDB):
    users = [uuid7() for _ in range(5)]
    watching = asyncio.create_task(first(db, 10, after=beginning(db)))
    for user in users:
        await other.presence.beat(user, device="phone")
        await other.presence.beat(user, device="laptop")
    for user in users:
        await other.presence.leave(user, device="laptop")
        await other.presence.leave(user, device="phone")
    events = await watching
    for user in users:
        assert [event.kind for event in events if event.user_id == user] == ["join", "leave"]


async def test_who_looked_before_the_last_device_left_settles_nothing(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(db.presence._sweeping, "begin", lambda: False)
    user = uuid7()
    await db.presence.beat(user, device="phone")
    await db.presence.beat(user, device="laptop")
    await db.presence.leave(user, device="laptop")
    seen = int(await db.redis.client.zscore(f"{register_of(db, user)}:due", str(user)) or 0)
    await db.presence.leave(user, device="phone")
    late = db.presence._settle(user, seen, 60_000)
    assert await db.redis.send([late], operation="test") == [0]
    assert await told(db) == [("join", user), ("leave", user)]


async def test_watching_begins_now(db: MultiDB):
    before = uuid7()
    await db.presence.beat(before, device="phone")
    watching = asyncio.create_task(first(db, 1))
    while not watching.done():
        await db.presence.beat(uuid7(), device="phone")
    [event] = await watching
    assert event.user_id != before


async def test_watching_is_resumed_after_any_event(db: MultiDB):
    users = [uuid7() for _ in range(40)]
    for user in users:
        await db.presence.beat(user, device="phone")
    events = await first(db, 40, after=beginning(db))
    assert {event.user_id for event in events} == set(users)
    for place in (0, 20, 38):
        rest = await first(db, 39 - place, after=events[place].cursor)
        assert [event.user_id for event in rest] == [event.user_id for event in events[place + 1 :]]


async def test_a_user_who_is_silent_is_told_to_have_left(brief: MultiDB):
    user = uuid7()
    watching = asyncio.create_task(first(brief, 2, after=beginning(brief)))
    await brief.presence.beat(user, device="phone")
    assert [(event.kind, event.user_id) for event in await watching] == [("join", user), ("leave", user)]
    assert await told(brief) == [("join", user), ("leave", user)]


async def test_of_many_sweepers_one_tells(db: MultiDB, other: MultiDB):
    users = [uuid7() for _ in range(50)]
    await asyncio.gather(*(db.presence.beat(user, device="phone") for user in users))
    for user in users:
        await die(db, user)
    left = await asyncio.gather(*(each.presence.sweep() for each in (db, other) * 4))
    assert sum(left) == 50
    events = await told(db)
    assert len(events) == 100
    for user in users:
        assert [kind for kind, each in events if each == user] == ["join", "leave"]


async def test_a_beat_between_looking_and_telling_keeps_the_user(
    db: MultiDB, other: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    user = uuid7()
    await db.presence.beat(user, device="phone")
    await die(db, user)
    send = db.redis.send

    async def interrupted(commands: list[Command], **kwargs: Any) -> Any:
        replies = await send(commands, **kwargs)
        if commands[0].script is None:  # it has been looked whether the user is there
            await other.presence.beat(user, device="laptop")
        return replies

    monkeypatch.setattr(db.redis, "send", interrupted)
    assert await db.presence.sweep() == 0
    monkeypatch.undo()
    assert await db.presence.online([user]) == {user}
    assert await db.presence.count() == 1


async def test_who_comes_back_before_it_was_told_has_left_and_joined(db: MultiDB):
    user = uuid7()
    await db.presence.beat(user, device="phone")
    await die(db, user)
    await db.presence.beat(user, device="phone")
    assert await told(db) == [("join", user), ("leave", user), ("join", user)]


async def test_one_device_leaving_as_another_comes_is_told_truly(db: MultiDB, other: MultiDB):
    user = uuid7()
    for _ in range(20):
        await db.presence.beat(user, device="phone")
        await asyncio.gather(
            db.presence.leave(user, device="phone"), other.presence.beat(user, device="laptop")
        )
        await db.presence.sweep()
        assert await db.presence.online([user]) == {user}
        assert await db.presence.count() == 1
        await other.presence.leave(user, device="laptop")
        await db.presence.sweep()
        assert await db.presence.count() == 0
    kinds = [kind for kind, _ in await told(db)]
    assert kinds[::2] == ["join"] * (len(kinds) // 2)
    assert kinds[1::2] == ["leave"] * (len(kinds) // 2)


async def test_a_process_that_was_killed_leaves_nobody_behind(brief: MultiDB, tmp_path: Path):
    user = uuid7()
    script = f"""
import asyncio
from uuid import UUID
from multidb import MultiDB
from multidb.settings import Settings
async def main():
    settings = Settings(
        _env_file=None, presence_timeout=0.3, key_prefix={brief.settings.key_prefix!r},
        postgres_url={brief.settings.postgres_url.get_secret_value()!r},
        mongo_url={brief.settings.mongo_url.get_secret_value()!r},
        redis_url={brief.settings.redis_url.get_secret_value()!r}, open_timeout=60,
    )
    async with MultiDB(settings) as db:
        print("ready", flush=True)
        while True:
            await db.presence.beat(UUID({str(user)!r}), device="phone")
            await asyncio.sleep(0.05)
asyncio.run(main())
"""
    events = asyncio.create_task(first(brief, 2, after=beginning(brief)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        async with asyncio.timeout(20):
            while not await brief.presence.online([user]):
                pass
    finally:
        process.kill()
        await process.communicate()
    assert [(event.kind, event.user_id) for event in await events] == [("join", user), ("leave", user)]
    async with asyncio.timeout(30):
        while await brief.presence.count():  # it may have been late with a beat, and come once more
            pass


async def test_who_cannot_be_entered_is_tried_now_and_then(brief: MultiDB, monkeypatch: pytest.MonkeyPatch):
    tries = 0

    async def away(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise UnavailableError("away")

    monkeypatch.setattr(brief.redis, "send", away)
    brief.presence._arrived(user := uuid7())
    await asyncio.sleep(TIMEOUT.total_seconds())
    assert 2 <= tries < 10
    monkeypatch.undo()
    [joined] = await first(brief, 1, after=beginning(brief))
    assert (joined.kind, joined.user_id) == ("join", user)


async def test_closing_tells_of_who_left_just_now(db: MultiDB, multidb_settings: Settings):
    user = uuid7()
    async with MultiDB(multidb_settings) as other:
        await other.presence.beat(user, device="phone")
        await other.presence.leave(user, device="phone")
    register = await db.redis.client.zrange(f"{register_of(db, user)}:due", 0, -1)
    assert register == []


# --- bad input


@pytest.mark.parametrize(
    "device", ["", "x" * 201, None, 7, "\ud800"], ids=["empty", "long", "none", "int", "text"]
)
async def test_what_is_no_device_is_refused(db: MultiDB, device: Any):
    for call in (db.presence.beat, db.presence.leave):
        with pytest.raises(DataError, match="`device`"):
            await call(uuid7(), device=device)


@pytest.mark.parametrize("id", ["{42}", "a b\n", "x" * 10_000, None], ids=["brace", "blank", "long", "none"])
async def test_what_is_no_id_is_refused(db: MultiDB, id: Any):
    for name, call in (
        ("user_id", db.presence.beat(id, device="phone")),
        ("user_id", db.presence.leave(id, device="phone")),
    ):
        with pytest.raises(DataError, match=f"`{name}` must be a UUID"):
            await call
    with pytest.raises(DataError, match="`user_ids` must be UUIDs"):
        await db.presence.online([uuid7(), id])


async def test_any_text_may_be_a_device(db: MultiDB):
    user = uuid7()
    for device in ("{x}", "a b\n\x00", "é" * 200):
        await db.presence.beat(user, device=device)
        await db.presence.leave(user, device=device)
    assert await db.presence.online([user]) == set()


async def test_a_cursor_of_something_else_is_refused(db: MultiDB):
    with pytest.raises(InvalidCursorError):
        await anext(db.presence.watch(after="AAAA"))
