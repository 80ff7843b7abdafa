"""Redis: a server that is away costs nobody a timeout for long."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from multidb import ConfigurationError, MultiDB, StoreTimeoutError, UnavailableError
from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore

from .proxy import Proxy, behind_proxy
from .redis import key, node_of, opened

OP = "tests.outage"


@asynccontextmanager
async def stalling(settings: Settings, *, pause: float = 0.3) -> AsyncIterator[tuple[Proxy, RedisStore]]:
    """A store whose server has stopped answering, and whose breaker is open."""
    async with (
        behind_proxy(settings) as (proxy, through),
        opened(
            through,
            redis_timeout=timedelta(seconds=0.3),
            redis_breaker_limit=2,
            redis_breaker_pause=timedelta(seconds=pause),
        ) as redis,
    ):
        assert await redis.execute("INCR", key(redis, 1), operation=OP) == 1
        proxy.flowing.clear()
        for _ in range(2):
            with pytest.raises(StoreTimeoutError):
                await redis.execute("INCR", key(redis, 1), operation=OP)
        yield proxy, redis


async def until_refused_no_more(redis: RedisStore) -> None:
    async with asyncio.timeout(30):
        while node_of(redis).breaker.refuses:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_calls_fail_at_once_while_a_server_does_not_answer(multidb_settings: Settings, caplog):
    caplog.set_level(logging.WARNING, "multidb.redis")
    async with stalling(multidb_settings, pause=60) as (proxy, redis):
        accepted = proxy.accepted
        async with asyncio.timeout(30):
            calls = (redis.execute("INCR", key(redis, 1), operation=OP) for _ in range(500))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in outcomes} == {UnavailableError}
        assert all(isinstance(each, UnavailableError) and each.retryable for each in outcomes)
        assert proxy.accepted == accepted
        assert len([each for each in caplog.records if "fail at once" in each.message]) == 1


async def test_one_call_tries_and_once_it_is_answered_all_go(multidb_settings: Settings):
    async with stalling(multidb_settings) as (proxy, redis):
        await until_refused_no_more(redis)
        accepted = proxy.accepted
        trying = asyncio.create_task(redis.execute("INCR", key(redis, 1), operation=OP))
        await asyncio.sleep(0)
        others = (redis.execute("INCR", key(redis, 1), operation=OP) for _ in range(50))
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        assert {type(each) for each in outcomes} == {UnavailableError}
        with pytest.raises(StoreTimeoutError):
            await trying
        assert proxy.accepted == accepted + 1

        await until_refused_no_more(redis)
        proxy.flowing.set()
        assert await redis.get(key(redis, 2), operation=OP) is None
        await asyncio.gather(*(redis.execute("INCR", key(redis, 2), operation=OP) for _ in range(50)))
        assert await redis.get(key(redis, 2), operation=OP) == b"50"


async def test_a_cancelled_try_leaves_it_to_the_next(multidb_settings: Settings):
    async with stalling(multidb_settings) as (proxy, redis):
        await until_refused_no_more(redis)
        trying = asyncio.create_task(redis.execute("INCR", key(redis, 1), operation=OP))
        await asyncio.sleep(0)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        proxy.flowing.set()
        assert await redis.get(key(redis, 2), operation=OP) is None


async def test_health_asks_all_the_same_and_what_it_finds_counts(multidb_settings: Settings):
    pause = timedelta(seconds=60)
    async with behind_proxy(multidb_settings) as (proxy, settings):
        changes = {
            "redis_timeout": timedelta(seconds=0.5),
            "redis_breaker_pause": pause,
            "redis_breaker_limit": 1,
        }
        async with MultiDB(settings.model_copy(update=changes)) as db:
            proxy.flowing.clear()
            health = await db.health()
            assert not health.redis.ok
            assert "calls fail at once" in (health.redis.detail or "")
            with pytest.raises(UnavailableError, match="nothing was sent"):
                await db.redis.get("a", operation=OP)
            proxy.flowing.set()
            health = await db.health()
            assert health.redis.ok
            assert health.redis.detail is None
            assert await db.redis.get("a", operation=OP) is None


async def test_a_refused_login_stays_a_setting(multidb_settings: Settings):
    url = multidb_settings.redis_url.get_secret_value()
    wrong = type(multidb_settings.redis_url)(f"redis://:wrong@{url.rpartition('@')[2]}")
    async with opened(multidb_settings, redis_url=wrong, redis_breaker_limit=1) as redis:
        for _ in range(3):
            with pytest.raises(ConfigurationError):
                await redis.get("a", operation=OP)
