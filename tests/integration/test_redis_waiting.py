"""Redis: connections of one's own, and channels."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from multidb import DataError, NotOpenError, StoreTimeoutError, UnavailableError
from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.listener import Message, Messages

from .proxy import behind_proxy
from .redis import key, kill, opened, until_in_use

OP = "tests.wait"
LONG = timedelta(seconds=60)


@pytest.fixture
async def redis(multidb_settings: Settings) -> AsyncIterator[RedisStore]:
    async with opened(multidb_settings) as store:
        yield store


async def pop(store: RedisStore, name: object, ready: asyncio.Event | None = None) -> object:
    async with store.dedicated(key(store, name), operation=OP) as connection:
        if ready is not None:
            ready.set()
        return await connection.execute("BLPOP", key(store, name), 60, wait=LONG)


@pytest.mark.redis
async def test_what_blocks_holds_up_nobody(redis: RedisStore):
    waiting = [asyncio.create_task(pop(redis, n)) for n in range(20)]
    await until_in_use(redis, 20)
    for n in range(20):
        assert await redis.execute("RPUSH", key(redis, n), n, operation=OP) == 1
    assert await asyncio.gather(*waiting) == [[key(redis, n).encode(), str(n).encode()] for n in range(20)]
    await until_in_use(redis, 0)


@pytest.mark.redis
async def test_a_transaction_has_its_connection_to_itself(redis: RedisStore):
    name = key(redis, 1)
    async with redis.dedicated(name, operation=OP) as connection:
        await connection.execute("WATCH", name)
        await redis.execute("SET", name, "theirs", operation=OP)
        await connection.execute("MULTI")
        assert await connection.execute("SET", name, "ours") == b"QUEUED"
        assert await connection.execute("EXEC") is None
        await connection.execute("MULTI")
        await connection.execute("SET", name, "ours")
        assert await connection.execute("EXEC") == [b"OK"]
    assert await redis.get(name, operation=OP) == b"ours"


async def test_who_waits_too_long_for_a_connection_is_told(multidb_settings: Settings):
    async with opened(multidb_settings, redis_pool_size=2, redis_timeout=timedelta(seconds=0.3)) as redis:
        waiting = asyncio.create_task(pop(redis, 1))
        await until_in_use(redis, 1)
        with pytest.raises(StoreTimeoutError):
            await pop(redis, 2)
        # Commands do not wait for those who block.
        await redis.execute("RPUSH", key(redis, 1), "a", operation=OP)
        await waiting
        await redis.execute("RPUSH", key(redis, 2), "b", operation=OP)
        assert await pop(redis, 2) == [key(redis, 2).encode(), b"b"]


@pytest.mark.redis
async def test_a_cancelled_wait_gives_its_connection_back(multidb_settings: Settings):
    async with opened(multidb_settings, redis_pool_size=5) as redis:
        for turns in range(8):
            waiting = asyncio.create_task(pop(redis, 1))
            for _ in range(turns * 2):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await until_in_use(redis, 0)
        await redis.execute("RPUSH", key(redis, 1), "a", operation=OP)
        assert await pop(redis, 1) == [key(redis, 1).encode(), b"a"]


@pytest.mark.redis
async def test_a_lost_connection_is_not_quietly_another(redis: RedisStore):
    async with redis.dedicated(key(redis, 1), operation=OP) as connection:
        await kill(connection._connection)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await connection.execute("GET", key(redis, 1))


async def test_closing_ends_those_who_listen(multidb_settings: Settings):
    async def listen(store: RedisStore, ready: asyncio.Event) -> list[Message | None]:
        async with store.listen("a", operation=OP) as messages:
            ready.set()
            return [message async for message in messages]

    async with opened(multidb_settings) as store:
        events = [asyncio.Event() for _ in range(3)]
        tasks = [asyncio.create_task(listen(store, each)) for each in events]
        for each in events:
            await each.wait()
    async with asyncio.timeout(30):
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in ended] == [NotOpenError] * 3


@pytest.mark.redis
async def test_closing_waits_for_calls_and_ends_what_blocks(multidb_settings: Settings):
    ready = asyncio.Event()
    async with asyncio.timeout(30):
        # Long after that it would end what blocks anyhow.
        async with opened(multidb_settings, close_timeout=timedelta(minutes=5)) as redis:
            calls = [redis.execute("INCR", key(redis, 1), operation=OP) for _ in range(50)]
            counted = asyncio.gather(*calls)
            waiting = asyncio.create_task(pop(redis, 2, ready))
            await ready.wait()
        assert sorted(await counted) == list(range(1, 51))
        with pytest.raises(UnavailableError):
            await waiting


# --- channels


async def publish(store: RedisStore, channel: str, data: str) -> None:
    await store.execute("PUBLISH", channel, data, operation=OP)


async def heard(messages: Messages, count: int) -> list[Message | None]:
    async with asyncio.timeout(30):
        return [await anext(messages) for _ in range(count)]


@pytest.mark.redis
async def test_everybody_hears_what_it_listens_to(redis: RedisStore):
    a, b, c = (key(redis, name) for name in "abc")
    async with (
        redis.listen(a, b, operation=OP) as first,
        redis.listen(b, c, operation=OP) as second,
    ):
        # One after the other: of a cluster's nodes each tells the others in its own time.
        for channel, listeners in ((a, (first,)), (b, (first, second)), (c, (second,))):
            await publish(redis, channel, "1")
            for messages in listeners:
                assert await heard(messages, 1) == [Message(channel, b"1")]
        assert redis.opened.listener.connections.in_use == 1


async def test_a_channel_that_cannot_be_keeps_nobody_from_listening(redis: RedisStore):
    async with redis.listen("a", operation=OP) as messages:
        for wrong in ((), ("\ud800",)):
            with pytest.raises(DataError):
                async with redis.listen(*wrong, operation=OP):
                    pass
        async with redis.listen("b", "b", operation=OP) as twice:
            for channel in "ab":
                await redis.execute("PUBLISH", channel, "1", operation=OP)
            async with asyncio.timeout(30):
                assert await anext(messages) == Message("a", b"1")
                assert await anext(twice) == Message("b", b"1")


async def test_what_nobody_listens_to_is_not_sent(redis: RedisStore):
    a, b = key(redis, "a"), key(redis, "b")
    async with redis.listen(a, operation=OP):
        async with redis.listen(a, b, operation=OP):
            pass
        assert await redis.execute("PUBLISH", a, "", operation=OP) == 1
        async with asyncio.timeout(30):
            while await redis.execute("PUBLISH", b, "", operation=OP):
                pass
        # And again, right after it was left.
        async with redis.listen(b, operation=OP) as messages:
            await publish(redis, b, "2")
            assert await heard(messages, 1) == [Message(b, b"2")]


@pytest.mark.redis
async def test_a_lost_connection_is_told_and_made_anew(redis: RedisStore):
    a, b = key(redis, "a"), key(redis, "b")
    async with redis.listen(a, operation=OP) as messages:
        [connection] = redis.opened.listener.connections._lent
        await kill(connection)
        assert await heard(messages, 1) == [None]
        # Whoever comes meanwhile waits until it is there again.
        async with redis.listen(b, operation=OP) as others:
            assert await heard(messages, 1) == [None]
            await publish(redis, a, "1")
            await publish(redis, b, "2")
            assert await heard(messages, 1) == [Message(a, b"1")]
            assert await heard(others, 1) == [Message(b, b"2")]


@pytest.mark.redis
async def test_listeners_come_and_go_and_are_cancelled(redis: RedisStore):
    channel = key(redis, "a")

    async def listen() -> None:
        async with redis.listen(channel, operation=OP) as messages:
            await anext(messages)

    async with redis.listen(channel, operation=OP) as messages:
        tasks = [asyncio.create_task(listen()) for _ in range(50)]
        for task in tasks[::2]:
            await asyncio.sleep(0)
            task.cancel()
        async with redis.listen(channel, operation=OP):
            await publish(redis, channel, "1")
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in outcomes[::2]] == [asyncio.CancelledError] * 25
        assert outcomes[1::2] == [None] * 25
        assert await heard(messages, 1) == [Message(channel, b"1")]


@pytest.mark.redis
async def test_who_reads_too_little_is_told(redis: RedisStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("multidb.stores.redis.listener._BACKLOG", 10)
    channel = key(redis, "a")
    async with redis.listen(channel, operation=OP) as messages, redis.listen(channel, operation=OP) as others:
        for n in range(12):  # the eleventh has no room
            await publish(redis, channel, str(n))
            await heard(others, 1)
        assert await heard(messages, 2) == [None, Message(channel, b"11")]


async def test_a_block_begins_once_the_server_has_said_that_it_will_tell(multidb_settings: Settings):
    async with (
        behind_proxy(multidb_settings) as (proxy, settings),
        opened(settings, redis_timeout=timedelta(seconds=0.3)) as redis,
        redis.listen("a", operation=OP),
    ):
        proxy.flowing.clear()
        with pytest.raises(StoreTimeoutError):
            async with redis.listen("b", operation=OP):
                pass
        proxy.flowing.set()
        async with redis.listen("b", operation=OP):
            pass


async def test_without_a_server_listening_fails_at_once(multidb_settings: Settings, unused_tcp_port: int):
    url = type(multidb_settings.redis_url)(f"redis://127.0.0.1:{unused_tcp_port}/0")
    async with opened(multidb_settings, redis_url=url) as redis:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                async with redis.listen("a", operation=OP):
                    pass
