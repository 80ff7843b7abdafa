"""What each side of `benchmarks/cache.py` does for one get."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.measuring import OURS
from multidb import MultiDB, User

__all__ = ["LOCAL_SIDES", "SIDES", "Kind", "Side"]

TTL = timedelta(minutes=10)

#: Loads the value of a number; None for at once, out of memory.
Loading: TypeAlias = Callable[[], Awaitable[None]]


class Side(ABC):
    """One cache."""

    #: Whether it loads what it does not have.
    loads = True

    @abstractmethod
    async def get(self, number: int) -> object:
        """Return the user of this number, out of the cache where it is there."""


class Kind:
    """One kind of cache. `opened(db, user, loading)` is an async context manager that yields its side."""

    def __init__(self, package: str, opened: Callable[..., AsyncIterator[Side]]) -> None:
        self._package = package
        self.opened: Callable[..., AbstractAsyncContextManager[Side]] = asynccontextmanager(opened)

    def is_installed(self) -> bool:
        """Tell whether its package is there."""
        return find_spec(self._package) is not None


class _Loaded(Side):
    """A side that calls a cached function."""

    def __init__(self, function: Callable[[int], Awaitable[object]]) -> None:
        self._function = function

    async def get(self, number: int) -> object:
        return await self._function(number)


class _Bare(Side):
    """redis-py's GET: bytes, and nothing behind it."""

    loads = False

    def __init__(self, redis: Redis, prefix: str, stored: bytes) -> None:
        self._redis, self._prefix, self._stored = redis, prefix, stored

    async def get(self, number: int) -> object:
        held = await self._redis.get(f"{self._prefix}bare:{number}")
        if held is None:
            await self._redis.set(f"{self._prefix}bare:{number}", self._stored, px=600_000)
        return held


def _loader(user: User, loading: Loading | None) -> Callable[[int], Awaitable[User]]:
    async def load(_: int) -> User:
        if loading is not None:
            await loading()
        return user

    return load


async def _bare(db: MultiDB, user: User, _: Loading | None = None) -> AsyncIterator[Side]:
    url = db.settings.redis_url.get_secret_value()
    # The other pool refuses the 51st caller.
    pool = BlockingConnectionPool.from_url(url, max_connections=50)
    async with aclosing(Redis.from_pool(pool)) as redis:
        yield _Bare(redis, db.settings.key_prefix, user.model_dump_json().encode())


async def _cashews(db: MultiDB, user: User, loading: Loading | None = None) -> AsyncIterator[Side]:
    cache: Any = importlib.import_module("cashews").Cache()
    cache.setup(db.settings.redis_url.get_secret_value(), max_connections=50, wait_for_connection_timeout=30)
    await cache.init()
    load = _loader(user, loading)
    key = db.settings.key_prefix + "cashews:{n}"

    async def get(n: int) -> User:
        return await load(n)

    try:
        yield _Loaded(cache(ttl=TTL, key=key, lock=loading is not None)(get))
    finally:
        await cache.close()


async def _aiocache(db: MultiDB, user: User, loading: Loading | None = None) -> AsyncIterator[Side]:
    aiocache: Any = importlib.import_module("aiocache")
    url = urlsplit(db.settings.redis_url.get_secret_value())
    options: dict[str, Any] = {
        "ttl": TTL.total_seconds(),
        "cache": importlib.import_module("aiocache.backends.redis").RedisCache,
        "endpoint": url.hostname,
        "port": url.port,
        "password": url.password,
        # It refuses who comes when all are in use.
        "pool_max_size": 1000,
        "serializer": importlib.import_module("aiocache.serializers").PickleSerializer(),
        "key_builder": lambda _, n: f"{db.settings.key_prefix}aiocache:{n}",
    }
    once = {"lease": 5} if loading is not None else {}
    get = (aiocache.cached_stampede if once else aiocache.cached)(**once, **options)(_loader(user, loading))
    yield _Loaded(get)
    await get.cache.close()


async def _ours(db: MultiDB, user: User, loading: Loading | None = None) -> AsyncIterator[Side]:
    load = _loader(user, loading)

    @db.cached("ours:{n}", ttl=TTL)
    async def get(n: int) -> User:
        return await load(n)

    yield _Loaded(get)


async def _cashews_in_memory(_: MultiDB, user: User) -> AsyncIterator[Side]:
    cache: Any = importlib.import_module("cashews").Cache()
    cache.setup("mem://", size=1_000_000)
    await cache.init()
    load = _loader(user, None)

    async def get(n: int) -> User:
        return await load(n)

    try:
        yield _Loaded(cache(ttl=TTL, key="cashews:{n}")(get))
    finally:
        await cache.close()


async def _ours_locally(db: MultiDB, user: User) -> AsyncIterator[Side]:
    load = _loader(user, None)

    @db.cached("ours:local:{n}", ttl=TTL, local=True)
    async def get(n: int) -> User:
        return await load(n)

    yield _Loaded(get)


#: All that there are, by name.
SIDES: dict[str, Kind] = {
    "redis-py GET": Kind("redis", _bare),
    "cashews": Kind("cashews", _cashews),
    "aiocache": Kind("aiocache", _aiocache),
    OURS: Kind("multidb", _ours),
}

#: Those that keep what they have in the process.
LOCAL_SIDES: dict[str, Kind] = {
    "cashews, in memory": Kind("cashews", _cashews_in_memory),
    OURS: Kind("multidb", _ours_locally),
}
