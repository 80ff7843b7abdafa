"""Redis: calls that meet share round trips, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from multidb import DataError, StoreError, StoreTimeoutError, UnavailableError
from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.commands import Command
from multidb.stores.redis.node import Node

from .proxy import behind_proxy
from .redis import in_use, key, kill, node_of, opened

OP = "tests.call"


@pytest.fixture
async def redis(multidb_settings: Settings) -> AsyncIterator[RedisStore]:
    async with opened(multidb_settings) as store:
        await store.ask(operation=OP)  # a cluster is asked once who has which slots
        yield store


@pytest.fixture
def trips(redis: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each round trip had."""
    seen: list[int] = []
    exchange = Node._exchange

    async def recorded(self: Node, packed: Sequence[bytes], deadline: float) -> list[Any]:
        seen.append(len(packed))
        return await exchange(self, packed, deadline)

    monkeypatch.setattr(Node, "_exchange", recorded)
    return seen


@pytest.mark.redis
async def test_calls_that_meet_share_round_trips_and_get_their_own_replies(
    redis: RedisStore, trips: list[int]
):
    async def work(n: int) -> None:
        await redis.execute("SET", key(redis, n), f"value {n}", operation=OP)
        assert await redis.get(key(redis, n), operation=OP) == f"value {n}".encode()
        assert await redis.execute("INCRBY", key(redis, f"n{n}"), n, operation=OP) == n

    await asyncio.gather(*(work(n) for n in range(200)))
    assert sum(trips) == 600
    assert len(trips) < 40 * len(redis.opened.nodes)
    assert in_use(redis) == 0


async def test_a_lone_call_goes_by_itself_at_once(redis: RedisStore, trips: list[int]):
    assert await redis.get(key(redis, 1), operation=OP) is None
    assert trips == [1]


@pytest.mark.redis
async def test_each_caller_gets_its_own_error(redis: RedisStore):
    await redis.execute("RPUSH", key(redis, "list"), "a", operation=OP)
    await redis.execute("SET", key(redis, "text"), "a", operation=OP)
    outcomes = await asyncio.gather(
        *(redis.get(key(redis, "text" if n % 3 else "list"), operation=f"tests.call{n}") for n in range(90)),
        return_exceptions=True,
    )
    for n, outcome in enumerate(outcomes):
        if n % 3:
            assert outcome == b"a"
        else:
            assert type(outcome) is DataError
            assert outcome.operation == f"tests.call{n}"
    assert len({id(each) for each in outcomes if isinstance(each, DataError)}) == 30


@pytest.mark.parametrize("value", [None, True, "\ud800", object()])
async def test_what_cannot_be_sent_is_refused_before_anything_is(
    redis: RedisStore, trips: list[int], value: Any
):
    with pytest.raises(DataError, match=r"^tests\.call: "):
        await redis.execute("SET", key(redis, 1), value, operation=OP)
    with pytest.raises(DataError):
        await redis.run("cache_fill", [key(redis, 1)], ["L", value, 1], operation=OP)
    assert trips == []


@pytest.mark.redis
async def test_one_call_of_many_commands_is_one_round_trip(redis: RedisStore, trips: list[int]):
    replies = await redis.send([Command("SET", key(redis, n), n) for n in range(3000)], operation=OP)
    assert replies == [b"OK"] * 3000
    assert await redis.get_many([key(redis, n) for n in range(2999, 3002)], operation=OP) == [
        b"2999",
        None,
        None,
    ]
    await redis.delete([key(redis, n) for n in range(3000)], operation=OP)
    assert sum(trips) == 6003
    assert len(trips) <= 3 * len(redis.opened.nodes)
    assert await redis.send([], operation=OP) == []
    await redis.delete([], operation=OP)


@pytest.mark.redis
async def test_all_commands_of_a_call_are_run_though_one_fails(redis: RedisStore):
    await redis.execute("RPUSH", key(redis, 1), "a", operation=OP)
    with pytest.raises(DataError):
        await redis.send([Command("INCR", key(redis, n)) for n in range(3)], operation=OP)
    assert await redis.get_many([key(redis, 0), key(redis, 2)], operation=OP) == [b"1", b"1"]


