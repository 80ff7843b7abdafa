"""The local tier: never old after this process's own writes, and late by a bound at most after others'."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from multidb import ConfigurationError, MultiDB, NewUser, NotOpenError, User
from multidb.cache.entry import Value
from multidb.settings import Settings
from multidb.stores.pauses import Pauses
from multidb.stores.redis.tracking import Tracker

from .redis import kill

TTL = timedelta(minutes=1)


@pytest.fixture
def multidb_settings(multidb_settings: Settings) -> Settings:
    """With users kept in the process, and a bound that no busy machine comes near."""
    return multidb_settings.model_copy(
        update={"cache_local": frozenset({"users"}), "cache_local_staleness": timedelta(seconds=60)}
    )


@pytest.fixture(autouse=True)
def asking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers asked so often that nobody waits for it."""
    init = Tracker.__init__
    monkeypatch.setattr(
        Tracker, "__init__", lambda *args, **kwargs: init(*args, **{**kwargs, "every": 0.005})
    )


@pytest.fixture
async def other(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """Another process, for all that this one knows."""
    async with MultiDB(multidb_settings) as opened:
        yield opened


def tracker(db: MultiDB) -> Tracker:
    found = db.redis.opened.tracker
    assert found is not None
    return found


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def heard(db: MultiDB) -> None:
    """Wait until all has been heard that changed before, and something is heard at all."""
    db.cache._local.reserve(db.users._entry(NewUser(email="a@example.com", name="A").id))
    await until(lambda: tracker(db).is_on)
    moment = time.monotonic()
    await until(lambda: tracker(db).told_until > moment)


def deafen(monkeypatch: pytest.MonkeyPatch, db: MultiDB) -> None:
    """Let nothing arrive of what the server says has changed."""
    monkeypatch.setattr(tracker(db), "_heard", lambda keys: None)


class Numbers:
    """A cached function that counts its loads, in all processes that share them."""

    def __init__(self, db: MultiDB, loads: list[int] | None = None, **options: Any) -> None:
        self.loads = loads = [] if loads is None else loads
        self._db = db

        @db.cached("test:{n}", ttl=TTL, local=True, **options)
        async def number(n: int, team: int = 1) -> int:
            loads.append(n)
            return len(loads)

        self.call = number

    @property
    def local_hits(self) -> int:
        return self.call.metrics.local_hits

    async def kept(self) -> int:
        """Return the number of 1 once it is kept in the process."""
        return int(await kept(self._db, self.call, 1))


async def kept(db: MultiDB, function: Any, *args: Any) -> Any:
    """Return what a cached function gives, once that is kept in the process."""
    while True:
        hits = function.metrics.local_hits
        value = await function(*args)
        if function.metrics.local_hits > hits:
            return value
        await heard(db)


async def kept_user(db: MultiDB, id: UUID) -> User:
    """Return a user once it is kept in the process."""
    metrics = db.cache.metrics["cache:user:{user_id}"]
    while True:
        hits = metrics.local_hits
        user = await db.users.fetch(id)
        if metrics.local_hits > hits:
            return user
        await heard(db)


@asynccontextmanager
async def one_in_flight(
    monkeypatch: pytest.MonkeyPatch, db: MultiDB, call: Callable[[], Awaitable[Any]]
) -> AsyncIterator[asyncio.Task[Any]]:
    """Yield a call that has been answered by Redis, and is let on at the end of the block."""
    answered, let_on = asyncio.Event(), asyncio.Event()
    look = db.cache._leases.look

    async def held_up(entry: Any) -> Any:
        seen = await look(entry)
        answered.set()
        await let_on.wait()
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(db.cache._leases, "look", held_up)
        task = asyncio.ensure_future(call())
        await answered.wait()
    try:
        yield task
    finally:
        let_on.set()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("redis_kind", ["server", "sentinel"], indirect=True)
async def test_a_hit_asks_nobody(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """Rows and results, one and many; shared where nobody can change them, else the caller's own."""
    lists: list[int] = []

    @db.cached("list:{n}", ttl=TTL, local=True)
    async def listed(n: int) -> list[int]:
        lists.append(n)
        return [n]

    @db.cached("nothing:{n}", ttl=TTL, negative_ttl=TTL, local=True)
    async def nothing(n: int) -> str | None:
        return None

    added = [await db.users.add(NewUser(email=f"{n}@example.com", name="Ada")) for n in range(3)]
    ids = [user.id for user in added]
    await heard(db)
    assert await kept(db, nothing, 1) is None
    assert await kept(db, listed, 1) == [1]
    await db.users.get_many(ids)  # loads
    await heard(db)
    await db.users.get_many(ids)  # and keeps
    users = db.cache.metrics["cache:user:{user_id}"]
    hits = nothing.metrics.hits, users.hits, users.local_hits, users.misses

    async def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked Redis")

    with monkeypatch.context() as patch:
        for name in ("get", "get_many", "execute", "run", "send"):
            patch.setattr(db.redis, name, refuse)
        assert list(await db.users.get_many(reversed(ids))) == ids[::-1]
        assert await db.users.get(ids[0]) is await db.users.get(ids[0])
        assert await db.users.get(ids[0]) == added[0]
        assert await nothing(1) is await nothing.peek(1) is None
        (await listed(1)).append(2)
        assert await listed(1) == await listed.peek(1) == [1]
        assert await listed.many([1]) == {1: [1]}
    assert (nothing.metrics.hits, users.hits, users.local_hits, users.misses) == (
        hits[0] + 1,
        hits[1] + 6,
        hits[2] + 6,
        hits[3],
    )
    # Some kept, some not.
    db.cache._local.drop([db.users._key(ids[1])])
    assert await db.users.get_many(ids) == {user.id: user for user in added}
    assert (users.hits, users.local_hits) == (hits[1] + 9, hits[2] + 8)
    # What is included is the caller's own too.
    assert await db.users.get(ids[0], include=["profile"]) is not await db.users.get(ids[0])
    with db.uncached():
        await listed(1)
    async with db.transaction():
        assert await listed(1) == [1]
        assert await listed.peek(1) is None
    assert lists == [1, 1, 1]


async def test_what_this_process_writes_is_never_served_old(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """Though nothing is heard of it from the server."""
    id = (await db.users.add(NewUser(email="ada@example.com", name="Ada"))).id
    number = Numbers(db, tags=["team:{team}"])

    async def in_a_transaction() -> None:
        async with db.transaction():
            await db.users.update(id, name="C")

    await heard(db)
    writes: dict[str, Callable[[], Awaitable[Any]]] = {
        "B": lambda: db.users.update(id, name="B"),
        "C": in_a_transaction,
        "D": lambda: db.users.update_many(id=id, changes={"name": "D"}),
        "E": lambda: db.users.upsert(NewUser(id=id, email="ada@example.com", name="E")),
    }
    for name, write in writes.items():
        assert (await kept_user(db, id)).name != name
        with monkeypatch.context() as patch:
            deafen(patch, db)
            await write()
            assert (await db.users.fetch(id)).name == name
    for change in (
        lambda: number.call.invalidate(1),
        lambda: number.call.refresh(1),
        lambda: db.cache.invalidate_tag("team:{team}", team=1),
    ):
        value = await number.kept()
        with monkeypatch.context() as patch:
            deafen(patch, db)
            await change()
            assert await number.call(1) == value + 1


async def test_what_is_committed_is_seen_here_before_redis_knows_that_it_is(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    id = (await db.users.add(NewUser(email="ada@example.com", name="Ada"))).id
    await kept_user(db, id)
    committed, let_on = asyncio.Event(), asyncio.Event()
    unmark = db.cache._marks._unmark

    async def later(marks: Any) -> None:
        committed.set()
        await let_on.wait()
        await unmark(marks)

    monkeypatch.setattr(db.cache._marks, "_unmark", later)
    deafen(monkeypatch, db)
    writing = asyncio.create_task(db.users.update(id, name="B"))
    await committed.wait()
    assert (await db.users.fetch(id)).name == "B"
    let_on.set()
    await writing


async def test_nothing_asked_for_before_a_change_is_kept_after_it(
    db: MultiDB, other: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    """The answer of Redis is on its way as another process, or this one, changes the entry."""
    number = Numbers(db, tags=["team:{team}"])
    same = Numbers(other, number.loads, tags=["team:{team}"])
    await heard(db)
    for change, own in (
        (lambda: same.call.invalidate(1), False),
        (lambda: other.cache.invalidate_tag("team:{team}", team=1), False),
        (lambda: number.call.invalidate(1), True),
        (lambda: db.cache.invalidate_tag("team:{team}", team=1), True),
        (lambda: number.call.refresh(1), True),
    ):
        value = await number.kept()
        db.cache._local.drop([key(db, 1)])
        hits = number.local_hits
        async with one_in_flight(monkeypatch, db, lambda: number.call(1)) as reading:
            with monkeypatch.context() as patch:
                if own:
                    deafen(patch, db)
                await change()
                await heard(db)
        assert await reading == value  # for it began before
        assert await number.call(1) == value + 1
        assert number.local_hits == hits


async def test_another_process_is_heard_of(db: MultiDB, other: MultiDB):
    number = Numbers(db, tags=["team:{team}"])
    same = Numbers(other, number.loads, tags=["team:{team}"])
    id = (await other.users.add(NewUser(email="ada@example.com", name="Ada"))).id
    await kept_user(db, id)
    await other.users.update(id, name="B")
    await heard(db)
    assert (await db.users.fetch(id)).name == "B"
    changes: list[Callable[[], Awaitable[Any]]] = [
        lambda: same.call.invalidate(1),
        lambda: other.cache.invalidate_tag("team:{team}", team=1),
        lambda: other.redis.delete([key(db, 1)], operation="test"),
    ]
    for change in changes:
        value = await number.kept()
        await change()
        await heard(db)
        assert await number.call(1) == value + 1
    # Another entry of the same tag is none of its business.
    value = await number.kept()
    await number.call(2)
    await heard(db)
    hits = number.local_hits
    assert await number.call(1) == value
    assert number.local_hits == hits + 1
    # What another has loaded anew.
    value = await number.kept()
    refreshed = await same.call.refresh(1)
    await heard(db)
    assert await number.call(1) == refreshed > value


async def test_a_connection_that_is_lost_takes_all_copies_with_it(
    db: MultiDB, other: MultiDB, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    number, let_on = Numbers(db), asyncio.Event()
    same = Numbers(other, number.loads)
    assert await number.kept() == 1
    begin = tracker(db)._begin

    async def later(connection: Any) -> Any:
        await let_on.wait()
        return await begin(connection)

    at_rest: list[tuple[bool, int]] = []

    def paused(_: Pauses) -> float:
        at_rest.append((tracker(db).is_on, db.cache._local.size))
        return 0.01

    monkeypatch.setattr(Pauses, "next", paused)
    monkeypatch.setattr(tracker(db), "_begin", later)
    [connection] = tracker(db).connections._lent
    await kill(connection)
    await until(lambda: not tracker(db).is_on)
    await until(lambda: at_rest)
    assert at_rest == [(False, 0)]
    hits = number.local_hits
    await same.call.invalidate(1)  # of which nobody tells
    for _ in range(3):
        assert await number.call(1) == 2
    let_on.set()
    await heard(db)
    assert await number.call(1) == 2
    assert number.local_hits == hits
    assert await number.kept() == 2
    assert "Redis does not tell what changes: ConnectionError" in caplog.text


async def test_without_a_sign_of_life_copies_are_served_no_longer_than_the_bound(
    multidb_settings: Settings, other: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    bound = timedelta(seconds=0.2)
    settings = multidb_settings.model_copy(update={"cache_local_staleness": bound})
    async with MultiDB(settings) as db:
        number = Numbers(db)
        same = Numbers(other, number.loads)
        assert await number.kept() == 1
        [connection] = tracker(db).connections._lent

        async def silence(*_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(connection, "read_response", silence)
        told_until = tracker(db).told_until
        await same.call.invalidate(1)
        await until(lambda: time.monotonic() > told_until + bound.total_seconds() + 0.1)
        assert tracker(db).is_on  # as far as is known
        assert await number.call(1) == 2
        assert key(db, 1) in db.cache._local._places


async def test_a_server_that_says_nothing_is_left(
    multidb_settings: Settings, caplog: pytest.LogCaptureFixture
):
    """It is asked again and again, and each answer counts from when it was asked for."""
    settings = multidb_settings.model_copy(update={"redis_timeout": timedelta(seconds=0.8)})
    async with MultiDB(settings) as db:
        await heard(db)
        [connection] = tracker(db).connections._lent
        sent: list[float] = []
        told: list[float] = []
        send = connection.send_packed_command

        async def swallow(command: Any, **options: Any) -> None:
            sent.append(time.monotonic())
            told.append(tracker(db).told_until)
            if len(sent) < 3:
                await send(command, **options)

        connection.send_packed_command = swallow  # type: ignore[method-assign, assignment]
        await until(lambda: not tracker(db).is_on)
        assert len(sent) == 3
        assert told[0] < told[1] <= sent[0] < told[2] <= sent[1]
        assert "Redis does not tell what changes: ConnectionError" in caplog.text
        await heard(db)


async def test_copies_take_no_more_than_their_room(multidb_settings: Settings):
    settings = multidb_settings.model_copy(update={"cache_local_bytes": 20_000})
    async with MultiDB(settings) as db:

        @db.cached("text:{n}", ttl=TTL, tags=["tag:{n}"], local=True)
        async def text(n: int, size: int = 200) -> str:
            return "x" * size

        async def keep(*ns: int, size: int = 200) -> None:
            for _ in range(2):
                await asyncio.gather(*(text(n, size) for n in ns))
                await heard(db)

        await heard(db)
        local = db.cache._local
        await keep(*range(10))
        assert 10 * 200 < local.size < 20_000
        for n in range(10, 60):
            await keep_one(db, text, n)
            await text(0)
            assert local.size <= 20_000
            assert local.size == sum(place.size for place in local._places.values())
        hits = text.metrics.local_hits
        await text(0)
        await text(59)
        assert text.metrics.local_hits == hits + 2
        await text(1)
        assert text.metrics.local_hits == hits + 2
        # What is larger than all the room drives nobody out.
        await keep(99, size=30_000)
        await text(0)
        assert text.metrics.local_hits == hits + 3
        local.drop([place.key for place in list(local._places.values())])
        assert local.size == 0
    async with MultiDB(multidb_settings.model_copy(update={"cache_local_bytes": 0})) as db:
        number = Numbers(db)
        assert [await number.call(1) for _ in range(3)] == [1, 1, 1]
        assert number.local_hits == 0


async def keep_one(db: MultiDB, text: Any, n: int) -> None:
    await text(n)
    # As when its own fill has been heard of.
    db.cache._local.drop([f"{db.settings.key_prefix}text:{{{n}}}", f"{db.settings.key_prefix}tag:{{{n}}}"])
    await text(n)


async def test_copies_last_as_long_as_what_they_were_made_of(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    from multidb.cache import family, leases, local
    from multidb.cache.entry import now

    number = Numbers(db, jitter=0)
    assert await number.kept() == 1
    [place] = [each for each in db.cache._local._places.values() if each.until]
    held = Value.read(await db.redis.get(key(db, 1), operation="test") or b"")
    assert held is not None
    assert place.until == number.call._family.hardly_due_until(held) <= held.fresh_until

    def later(milliseconds: int) -> None:
        for module in (family, leases, local):
            monkeypatch.setattr(module, "now", lambda: now() + milliseconds)

    later(int(TTL.total_seconds() * 1000) + 1)
    assert await number.call(1) == 2
    # Shortly before its end Redis is asked, where one of the callers loads it anew.
    later(0)
    slow = held._replace(took=10_000_000)
    assert number.call._family.hardly_due_until(slow) == slow.fresh_until - 50_000
    # Another run of the server may have missed writes.
    await number.kept()
    hits = number.local_hits
    [node] = db.redis.opened.nodes
    monkeypatch.setattr(node, "incarnation", b"another")
    await number.call(1)
    assert number.local_hits == hits
    assert db.cache._local.reserve(number.call._entry((1,), {})) is None


async def test_a_reader_that_is_cancelled_keeps_nothing_and_hinders_nobody(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    number = Numbers(db)
    await number.kept()
    db.cache._local.drop([key(db, 1)])
    hits = number.local_hits
    async with one_in_flight(monkeypatch, db, lambda: number.call(1)) as reading:
        reading.cancel()
    assert reading.cancelled()
    assert [await number.call(1), await number.call(1)] == [1, 1]
    assert number.local_hits == hits + 1


async def test_closed_it_leaves_no_task_and_serves_nothing(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    number = Numbers(db)
    before = asyncio.all_tasks()
    async with db:
        await number.kept()
    assert asyncio.all_tasks() == before
    assert db.cache._local.size == 0
    with pytest.raises(NotOpenError):
        await number.call(1)
    async with MultiDB(multidb_settings) as other:
        await Numbers(other).call.invalidate(1)
    async with db:
        assert await number.call(1) == 2
        # Other keys, which are not followed yet.
        await number.kept()

        @db.cached("other:{n}", ttl=TTL, local=True)
        async def another(n: int) -> int:
            return n

        assert await kept(db, another, 1) == 1
        assert await number.kept() == 2


async def test_two_of_one_key_do_not_get_each_others(db: MultiDB):
    @db.cached("test:{n}", ttl=TTL, local=True)
    async def as_text(n: int) -> str:
        return str(n)

    number = Numbers(db)
    assert await kept(db, as_text, 1) == "1"
    assert await number.call(1) == 1
    assert await as_text(1) == "1"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"redis_url": "redis+cluster://127.0.0.1:1"}, "users.get: `local` needs one Redis server"),
        (
            {"cache_local": frozenset({"documents"})},
            "MULTIDB_CACHE_LOCAL .* `documents` is none; there is users",
        ),
    ],
)
def test_what_cannot_be_local_is_said_at_once(
    multidb_settings: Settings, changes: dict[str, Any], wrong: str
):
    if "redis_url" in changes:
        changes = {"redis_url": type(multidb_settings.redis_url)(changes["redis_url"])}
    with pytest.raises(ConfigurationError, match=wrong):
        MultiDB(multidb_settings.model_copy(update=changes))


def key(db: MultiDB, n: int) -> str:
    return f"{db.settings.key_prefix}test:{{{n}}}"
