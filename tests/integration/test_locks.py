"""Locks on documents: one holder while all is well, and fences for when it is not."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import RedisCluster

from multidb import (
    ConflictError,
    DataError,
    LockError,
    LockLostError,
    LockNotAcquiredError,
    MultiDB,
    NewCompany,
    NewDocument,
    NewUser,
    uuid7,
)
from multidb.settings import Settings

MOMENT = timedelta(milliseconds=50)
LONG = timedelta(seconds=30)
NO_WAIT = timedelta(0)


@pytest.fixture
async def other(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """Another process, as far as locks can tell."""
    async with MultiDB(multidb_settings) as opened:
        yield opened


def key_of(db: MultiDB, id: UUID) -> str:
    return f"{db.settings.key_prefix}lock:document:{{{id}}}"


async def lock_keys(db: MultiDB) -> list[str]:
    """Return what is left of locks but their fences."""
    keys = [key.decode() async for key in db.redis.client.scan_iter(f"{db.settings.key_prefix}lock:*")]
    # Nor do the notes of those who gave up hold anything.
    return [key for key in keys if not re.search(r":(fence|[0-9a-f]{32})$", key)]


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - Redis tells nobody who waits
            await asyncio.sleep(0.001)


async def subscribed(db: MultiDB, id: UUID, count: int = 1) -> None:
    """Wait until somebody waits for the lock to be given back."""

    async def told() -> bool:
        # In a cluster who listens does so at one node.
        nodes: list[Any] = db.redis.client.get_nodes() if isinstance(db.redis.client, RedisCluster) else []
        asked = [{"target_nodes": node} for node in nodes] or [{}]
        replies = [
            await db.redis.client.execute_command("PUBSUB NUMSUB", key_of(db, id), **each) for each in asked
        ]
        return bool(sum(number for [(_, number)] in replies) >= count)

    await until(told)


async def queued(db: MultiDB, id: UUID, count: int) -> None:
    async def told() -> bool:
        return bool(await db.redis.client.zcard(f"{key_of(db, id)}:queue") == count)

    await until(told)


@asynccontextmanager
async def elsewhere(db: MultiDB, id: UUID, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Hold a lock in another task while the block runs."""
    holds, may_end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with db.locks.document(id, **options):
            holds.set()
            await may_end.wait()

    task = asyncio.create_task(hold())
    try:
        async with asyncio.timeout(30):
            await holds.wait()
        yield task
    finally:
        may_end.set()
        await asyncio.gather(task, return_exceptions=True)


# --- one holder


@pytest.mark.redis
async def test_nobody_else_gets_a_lock_that_is_held(db: MultiDB, other: MultiDB):
    id = uuid7()
    async with db.locks.document(id, ttl=LONG) as lock:
        assert lock.held
        assert 0 < await db.redis.client.pttl(key_of(db, id)) <= 30_000
        refused = other.locks.document(id, wait=NO_WAIT)
        with pytest.raises(LockNotAcquiredError) as caught:
            async with refused:
                pytest.fail("two hold it")
        assert not refused.held
        assert caught.value.retryable
        async with other.locks.document(uuid7(), wait=NO_WAIT):
            pass
    assert await lock_keys(db) == []
    async with other.locks.document(id, wait=NO_WAIT) as next_one:
        assert next_one.fence > lock.fence


async def test_waiting_ends_in_time(db: MultiDB, other: MultiDB):
    id = uuid7()
    async with db.locks.document(id):
        for fair in (False, True):
            with pytest.raises(LockNotAcquiredError):
                async with other.locks.document(id, wait=MOMENT, fair=fair):
                    pytest.fail("two hold it")
        assert await lock_keys(db) == [key_of(db, id)]


@pytest.mark.redis
@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("ours", [False, True])
async def test_who_waits_is_woken(db: MultiDB, other: MultiDB, fair: bool, ours: bool):
    """The lock lives for a day: who got it had been told."""
    id, waiting = uuid7(), db if ours else other
    async with elsewhere(db, id, ttl=timedelta(days=1)):

        async def wait() -> int:
            async with waiting.locks.document(id, fair=fair) as lock:
                return lock.fence

        tasks = [asyncio.create_task(wait()) for _ in range(5)]
        await subscribed(db, id)
    async with asyncio.timeout(30):
        fences = await asyncio.gather(*tasks)
    assert len(set(fences)) == 5
    assert await lock_keys(db) == []


