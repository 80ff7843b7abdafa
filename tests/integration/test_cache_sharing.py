"""Loads are shared: in a process, and between processes; never with who must not be given them."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from multidb import MultiDB, NewUser, User

TTL = timedelta(minutes=1)


class Loader:
    """Counts its calls, and lets them go on when told."""

    def __init__(self) -> None:
        self.calls = 0
        self.began = asyncio.Event()
        self.let_on = asyncio.Event()

    async def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        self.began.set()
        await self.let_on.wait()
        return number


async def settled(*awaitables: Any) -> None:
    """Let tasks come as far as they can."""
    for _ in range(50):
        await asyncio.sleep(0.001)


@pytest.mark.redis
async def test_a_thousand_callers_in_four_processes_cost_one_load(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    load = Loader()
    async with AsyncExitStack() as stack:
        # Each has its own connections, and knows nothing of the others.
        processes = [db, *[await stack.enter_async_context(MultiDB(db.settings)) for _ in range(3)]]

        def function(process: MultiDB) -> Any:
            @process.cached("test:{n}", ttl=TTL)
            async def cold(n: int) -> int:
                return await load()

            return cold

        functions = [function(process) for process in processes]
        gets = 0
        for process in processes:
            look = process.cache._leases.look

            async def counted(entry: Any, look: Any = look) -> Any:
                nonlocal gets
                gets += 1
                return await look(entry)

            monkeypatch.setattr(process.cache._leases, "look", counted)
        callers = [asyncio.create_task(functions[n % 4](1)) for n in range(1000)]
        await load.began.wait()
        await settled()
        before = gets
        await settled()
        assert gets == before, "they poll"
        load.let_on.set()
        assert set(await asyncio.gather(*callers)) == {1}
        assert load.calls == 1
        # Woken, each process looks once more.
        assert gets <= before + 3


async def test_who_calls_after_a_write_does_not_share_a_load_from_before_it(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    user = await db.users.add(NewUser(email="a@b", name="Old"))
    load = db.users._shared.load
    read, let_on = asyncio.Event(), asyncio.Event()

    async def slow(id: UUID, company: UUID | None) -> User | None:
        row = await load(id, company)
        read.set()
        await let_on.wait()
        return row

    monkeypatch.setattr(db.users._shared, "load", slow)
    early = asyncio.create_task(db.users.fetch(user.id))
    await read.wait()
    same = asyncio.create_task(db.users.fetch(user.id))
    await settled()
    monkeypatch.setattr(db.users._shared, "load", load)
    await db.users.update(user.id, name="New")
    assert (await db.users.fetch(user.id)).name == "New"
    let_on.set()
    # Both called before the write.
    assert {(await early).name, (await same).name} == {"Old"}
    assert db.users._family.metrics.fills_refused == 1


async def test_a_cancelled_caller_leaves_the_load_to_the_others(db: MultiDB):
    load = Loader()

    @db.cached("test:{n}", ttl=TTL)
    async def cold(n: int) -> list[int]:
        return [await load()]

    callers = [asyncio.create_task(cold(1)) for _ in range(3)]
    await load.began.wait()
    await settled()
    callers[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    load.let_on.set()
    second, third = await asyncio.gather(*callers[1:])
    assert second == third == [1]
    # To each an object of its own.
    assert second is not third
    assert load.calls == 1


async def test_two_of_one_key_share_no_load(db: MultiDB):
    load = Loader()

    @db.cached("test:{n}", ttl=TTL)
    async def number(n: int) -> int:
        return await load()

    @db.cached("test:{n}", ttl=TTL)
    async def text(n: int) -> str | None:
        return str(await load())

    callers = [asyncio.create_task(each(1)) for each in (number, text, number)]
    await load.began.wait()
    await settled()
    load.let_on.set()
    assert await asyncio.gather(*callers) == [1, "2", 1]


async def test_who_calls_while_a_cancelled_load_ends_is_not_cancelled_with_it(db: MultiDB):
    load, ending = Loader(), asyncio.Event()

    @db.cached("test:{n}", ttl=TTL)
    async def cold(n: int) -> int:
        try:
            return await load()
        finally:
            await ending.wait()

    first = asyncio.create_task(cold(1))
    await load.began.wait()
    first.cancel()
    await settled()
    second = asyncio.create_task(cold(1))
    await settled()
    ending.set()
    load.let_on.set()
    assert await second == 2
    assert first.cancelled()


async def test_an_error_is_everybodys_and_nothing_is_stored(db: MultiDB):
    load = Loader()

    @db.cached("test:{n}", ttl=TTL)
    async def failing(n: int) -> int:
        await load()
        raise KeyError(n)

    callers = [asyncio.create_task(failing(1)) for _ in range(3)]
    await load.began.wait()
    await settled()
    load.let_on.set()
    errors = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(error) for error in errors] == [KeyError] * 3
    assert len(set(map(id, errors))) == 3
    assert load.calls == 1
    with pytest.raises(KeyError):
        await failing(1)
    assert failing.metrics.load_errors == 2


async def test_an_error_that_cannot_be_made_anew_is_everybodys_as_it_is(db: MultiDB):
    class ResponseError(Exception):
        def __init__(self, status: int, *, url: str) -> None:
            super().__init__(f"{url} answered {status}")

    class MissingError(Exception):
        def __init__(self, name: str) -> None:
            super().__init__(f"there is no {name}")

    @db.cached("test:{n}", ttl=TTL)
    async def failing(n: int) -> int:
        await asyncio.sleep(0)
        raise ResponseError(n, url="http://a") if n == 404 else MissingError("x")

    for n, text in ((404, "http://a answered 404"), (1, "there is no x")):
        errors = await asyncio.gather(*(failing(n) for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in errors] == [text] * 3


async def test_who_dies_loading_keeps_others_waiting_for_so_long_at_most(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(db.cache._leases, "_patience", 0.05)

    @db.cached("test:{n}", ttl=TTL)
    async def cold(n: int) -> int:
        return n

    key = f"{db.settings.key_prefix}test:{{1}}"
    await db.redis.execute("SET", key, "Ldead", "PX", 60_000, operation="test")
    assert await asyncio.gather(*(cold(1) for _ in range(5))) == [1] * 5
    assert cold.metrics.loads == 1
    assert await db.redis.get(key, operation="test") == b"Adead"
    # And an invalidation wakes them.
    monkeypatch.setattr(db.cache._leases, "_patience", 60)
    waiting = asyncio.create_task(cold(1))
    await settled()
    await cold.invalidate(1)
    async with asyncio.timeout(30):
        assert await waiting == 1


async def test_closing_leaves_no_load_behind(db: MultiDB):
    load = Loader()
    async with MultiDB(db.settings) as closing:

        @closing.cached("test:{n}", ttl=TTL)
        async def cold(n: int) -> int:
            return await load()

        caller = asyncio.create_task(cold(1))
        await load.began.wait()
        closed = asyncio.create_task(closing.close())
        await settled()
        load.let_on.set()
        await closed
        assert await caller == 1
    assert await db.redis.get(f"{db.settings.key_prefix}test:{{1}}", operation="test") is not None


async def test_a_refresh_takes_over_from_a_loader_that_others_wait_for(db: MultiDB):
    @db.cached("test:{n}", ttl=TTL)
    async def cold(n: int) -> int:
        return n

    key = f"{db.settings.key_prefix}test:{{1}}"
    await db.redis.execute("SET", key, "Lelsewhere", "PX", 60_000, operation="test")
    waiting = asyncio.create_task(cold(1))
    await settled()
    assert await db.redis.get(key, operation="test") == b"Aelsewhere"
    async with asyncio.timeout(30):
        assert await cold.refresh(1) == await waiting == 1
    assert cold.metrics.loads == 1


# --- several at once


@pytest.mark.redis
async def test_get_many_looks_once_and_loads_once(
    db: MultiDB, statements: list[str], monkeypatch: pytest.MonkeyPatch
):
    users = [NewUser(email=f"{n}@example.com", name="N") for n in range(6)]
    await db.users.add_many(users)
    ids = [user.id for user in users]
    await db.users.get(ids[2])
    statements.clear()
    found = await db.users.get_many([*ids[::-1], ids[0]])
    assert list(found) == ids[::-1]
    assert len(statements) == 1
    assert "ANY" in statements[0]
    assert await db.users.get_many(ids) == {id: found[id] for id in ids}
    assert len(statements) == 1
    assert (db.users._family.metrics.hits, db.users._family.metrics.misses) == (7, 6)
    # Fills as a single read does, and is as right.
    assert await db.users.get(ids[0]) == found[ids[0]]
    assert len(statements) == 1
    await db.users.update(ids[0], name="New")
    assert (await db.users.get_many(ids))[ids[0]].name == "New"
    await db.users.delete(ids[1])
    assert list(await db.users.get_many(ids)) == [ids[0], *ids[2:]]
    async with db.transaction():
        await db.users.update(ids[0], name="Newer")
        assert (await db.users.get_many(ids))[ids[0]].name == "Newer"


async def test_a_cancelled_get_many_gives_its_leases_back(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    user = await db.users.add(NewUser(email="a@b", name="A"))
    send, sent = db.redis.send, asyncio.Event()

    async def unanswered(*args: Any, **kwargs: Any) -> Any:
        await send(*args, **kwargs)
        monkeypatch.undo()
        sent.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(db.redis, "send", unanswered)
    task = asyncio.create_task(db.users.get_many([user.id]))
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    key = f"{db.settings.key_prefix}cache:user:{{{user.id}}}"
    assert await db.redis.get(key, operation="test") is None


async def test_rows_loaded_for_many_before_a_write_are_not_kept(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    user = await db.users.add(NewUser(email="a@b", name="Old"))
    run = db.users._run

    async def writes_after(*args: Any) -> Any:
        rows = await run(*args)
        monkeypatch.undo()
        await db.users.update(user.id, name="New")
        return rows

    monkeypatch.setattr(db.users, "_run", writes_after)
    assert (await db.users.get_many([user.id]))[user.id].name == "Old"
    assert (await db.users.get_many([user.id]))[user.id].name == "New"
