"""Every script of `stores/redis/scripts`, by itself, on every kind of servers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore

from .redis import key, opened

pytestmark = pytest.mark.redis


class Scripts:
    """Runs scripts and commands on keys under one tag."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def key(self, name: str) -> str:
        return f"{key(self._store, 'one')}:{name}"

    async def run(self, script: str, keys: list[str], *arguments: Any) -> Any:
        return await self._store.run(script, map(self.key, keys), arguments, operation="tests.script")

    async def do(self, command: str, name: str, *arguments: Any) -> Any:
        return await self._store.execute(command, self.key(name), *arguments, operation="tests.script")


@pytest.fixture
async def redis(multidb_settings: Settings) -> AsyncIterator[Scripts]:
    async with opened(multidb_settings) as store:
        yield Scripts(store)


async def test_cache_lease(redis: Scripts):
    assert await redis.run("cache_lease", ["entry"], "L1", 5000, "") == 1
    assert await redis.run("cache_lease", ["entry"], "L2", 5000, "") == 0
    assert await redis.do("GET", "entry") == b"L1"
    assert 0 < await redis.do("PTTL", "entry") <= 5000
    # In the place of what cannot be read any more.
    assert await redis.run("cache_lease", ["entry"], "L2", 5000, "L1") == 1
    assert await redis.do("GET", "entry") == b"L2"


async def test_cache_fill(redis: Scripts):
    assert await redis.run("cache_fill", ["entry"], "L1", "V1", 5000) == 0
    await redis.do("SET", "entry", "L1")
    assert await redis.run("cache_fill", ["entry"], "L2", "V2", 5000) == 0
    assert await redis.run("cache_fill", ["entry"], "L1", "V1", 5000) == 1
    assert await redis.do("GET", "entry") == b"V1"
    assert 0 < await redis.do("PTTL", "entry") <= 5000
    # With nothing to store, the lease is given back.
    await redis.do("SET", "entry", "L1")
    assert await redis.run("cache_fill", ["entry"], "L1", "", 5000) == 1
    assert await redis.do("GET", "entry") is None


async def test_session_create(redis: Scripts):
    await redis.do("ZADD", "index", 1, "ended", 90_000, "later")
    assert await redis.run("session_create", ["session", "index"], "{}", "digest", 60_000, 10_000) == 1
    assert await redis.do("GET", "session") == b"{}"
    assert 0 < await redis.do("PTTL", "session") <= 50_000
    # What ended in 1970 leaves the index, which lives as long as what ends last: so it is gone too.
    assert await redis.do("EXISTS", "index") == 0


async def test_session_revoke(redis: Scripts):
    await redis.do("SET", "session", "{}")
    await redis.do("ZADD", "index", 1, "digest", 2, "other")
    assert await redis.run("session_revoke", ["session", "index"], "digest") == 1
    assert await redis.do("ZRANGE", "index", 0, -1) == [b"other"]
    assert await redis.do("EXISTS", "session") == 0
    assert await redis.run("session_revoke", ["session", "index"], "digest") == 0