@pytest.mark.parametrize("fair", [False, True])
async def test_what_is_done_under_a_lock_is_done_one_at_a_time(db: MultiDB, other: MultiDB, fair: bool):
    id, inside, fences = uuid7(), 0, []

    async def work(database: MultiDB) -> None:
        nonlocal inside
        async with database.locks.document(id, fair=fair) as lock:
            inside += 1
            assert inside == 1
            fences.append(lock.fence)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work(each) for each in (db, other) * 20))
    assert fences == sorted(set(fences))
    assert len(fences) == 40
    assert await lock_keys(db) == []


async def test_a_fair_lock_goes_to_who_came_first(db: MultiDB, other: MultiDB):
    id, order = uuid7(), []

    async def wait(number: int) -> None:
        async with (db, other)[number % 2].locks.document(id, fair=True):
            order.append(number)

    async with elsewhere(db, id):
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(wait(number)))
            await queued(db, id, number + 1)
        # Who does not queue passes nobody.
        with pytest.raises(LockNotAcquiredError):
            async with other.locks.document(id, wait=NO_WAIT):
                pytest.fail("it passed them")
    await asyncio.gather(*tasks)
    assert order == list(range(6))
    assert await lock_keys(db) == []


async def test_who_leaves_the_queue_keeps_nobody(db: MultiDB, other: MultiDB):
    id = uuid7()
    async with elsewhere(db, id):
        leaving = asyncio.create_task(db.locks.document(id, fair=True).__aenter__())
        await queued(db, id, 1)
        staying = asyncio.create_task(other.locks.document(id, fair=True).__aenter__())
        await queued(db, id, 2)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await queued(db, id, 1)
    assert (await asyncio.wait_for(staying, 10)).held


async def test_the_dead_in_the_queue_are_passed(db: MultiDB):
    """A process that was killed while it waited."""
    id = uuid7()
    key = key_of(db, id)
    await db.redis.client.zadd(f"{key}:queue", {"dead": 1})
    await db.redis.client.zadd(f"{key}:waiting", {"dead": 1})
    async with db.locks.document(id, wait=NO_WAIT, fair=True):
        pass
    assert await lock_keys(db) == []


async def test_a_lock_that_nobody_gave_back_is_free_after_its_time(db: MultiDB):
    """A process that was killed while it held it: nobody tells those who wait."""
    id = uuid7()
    for fair in (False, True):
        await db.redis.client.set(key_of(db, id), "dead", px=50)
        async with asyncio.timeout(30), db.locks.document(id, fair=fair):
            pass


# --- fences


async def test_fences_grow_though_redis_loses_everything(db: MultiDB):
    id, fences = uuid7(), []
    for _ in range(5):
        async with db.locks.document(id) as lock:
            fences.append(lock.fence)
        await db.redis.client.delete(f"{key_of(db, id)}:fence")
    assert fences == sorted(set(fences))


async def test_fences_grow_though_the_clock_steps_back(db: MultiDB):
    id = uuid7()
    async with db.locks.document(id) as lock:
        pass
    ahead = lock.fence + 3_600_000_000
    await db.redis.client.set(f"{key_of(db, id)}:fence", ahead)
    async with db.locks.document(id) as lock:
        assert lock.fence == ahead + 1
    # It outlives the lock, and not for ever.
    assert 86_400_000 < await db.redis.client.pttl(f"{key_of(db, id)}:fence") <= 2 * 86_400_000


async def test_a_holder_who_was_passed_cannot_write(db: MultiDB, other: MultiDB):
    user = await db.users.add(NewUser(email="a@b", name="A"))
    company = await db.companies.add(NewCompany(name="A", slug="a"))
    document = await db.documents.add(NewDocument(company_id=company.id, owner_id=user.id, title="0"))
    with pytest.raises(LockLostError):
        async with db.locks.document(document.id) as late:
            await db.documents.update(document.id, title="1", fence=late.fence)
            # As if this process had stood still: its time is over, and another comes.
            await db.redis.client.delete(key_of(db, document.id))
            async with other.locks.document(document.id) as lock:
                await other.documents.update(document.id, title="2", fence=lock.fence)
            with pytest.raises(ConflictError, match="later lock") as caught:
                await db.documents.update(document.id, title="3", fence=late.fence)
            assert not caught.value.retryable
    assert (await db.documents.fetch(document.id)).title == "2"


# --- keeping it, and losing it


