"""Cache-aside: right under every interleaving, and never needed for an answer."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from multidb import (
    AppendOnlyRepository,
    ConfigurationError,
    DataError,
    MultiDB,
    NewUser,
    SystemLog,
    UnavailableError,
    User,
    cached,
    uuid7,
)
from multidb.settings import Settings
from multidb.stores.redis.commands import Command, script

TTL = timedelta(minutes=1)


@pytest.fixture
async def user(db: MultiDB) -> User:
    return await db.users.add(NewUser(email="ada@example.com", name="Ada"))


def key_of(db: MultiDB, user: User) -> str:
    return f"{db.settings.key_prefix}cache:user:{{{user.id}}}"


async def stored(db: MultiDB, user: User) -> bytes | None:
    return await db.redis.get(key_of(db, user), operation="test")


class Pause:
    """Holds whoever passes until it is let on: the means to force an interleaving."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.let_on = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.let_on.wait()


def before(
    monkeypatch: pytest.MonkeyPatch, db: MultiDB, scripts: set[str], action: Callable[[], Awaitable[None]]
) -> None:
    """Do something before each call of Redis that runs one of these scripts."""
    send = db.redis.send

    async def sent(commands: Sequence[Command], **options: Any) -> list[Any]:
        if any(command.script == script(name) for command in commands for name in scripts):
            await action()
        return await send(commands, **options)

    monkeypatch.setattr(db.redis, "send", sent)


@pytest.mark.redis
async def test_get_fills_and_then_reads_the_cache(db: MultiDB, user: User):
    assert await stored(db, user) is None
    assert await db.users.get(user.id) == user
    assert (await stored(db, user) or b"").startswith(b"V")
    async with db.postgres.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE users SET name = 'behind the back'")
    assert await db.users.get(user.id) == user


@pytest.mark.redis
async def test_entries_expire(db: MultiDB, user: User):
    await db.users.get(user.id)
    ttl = await db.redis.client.pttl(key_of(db, user))
    assert 0 < ttl <= timedelta(minutes=5).total_seconds() * 1000


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_every_write_is_seen_by_the_next_read(db: MultiDB, user: User, in_transaction: bool):
    async def write(call) -> None:
        await db.users.get(user.id)  # fills the cache, if there is a row
        if in_transaction:
            async with db.transaction():
                await call
        else:
            await call

    await write(db.users.update(user.id, name="Updated"))
    assert (await db.users.fetch(user.id)).name == "Updated"
    await write(db.users.delete(user.id))
    assert await db.users.get(user.id) is None
    await write(db.users.restore(user.id))
    assert (await db.users.fetch(user.id)).version == 4


async def test_absence_is_not_cached(db: MultiDB):
    new = NewUser(email="late@example.com", name="Late")
    assert await db.users.get(new.id) is None
    added = await db.users.add(new)
    assert await db.users.get(new.id) == added


@pytest.mark.redis
async def test_a_load_that_began_before_a_write_is_not_kept(db: MultiDB, user: User, monkeypatch):
    """The stale fill: read the old row, lose the processor, and come back after the invalidation."""
    pause = Pause()
    load = db.users._shared.load

    async def slow_load(id: UUID, company: UUID | None) -> User | None:
        row = await load(id, company)
        await pause()
        return row

    monkeypatch.setattr(db.users._shared, "load", slow_load)
    reader = asyncio.create_task(db.users.get(user.id))
    await pause.reached.wait()
    monkeypatch.undo()

    await db.users.update(user.id, name="New")
    pause.let_on.set()
    assert await reader == user  # it had read before the write
    assert await stored(db, user) is None
    assert (await db.users.fetch(user.id)).name == "New"