@pytest.mark.redis
async def test_cancelled_callers_leave_the_others_their_replies(redis: RedisStore):
    for turns in range(6):
        tasks = [
            asyncio.create_task(redis.execute("SET", key(redis, n), n, "GET", operation=OP))
            for n in range(100)
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            if n % 3:
                assert outcome in (None, str(n).encode())
            else:
                assert isinstance(outcome, asyncio.CancelledError) or outcome in (None, str(n).encode())
        assert in_use(redis) == 0
    assert await redis.get(key(redis, 1), operation=OP) == b"1"


@pytest.mark.redis
async def test_a_thousand_tasks_on_two_connections(multidb_settings: Settings):
    async with opened(multidb_settings, redis_pool_size=2) as redis:
        calls = (redis.execute("INCR", key(redis, "n"), operation=OP) for _ in range(1000))
        assert sorted(await asyncio.gather(*calls)) == list(range(1, 1001))
        assert in_use(redis) == 0


@pytest.mark.redis
async def test_only_the_scripts_the_server_does_not_have_are_run_again(redis: RedisStore, trips: list[int]):
    """Also in the midst of a pipeline; and nothing is run twice."""
    leases = [f"L{n}" for n in range(50)]
    await redis.client.script_flush()
    first = redis.execute("INCR", key(redis, "n"), operation=OP)
    taken = [
        redis.run("cache_lease", [key(redis, lease)], [lease, 10_000, ""], operation=OP) for lease in leases
    ]
    filled = [redis.run("cache_fill", [key(redis, "none")], ["L", "V", 1], operation=OP) for _ in range(20)]
    counted = [redis.execute("INCR", key(redis, "n"), operation=OP) for _ in range(50)]
    outcomes: list[Any] = await asyncio.gather(first, *taken, *filled, *counted)
    assert outcomes[1:51] == [None] * 50
    assert outcomes[51:71] == [0] * 20
    assert sorted([outcomes[0], *outcomes[71:]]) == list(range(1, 52))
    # Each of the two was loaded in few round trips, and what ran was not sent again.
    assert sum(trips) <= 121 + 70 + 2 * 4
    trips.clear()
    assert await redis.run("cache_fill", [key(redis, "none")], ["L", "V", 1], operation=OP) == 0
    assert trips == [1]


@pytest.mark.redis
async def test_a_script_that_fails_is_its_callers_error(redis: RedisStore):
    failing = redis.run("session_create", [key(redis, 1), key(redis, 1)], [], operation=OP)
    others = (redis.execute("INCR", key(redis, 2), operation=OP) for _ in range(20))
    error, *counted = await asyncio.gather(failing, *others, return_exceptions=True)
    assert type(error) is StoreError
    assert set(counted) == set(range(1, 21))


# --- answers that are lost


async def test_what_may_have_run_is_not_run_again(multidb_settings: Settings):
    async with behind_proxy(multidb_settings) as (proxy, settings), opened(settings) as redis:
        assert await redis.execute("INCR", key(redis, 1), operation=OP) == 1
        cuts = iter([None])
        proxy.answer = lambda data: next(cuts, data)
        with pytest.raises(UnavailableError):
            await redis.execute("INCR", key(redis, 1), operation=OP)
        assert await redis.get(key(redis, 1), operation=OP) == b"2"
        assert in_use(redis) == 0


async def test_what_may_be_repeated_is_once(multidb_settings: Settings):
    async with behind_proxy(multidb_settings) as (proxy, settings), opened(settings) as redis:
        assert await redis.execute("INCR", key(redis, 1), operation=OP) == 1
        cuts = iter([None])
        proxy.answer = lambda data: next(cuts, data)
        assert await redis.execute("INCR", key(redis, 1), operation=OP, repeatable=True) == 3
        proxy.answer = lambda _: None
        with pytest.raises(UnavailableError):
            await redis.get(key(redis, 1), operation=OP)


async def test_those_who_were_answered_keep_their_answers(multidb_settings: Settings):
    async with behind_proxy(multidb_settings) as (proxy, settings), opened(settings) as redis:
        commands = [Command("INCR", key(redis, n)) for n in range(10)]
        await redis.send(commands, operation=OP)
        proxy.answer = lambda data: data[:17]  # four of ":2\r\n", and one byte
        replies = await redis.opened.send(tuple(commands))
        assert replies[:4] == [2] * 4
        assert all(isinstance(reply, Exception) for reply in replies[4:])


async def test_a_server_that_stalls_is_a_timeout_for_all_who_wait(multidb_settings: Settings):
    async with (
        behind_proxy(multidb_settings) as (proxy, settings),
        opened(settings, redis_timeout=timedelta(seconds=0.5)) as redis,
    ):
        await redis.get(key(redis, 1), operation=OP)
        proxy.flowing.clear()
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(
                *(redis.get(key(redis, n), operation=OP) for n in range(300)), return_exceptions=True
            )
        assert {type(each) for each in outcomes} == {StoreTimeoutError}
        proxy.flowing.set()
        assert await redis.get(key(redis, 1), operation=OP) is None
        assert in_use(redis) == 0


async def test_a_connection_the_server_closed_is_not_used(redis: RedisStore):
    await asyncio.gather(*(redis.get(key(redis, n), operation=OP) for n in range(10)))
    idle = node_of(redis)._connections._idle
    for connection in idle:
        await kill(connection)
    async with asyncio.timeout(30):
        while not all([await connection.can_read() for connection in idle]):  # noqa: ASYNC110
            await asyncio.sleep(0)
    calls = [redis.execute("INCR", key(redis, n), operation=OP) for n in range(10)]
    assert await asyncio.gather(*calls) == [1] * 10