async def test_it_is_extended_while_the_block_runs(db: MultiDB, other: MultiDB):
    id, left, extended = uuid7(), 0, 0
    async with asyncio.timeout(30), db.locks.document(id, ttl=timedelta(seconds=1)) as lock:
        while extended < 3:  # to begin with too
            before, left = left, await db.redis.client.pttl(key_of(db, id))
            extended += left > before
            assert lock.held
            with pytest.raises(LockNotAcquiredError):
                async with other.locks.document(id, wait=NO_WAIT):
                    pytest.fail("two hold it")
            await asyncio.sleep(0.02)
    assert await lock_keys(db) == []


async def test_losing_it_cancels_the_block(db: MultiDB):
    id, reached = uuid7(), False
    with pytest.raises(LockLostError) as caught:
        async with db.locks.document(id, ttl=timedelta(milliseconds=300)) as lock:
            await db.redis.client.set(key_of(db, id), "somebody else")
            await asyncio.sleep(10)
            reached = True
    assert not reached
    assert not lock.held
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    # The other's lock is not touched, and this task goes on uncancelled.
    assert await db.redis.client.get(key_of(db, id)) == b"somebody else"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_block_that_ended_before_it_noticed_is_told_too(db: MultiDB):
    id = uuid7()
    with pytest.raises(LockLostError):
        async with db.locks.document(id):
            await db.redis.client.delete(key_of(db, id))
    with pytest.raises(ZeroDivisionError):
        async with db.locks.document(id):
            await db.redis.client.delete(key_of(db, id))
            raise ZeroDivisionError


async def test_a_block_that_swallows_the_cancellation_is_told_too(db: MultiDB):
    id = uuid7()
    with pytest.raises(LockLostError):
        async with db.locks.document(id, ttl=timedelta(milliseconds=50)):
            await db.redis.client.delete(key_of(db, id))
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
    await asyncio.sleep(0)


