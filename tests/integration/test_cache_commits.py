"""Commits and the cache: marked before, taken back after, whatever happens in between."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from multidb import MultiDB, NewUser, UnavailableError, User
from multidb.cache.entry import with_witnesses
from multidb.settings import Settings
from multidb.stores.postgres.ambient import Transaction
from multidb.stores.redis.commands import Command, script

pytestmark = pytest.mark.usefixtures("user")


@pytest.fixture
async def user(db: MultiDB) -> User:
    return await db.users.add(NewUser(email="ada@example.com", name="Ada"))


class Calls:
    """The calls of the cache on Redis: seen, held up, or lost."""

    def __init__(self, db: MultiDB, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Sequence[Command]] = []
        self.lost: set[str] = set()
        self._send = db.redis.send
        monkeypatch.setattr(db.redis, "send", self._sent)

    async def _sent(self, commands: Sequence[Command], **options: Any) -> list[Any]:
        self.seen.append(commands)
        if any(command.script == script(name) for command in commands for name in self.lost):
            raise UnavailableError("lost", store="redis")
        return await self._send(commands, **options)

    def of(self, name: str) -> list[int]:
        """How many entries each call of this script was about."""
        return [len(each) for each in self.seen if each and each[0].script == script(name)]


@pytest.fixture
def calls(db: MultiDB, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(db, monkeypatch)


async def held(db: MultiDB, user: User) -> bytes:
    return await db.redis.get(db.users._key(user.id), operation="test") or b""


def dying(monkeypatch: pytest.MonkeyPatch, db: MultiDB) -> None:
    """Make this process forget what it should do after a commit, as one does that is killed there."""

    async def never(keys: Any, token: str = "") -> None:
        pass

    monkeypatch.setattr(db.cache._marks, "take_back", never)


@pytest.mark.redis
@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_crash_after_the_commit_leaves_no_old_value(
    db: MultiDB, user: User, in_transaction: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(db.cache._marks, "_lives", 300)
    async with MultiDB(db.settings) as other:
        assert await other.users.get(user.id) == user
        dying(monkeypatch, db)
        if in_transaction:
            async with db.transaction():
                await db.users.update(user.id, name="New")
                # Not before the commit: until then the old value is the right one for everybody else.
                assert (await held(db, user)).startswith(b"V")
        else:
            await db.users.update(user.id, name="New")
        assert (await held(db, user)).startswith(b"W")
        # What is loaded meanwhile is right, and is not kept.
        assert (await other.users.fetch(user.id)).name == "New"
        assert (await other.users.get_many([user.id]))[user.id].name == "New"
        assert (await held(db, user)).startswith(b"W")
        async with asyncio.timeout(30):
            while await held(db, user):  # noqa: ASYNC110 - its deadline passes by itself
                await asyncio.sleep(0.02)
        assert (await other.users.fetch(user.id)).name == "New"
        assert (await held(db, user)).startswith(b"V")


async def test_a_load_under_a_mark_is_not_kept(db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch):
    """The commit of another is under way while this one loads what was there before."""
    load = db.users._shared.load

    async def loads_before(id: Any, company: Any) -> Any:
        row = await load(id, company)
        monkeypatch.undo()
        dying(monkeypatch, db)
        await db.users.update(id, name="New")
        return row

    monkeypatch.setattr(db.users._shared, "load", loads_before)
    assert await db.users.get(user.id) == user
    assert (await held(db, user)).startswith(b"W")
    assert (await db.users.fetch(user.id)).name == "New"
    assert db.users._family.metrics.fills_refused == 1


@pytest.mark.redis
@pytest.mark.parametrize("left", [0, 1, 2])
async def test_a_mark_survives_the_eviction_of_all_but_one_of_its_keys(
    db: MultiDB, user: User, left: int, monkeypatch: pytest.MonkeyPatch
):
    """The old value is loaded after that and before the commit, and the writer dies right after it."""

    @db.cached("test:{id}", ttl=timedelta(minutes=1), tags=["test:tag:{id}"])
    async def name(id: UUID) -> str:
        async with db.postgres.engine.connect() as connection:
            return str(await connection.scalar(text("SELECT name FROM users WHERE id = :id"), {"id": id}))

    async with MultiDB(db.settings) as other:
        mark = Transaction.mark

        async def loses_a_mark(self: Transaction) -> None:
            await mark(self)
            entry, tag = db.users._key(user.id), db.cache.pattern("test:tag:{id}").key({"id": user.id})
            for keys in map(with_witnesses, (entry, tag)):
                for key in (*keys[:left], *keys[left + 1 :]):
                    assert await db.redis.execute("DEL", key, operation="test")
            assert await other.users.get(user.id) == user
            assert await other.users.get_many([user.id]) == {user.id: user}
            assert await asyncio.create_task(name(user.id), context=Context()) == "Ada"

        monkeypatch.setattr(Transaction, "mark", loses_a_mark)
        dying(monkeypatch, db)
        async with db.transaction():
            await db.users.update(user.id, name="New")
            await db.cache.invalidate_tag("test:tag:{id}", id=user.id)
        assert (await other.users.fetch(user.id)).name == "New"
        assert (await other.users.get_many([user.id]))[user.id].name == "New"
        assert await name(user.id) == "New"


async def test_of_two_writers_one_that_died_keeps_its_mark(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    dying(monkeypatch, db)
    await db.users.update(user.id, name="New")
    monkeypatch.undo()
    await db.users.update(user.id, name="Newer")
    await db.users.update_many(id=user.id, changes={"name": "Newest"})
    assert (await held(db, user)).count(b":") == 1
    assert (await db.users.fetch(user.id)).name == "Newest"
    assert (await held(db, user)).startswith(b"W")


async def test_a_commit_costs_two_round_trips_whatever_it_changes(db: MultiDB, user: User, calls: Calls):
    others = [NewUser(email=f"{n}@example.com", name="N") for n in range(5)]
    await db.users.add_many(others)
    async with db.transaction():
        for other in others:
            await db.users.update(other.id, name="M")
            await db.users.update(user.id, name="M")
        async with db.transaction():
            await db.users.delete_many(name="N")
            await db.users.update_many(email="ada@example.com", changes={"name": "N"})
        await db.users.upsert(NewUser(email="ada@example.com", name="O"), on="email")
        assert calls.seen == []
    assert (calls.of("cache_mark"), calls.of("cache_unmark")) == ([6], [6])
    await db.users.update(user.id, name="Z")
    assert (calls.of("cache_mark"), calls.of("cache_unmark")) == ([6, 1], [6, 1])
    # And nothing at all where nothing that is cached changes.
    async with db.transaction() as transaction:
        with pytest.raises(KeyError):
            async with db.transaction():
                await db.users.update(user.id, name="Never")
                raise KeyError
        assert transaction._transaction.changed == {}
    assert len(calls.seen) == 4


async def test_commits_that_meet_share_their_round_trips(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    others = [NewUser(email=f"{n}@example.com", name="N") for n in range(60)]
    await db.users.add_many(others)
    await db.users.get(others[0].id)
    [node] = db.redis.opened.nodes
    trip, trips = node._trip, 0

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal trips
        trips += 1
        return await trip(*args, **options)

    monkeypatch.setattr(node, "_trip", counted)
    await asyncio.gather(*(db.users.update(other.id, name="M") for other in others))
    assert trips < 60


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_commit_is_not_failed_by_a_redis_that_is_away(
    db: MultiDB, user: User, in_transaction: bool, calls: Calls
):
    async with MultiDB(db.settings) as other:
        await other.users.get(user.id)
        calls.lost = {"cache_mark", "cache_unmark"}
        if in_transaction:
            async with db.transaction():
                await db.users.update(user.id, name="New")
        else:
            await db.users.update(user.id, name="New")
        # It is known here at once, and everywhere as soon as Redis hears of it.
        assert (await db.users.fetch(user.id)).name == "New"
        assert (await db.users.get_many([user.id]))[user.id].name == "New"
        calls.lost = set()
        async with asyncio.timeout(30):
            while db.cache._marks.owed:  # noqa: ASYNC110 - it is paid by itself
                await asyncio.sleep(0.01)
        assert (await other.users.fetch(user.id)).name == "New"


async def test_a_commit_is_marked_though_calls_are_refused(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    """Redis is back, and others have noticed: they may read, so the writer must not commit unmarked."""
    async with MultiDB(db.settings) as other:
        await other.users.get(user.id)
        dying(monkeypatch, db)
        [node] = db.redis.opened.nodes
        monkeypatch.setattr(node.breaker, "_pause", 60)
        for _ in range(db.settings.redis_breaker_limit):
            node.breaker.failed(asyncio.get_running_loop().time())
        with pytest.raises(UnavailableError):
            await db.redis.get("a", operation="test")
        await db.users.update(user.id, name="New")
        assert (await held(other, user)).startswith(b"W")
        # And now it is known here too.
        assert await db.redis.get("a", operation="test") is None


async def test_what_is_owed_is_tried_once_more_when_closing(
    db: MultiDB, multidb_settings: Settings, user: User, monkeypatch: pytest.MonkeyPatch
):
    async with MultiDB(multidb_settings) as closing:
        await closing.users.get(user.id)
        calls = Calls(closing, monkeypatch)
        monkeypatch.setattr("multidb.cache.marks.Pauses.next", lambda _: 60)
        calls.lost = {"cache_mark", "cache_unmark"}
        await closing.users.update(user.id, name="New")
        calls.lost = set()
    assert (await db.users.fetch(user.id)).name == "New"


async def test_what_is_owed_is_tried_on_once_it_is_open_again(
    multidb_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    db = MultiDB(multidb_settings)

    @db.cached("test:{n}", ttl=timedelta(minutes=1))
    async def number(n: int) -> int:
        return n

    async with db:
        await number(1)
        calls = Calls(db, monkeypatch)
        calls.lost = {"cache_unmark"}
        await number.invalidate(1)
    calls.lost = set()
    async with db, asyncio.timeout(30):
        assert await number.peek(1) is None
        while db.cache._marks.owed:  # noqa: ASYNC110 - it is paid by itself
            await asyncio.sleep(0.01)
        assert await number(1) == await number(1) == 1
    assert number.metrics.hits == 1


async def test_a_cancellation_while_it_is_marked_rolls_back_and_takes_the_mark_back(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    mark = Transaction.mark
    marking = asyncio.Event()

    async def marks_slowly(self: Transaction) -> None:
        await mark(self)
        marking.set()
        await asyncio.sleep(0.05)

    monkeypatch.setattr(Transaction, "mark", marks_slowly)

    async def write() -> None:
        async with db.transaction():
            await db.users.update(user.id, name="Never")

    writer = asyncio.create_task(write())
    await marking.wait()
    assert (await held(db, user)).startswith(b"W")
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert await held(db, user) == b""
    assert await db.users.get(user.id) == user


async def test_what_another_run_of_the_server_has_left_is_not_believed(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    """After a restart, or a failover: invalidations may have been missed meanwhile."""
    await db.users.get(user.id)
    async with db.postgres.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE users SET name = 'behind the back'")
    assert await db.users.get(user.id) == user
    [node] = db.redis.opened.nodes
    monkeypatch.setattr(node, "incarnation", b"another run of the server")
    assert (await db.users.fetch(user.id)).name == "behind the back"
    async with db.postgres.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE users SET name = 'again'")
    assert (await db.users.fetch(user.id)).name == "behind the back"


async def test_a_server_that_is_back_is_not_filled_at_once(
    db: MultiDB, user: User, calls: Calls, monkeypatch: pytest.MonkeyPatch
):
    """A commit could not be marked while it was away, and is over once it is back; its process dies then."""

    async with MultiDB(db.settings) as other:
        [node] = other.redis.opened.nodes
        mark = Transaction.mark

        async def is_not_heard(self: Transaction) -> None:
            await mark(self)
            monkeypatch.setattr(node, "incarnation", b"the run before")
            for connection in node._connections._idle:
                await connection.disconnect()
            assert await other.users.get(user.id) == user
            assert await other.users.get_many([user.id]) == {user.id: user}

        monkeypatch.setattr(Transaction, "mark", is_not_heard)
        calls.lost = {"cache_mark"}
        dying(monkeypatch, db)
        async with db.transaction():
            await db.users.update(user.id, name="New")
        assert not other.redis.is_settled("a")
        assert (await other.users.fetch(user.id)).name == "New"
        assert (await other.users.get_many([user.id]))[user.id].name == "New"
        monkeypatch.setattr(node, "_settled", 0)
        assert (await other.users.fetch(user.id)).name == "New"
        assert (await held(db, user)).startswith(b"V")


async def test_a_server_that_was_just_started_is_not_filled_at_once(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    uptime = (await db.redis.client.info("server"))["uptime_in_seconds"]
    for older in (-1, 600):
        monkeypatch.setattr("multidb.stores.redis.node._SETTLING", uptime + older)
        async with MultiDB(db.settings) as other:
            assert await other.users.get(user.id) == user
            assert await other.users.get_many([user.id]) == {user.id: user}
            assert await other.redis.get("a", operation="test") is None
            assert other.redis.is_settled("a") == (older < 0)

            @other.cached("test:{n}", ttl=timedelta(minutes=1))
            async def number(n: int) -> int:
                return n

            assert await number.refresh(1) == 1
            assert (await number.peek(1) == 1) == (older < 0)
            await number.invalidate(1)
            assert (await held(db, user)).startswith(b"V") == (older < 0)
            await db.users.update(user.id, name=user.name)
            user = await db.users.fetch(user.id)
            await db.cache.invalidate([db.users._key(user.id)])


async def test_the_server_says_which_run_it_is(db: MultiDB):
    await db.redis.get("a", operation="test")
    info = await db.redis.client.info("server")
    assert db.redis.incarnation("a") == info["run_id"].encode()