async def test_a_load_before_a_write_does_not_fill_the_lease_of_one_after_it(
    db: MultiDB, user: User, monkeypatch
):
    """Two readers, a write between them: the first must not use the second's lease."""
    first, second = Pause(), Pause()
    pauses = iter([first, second])
    load = db.users._shared.load

    async def slow_load(id: UUID, company: UUID | None) -> User | None:
        row = await load(id, company)
        await next(pauses)()
        return row

    monkeypatch.setattr(db.users._shared, "load", slow_load)
    old = asyncio.create_task(db.users.get(user.id))
    await first.reached.wait()
    monkeypatch.setattr(db.users._shared, "load", load)
    await db.users.update(user.id, name="New")
    monkeypatch.setattr(db.users._shared, "load", slow_load)
    new = asyncio.create_task(db.users.get(user.id))
    await second.reached.wait()

    first.let_on.set()
    assert await old == user
    assert (await stored(db, user) or b"").startswith(b"L")
    second.let_on.set()
    assert getattr(await new, "name", None) == "New"
    monkeypatch.undo()
    assert (await db.users.fetch(user.id)).name == "New"


@pytest.mark.redis
async def test_who_finds_anothers_lease_for_too_long_loads_and_stores_nothing(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(db.cache._leases, "_patience", 0.02)
    await db.redis.client.set(key_of(db, user), "Lsomeone-else")
    assert await db.users.get(user.id) == user
    assert await stored(db, user) == b"Asomeone-else"


async def test_the_row_a_transaction_rolled_back_never_reaches_the_cache(db: MultiDB, user: User):
    with pytest.raises(KeyError):
        async with db.transaction():
            await db.users.update(user.id, name="Never")
            assert (await db.users.fetch(user.id)).name == "Never"
            raise KeyError
    assert await stored(db, user) is None
    assert await db.users.get(user.id) == user


async def test_a_transactions_write_is_invalidated_after_the_commit_not_before(db: MultiDB, user: User):
    async with db.transaction():
        await db.users.update(user.id, name="New")
        old = await asyncio.create_task(other_readers_view(db, user))
        assert old == user
    assert (await db.users.fetch(user.id)).name == "New"


async def other_readers_view(db: MultiDB, user: User) -> User | None:
    """Read as another process would: it fills the cache with what is committed."""
    async with MultiDB(db.settings) as other:
        return await other.users.get(user.id)


async def test_a_savepoint_released_as_its_caller_is_cancelled_keeps_its_invalidation(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    """The cancellation is caught inside the outer transaction, which then commits."""
    await db.users.get(user.id)
    async with db.transaction() as outer:
        with pytest.raises(asyncio.CancelledError):
            async with db.transaction():
                await db.users.update(user.id, name="New")
                # Takes effect at the next await: the release of the savepoint.
                current = asyncio.current_task()
                assert current is not None
                current.cancel()
        assert current is not None
        current.uncancel()
        assert [list(keys) for keys in outer._transaction.changed.values()] == [[key_of(db, user)]]
    assert (await db.users.fetch(user.id)).name == "New"


async def test_a_savepoint_rolled_back_forgets_its_invalidation(db: MultiDB, user: User):
    await db.users.get(user.id)
    async with db.transaction() as outer:
        with pytest.raises(KeyError):
            async with db.transaction():
                await db.users.update(user.id, name="Never")
                raise KeyError
        assert outer._transaction.changed == {}
    assert (await stored(db, user) or b"").startswith(b"V")


async def test_the_invalidation_outlives_a_cancellation(db: MultiDB, user: User, monkeypatch):
    pause = Pause()
    await db.users.get(user.id)
    before(monkeypatch, db, {"cache_unmark"}, pause)
    writer = asyncio.create_task(db.users.update(user.id, name="New"))
    await pause.reached.wait()
    writer.cancel()
    pause.let_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert (await db.users.fetch(user.id)).name == "New"


@pytest.mark.redis
async def test_a_cancelled_or_failed_load_gives_its_lease_back(db: MultiDB):
    started = asyncio.Event()

    @db.cached("test:{n}", ttl=TTL)
    async def load(n: int) -> int:
        started.set()
        if n:
            raise KeyError(n)
        await asyncio.Event().wait()
        return n

    with pytest.raises(KeyError):
        await load(1)
    task = asyncio.create_task(load(0))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [key async for key in db.redis.client.scan_iter(f"{db.settings.key_prefix}test:*")] == []


async def test_a_value_of_an_older_schema_is_a_miss(db: MultiDB, user: User):
    await db.redis.client.set(key_of(db, user), b'V00000000{"id":1}')
    assert await db.users.get(user.id) == user
    assert (await stored(db, user) or b"")[1:9] != b"00000000"
    await db.redis.client.set(key_of(db, user), (await stored(db, user) or b"")[:9] + b"{broken")
    assert await db.users.get(user.id) == user


async def test_uncached_reads_the_store_and_leaves_the_cache_alone(db: MultiDB, user: User):
    await db.users.get(user.id)
    before = await stored(db, user)
    async with db.postgres.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE users SET name = 'behind the back'")
    with db.uncached():
        assert (await db.users.fetch(user.id)).name == "behind the back"
    assert await stored(db, user) == before
    assert await db.users.get(user.id) == user


async def test_another_spelling_of_an_id_is_refused(db: MultiDB, user: User):
    with pytest.raises(DataError, match="`id` must be a UUID, not str"):
        await db.users.get(str(user.id).upper())  # type: ignore[arg-type]


# --- the decorator


@pytest.mark.redis
async def test_cached_loads_once_and_again_after_an_invalidation(db: MultiDB):
    calls: list[tuple[int, str]] = []

    @db.cached("test:{a}:{b}", ttl=TTL)
    async def load(a: int, b: str = "x") -> dict[str, list[UUID]]:
        calls.append((a, b))
        return {b: [uuid7()]}

    first = await load(1)
    assert await load(a=1, b="x") == first
    await load(1, "y")
    assert calls == [(1, "x"), (1, "y")]
    await load.invalidate(1)
    assert await load(1) != first
    assert calls == [(1, "x"), (1, "y"), (1, "x")]


async def test_cached_inside_a_transaction_calls_the_function_and_invalidates_after(db: MultiDB):
    calls = 0

    @db.cached("test:{n}", ttl=TTL)
    async def load(n: int) -> int:
        nonlocal calls
        calls += 1
        return calls

    assert await load(1) == 1
    async with db.transaction():
        assert await load(1) == 2
        await load.invalidate(1)
        # Not before the commit: until then the old value is the right one for everybody else.
        assert await db.redis.client.exists(f"{db.settings.key_prefix}test:{{1}}")
    assert await load(1) == 3


@pytest.mark.parametrize("value", ["not a number", Decimal("1.5"), (1, 2)])
async def test_a_value_that_would_come_back_changed_is_returned_and_not_stored(
    db: MultiDB, value: Any, caplog: pytest.LogCaptureFixture
):
    @db.cached("test:{n}", ttl=TTL)
    async def load(n: int) -> int | list[Any]:
        return value  # type: ignore[no-any-return]

    for _ in range(3):
        assert await load(1) == value
    assert not await db.redis.client.exists(f"{db.settings.key_prefix}test:{{1}}")
    assert len([each for each in caplog.records if "not cached" in each.message]) == 1


@pytest.mark.mongo
async def test_what_a_transaction_of_mongodb_changes_is_invalidated_after_its_commit(db: MultiDB):
    @db.cached("test:{service}", ttl=TTL)
    async def logged(service: str) -> int:
        return await db.system_logs.count(service=service)

    async def elsewhere() -> int:
        return await asyncio.create_task(logged("a"), context=contextvars.Context())

    assert await logged("a") == 0
    async with db.mongo_transaction():
        await db.system_logs.append(SystemLog(level="info", service="a", message="m"))
        await logged.invalidate("a")
        assert await elsewhere() == await elsewhere() == 0
        assert await logged("a") == 1
    assert await logged("a") == 1
    assert logged.metrics.hits == 1


async def test_a_method_of_a_repository_can_be_cached(multidb_settings: Settings):
    loads: list[str] = []

    class NoteRepository(AppendOnlyRepository[SystemLog]):
        collection = "notes"

        @cached("cache:notes:{service}", ttl=TTL)
        async def loudest(self, service: str) -> list[str]:
            loads.append(service)
            page = await self.find(service=service)
            return [entry.message for entry in page]

    async with MultiDB(multidb_settings, repositories=[NoteRepository]) as db:
        notes = db[NoteRepository]
        assert await notes.loudest("a") == await notes.loudest(service="a") == []
        assert await notes.loudest("b") == []
        await notes.loudest.invalidate("a")
        assert await notes.loudest("a") == []
    assert loads == ["a", "b", "a"]


def test_a_methods_key_is_checked_when_it_is_declared():
    with pytest.raises(ConfigurationError, match=r"names `nme`, which is not a parameter of .*it has name"):

        class BrokenRepository(AppendOnlyRepository[SystemLog]):
            @cached("cache:notes:{nme}", ttl=TTL)
            async def loudest(self, name: str) -> int:
                return len(name)


# --- Redis away


@pytest.fixture
async def without_redis(multidb_settings: Settings, unused_tcp_port: int):
    settings = multidb_settings.model_copy(
        update={
            "redis_url": type(multidb_settings.redis_url)(f"redis://127.0.0.1:{unused_tcp_port}/0"),
            "degradable_stores": frozenset({"redis"}),
        }
    )
    async with MultiDB(settings) as db:
        yield db


async def test_without_redis_reads_and_writes_go_on(without_redis: MultiDB, caplog):
    db = without_redis
    caplog.set_level(logging.WARNING, "multidb.cache")
    user = await db.users.add(NewUser(email="ada@example.com", name="Ada"))
    assert await db.users.get(user.id) == user
    renamed = await db.users.update(user.id, name="New")
    assert await db.users.get(user.id) == renamed
    async with db.transaction():
        await db.users.update(user.id, name="Newer")
    assert (await db.users.fetch(user.id)).name == "Newer"
    assert db.cache.outage.calls >= 4
    assert len([each for each in caplog.records if "Redis is away" in each.message]) == 1


@pytest.mark.redis
async def test_an_entry_of_another_kind_costs_no_answer(db: MultiDB, user: User):
    await db.redis.client.rpush(key_of(db, user), "a list")
    assert await db.users.get(user.id) == user
    await db.users.update(user.id, name="New")
    assert (await db.users.fetch(user.id)).name == "New"


async def test_an_invalidation_that_did_not_reach_redis_is_made_up_for(
    db: MultiDB, user: User, monkeypatch: pytest.MonkeyPatch
):
    async def lost() -> None:
        raise UnavailableError("Redis stalls", store="redis")

    await db.users.get(user.id)
    before(monkeypatch, db, {"cache_mark", "cache_unmark"}, lost)
    renamed = await db.users.update(user.id, name="New")
    assert (await stored(db, user) or b"").startswith(b"V")
    # Redis answers reads, and still not the invalidation.
    assert await db.users.get(user.id) == renamed
    monkeypatch.undo()
    async with asyncio.timeout(30):
        while db.cache._marks.owed:  # noqa: ASYNC110 - it is paid by itself
            await asyncio.sleep(0.01)
    assert await db.users.get(user.id) == renamed
    async with MultiDB(db.settings) as other:
        assert await other.users.get(user.id) == renamed


async def test_without_redis_a_cached_function_is_called(without_redis: MultiDB):
    @without_redis.cached("test:{n}", ttl=TTL)
    async def load(n: int) -> int:
        return n

    assert await load(3) == 3
    await load.invalidate(3)