async def test_trust_ends_by_the_clock_whatever_redis_says(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """No answer comes: the block ends before another can have the lock."""
    run = db.redis.run

    async def silent(script: str, *args: Any, **kwargs: Any) -> Any:
        if script == "lock_extend":
            await asyncio.sleep(60)
        return await run(script, *args, **kwargs)

    monkeypatch.setattr(db.redis, "run", silent)
    id, ttl = uuid7(), timedelta(milliseconds=200)
    before = asyncio.get_running_loop().time()
    with pytest.raises(LockLostError):
        async with db.locks.document(id, ttl=ttl):
            await asyncio.sleep(10)
    assert asyncio.get_running_loop().time() - before < 5


async def test_trust_counts_from_before_the_request(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """An answer that took longer than the lock lives gives nothing to trust in."""
    run = db.redis.run

    async def slow(script: str, *args: Any, **kwargs: Any) -> Any:
        answer = await run(script, *args, **kwargs)
        if script == "lock_acquire":
            await asyncio.sleep(0.1)
        return answer

    monkeypatch.setattr(db.redis, "run", slow)
    with pytest.raises(LockLostError):
        async with db.locks.document(uuid7(), ttl=MOMENT) as lock:
            assert not lock.held
            await asyncio.sleep(10)


# --- cancellation


async def test_a_cancelled_holder_gives_it_back(db: MultiDB):
    id = uuid7()
    async with elsewhere(db, id) as task:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await lock_keys(db) == []


async def test_cancelled_at_any_moment_nothing_is_left(db: MultiDB, other: MultiDB):
    id = uuid7()

    async def work(fair: bool) -> None:
        async with db.locks.document(id, fair=fair):
            await asyncio.sleep(0)

    for turns in range(40):
        fair = bool(turns % 2)
        async with other.locks.document(id, ttl=LONG):
            tasks = [asyncio.create_task(work(fair)) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[0].cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await lock_keys(db) == [], turns


async def test_cancelled_while_it_is_being_taken_nothing_is_left(db: MultiDB):
    for turns in range(30):
        task = asyncio.create_task(db.locks.document(uuid7(), ttl=LONG).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(done[0], asyncio.CancelledError):
            break
        assert await lock_keys(db) == [], turns
    assert turns > 2


async def test_a_request_that_arrives_after_it_was_given_up_takes_nothing(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    run, under_way, asked = db.redis.run, [], asyncio.Event()

    async def slow(script: str, *args: Any, **kwargs: Any) -> Any:
        if script == "lock_acquire":
            under_way.append((script, *args))
            asked.set()
            await asyncio.sleep(60)
        return await run(script, *args, **kwargs)

    monkeypatch.setattr(db.redis, "run", slow)
    task = asyncio.create_task(db.locks.document(uuid7()).__aenter__())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [request] = under_way
    assert await run(*request, operation="late") == [0, 0]
    assert await lock_keys(db) == []


async def test_cancelled_while_it_is_being_given_back_it_is_given_back(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    run, asked = db.redis.run, asyncio.Event()

    async def slow(script: str, *args: Any, **kwargs: Any) -> Any:
        if script == "lock_release" and not asked.is_set():
            asked.set()
            await asyncio.sleep(60)
        return await run(script, *args, **kwargs)

    async def hold() -> None:
        async with db.locks.document(uuid7()):
            pass

    monkeypatch.setattr(db.redis, "run", slow)
    task = asyncio.create_task(hold())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await lock_keys(db) == []


# --- several, and the same one again


async def test_it_is_not_taken_twice_by_one_task(db: MultiDB):
    id = uuid7()
    async with db.locks.document(id):
        with pytest.raises(LockError, match="already") as caught:
            async with asyncio.timeout(30), db.locks.document(id):
                pytest.fail("twice")
        assert type(caught.value) is LockError
        assert not caught.value.retryable
    async with db.locks.document(id):
        pass


async def test_several_are_taken_in_one_order(db: MultiDB, other: MultiDB):
    ids = [uuid7() for _ in range(4)]

    async def work(database: MultiDB, order: list[UUID]) -> None:
        async with database.locks.documents(order) as locks:
            assert set(locks) == set(ids)
            assert all(lock.held for lock in locks.values())
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        await asyncio.gather(
            *(work(db, ids) for _ in range(5)), *(work(other, [*ids[::-1], ids[0]]) for _ in range(5))
        )
    assert await lock_keys(db) == []
    async with db.locks.documents([]) as none:
        assert none == {}


async def test_of_several_all_or_none_are_taken(db: MultiDB, other: MultiDB):
    ids = sorted(uuid7() for _ in range(3))
    async with other.locks.document(ids[2]):
        with pytest.raises(LockNotAcquiredError):
            async with db.locks.documents(ids, wait=MOMENT):
                pytest.fail("one is held")
        assert await lock_keys(db) == [key_of(db, ids[2])]


@pytest.mark.parametrize("place", [0, 1])
async def test_losing_one_of_several_ends_them_all(db: MultiDB, place: int):
    ids = sorted(uuid7() for _ in range(2))
    with pytest.raises(LockLostError):
        async with db.locks.documents(ids, ttl=timedelta(milliseconds=100)):
            await db.redis.client.delete(key_of(db, ids[place]))
            await asyncio.sleep(10)
    assert await lock_keys(db) == []


# --- bad input


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"ttl": NO_WAIT}, "ttl"),
        ({"ttl": timedelta(seconds=-1)}, "ttl"),
        ({"ttl": timedelta(days=2)}, "ttl"),
        ({"ttl": 30}, "ttl"),
        ({"wait": timedelta(seconds=-1)}, "wait"),
        ({"wait": None}, "wait"),
        ({"wait": 1}, "wait"),
    ],
    ids=str,
)
async def test_what_is_no_duration_is_refused(db: MultiDB, options: dict[str, Any], field: str):
    with pytest.raises(DataError, match=f"`{field}` must be a timedelta"):
        async with db.locks.document(uuid7(), **options):
            pytest.fail("taken")
    with pytest.raises(DataError, match=f"`{field}` must be a timedelta"):
        async with db.locks.documents([uuid7()], **options):
            pytest.fail("taken")


@pytest.mark.parametrize(
    "id", ["{42}", "a b\n", "x" * 10_000, None, 7], ids=["brace", "blank", "long", "none", "int"]
)
async def test_what_is_no_id_is_refused(db: MultiDB, id: Any):
    with pytest.raises(DataError, match="`document_id` must be a UUID"):
        async with db.locks.document(id):
            pytest.fail("taken")
    with pytest.raises(DataError, match="`document_ids` must be UUIDs"):
        async with db.locks.documents([uuid7(), id]):
            pytest.fail("taken")
    assert await lock_keys(db) == []


async def test_too_many_at_once_are_refused(db: MultiDB):
    with pytest.raises(DataError, match="100 at most"):
        async with db.locks.documents(uuid7() for _ in range(101)):
            pytest.fail("taken")
    assert await lock_keys(db) == []
