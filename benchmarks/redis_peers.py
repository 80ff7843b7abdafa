"""What other libraries do on Redis, each on a pool of 50 connections that makes callers wait."""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote
from uuid import UUID

from redis.asyncio import Redis

from benchmarks.measuring import Call
from multidb.settings import Settings
from multidb.stores.redis.commands import script

__all__ = ["LIMIT", "POOL", "four_calls", "lock", "rate_limits", "starsessions"]

POOL = 50
#: Calls an hour: so many that all are admitted.
LIMIT = 1_000_000
_HOUR = 3600


def rate_limits(settings: Settings, redis: Redis, key: Callable[[int], str]) -> dict[str, Call]:
    """Return a hit by each library that is installed; `limits` and throttled-py say no more than hit does."""
    sides: dict[str, Call] = {}
    url = settings.redis_url.get_secret_value()
    if find_spec("limits") is not None:
        limits = importlib.import_module("limits")
        storage = importlib.import_module("limits.storage").storage_from_string(
            f"async+{url}", implementation="redispy", connection_pool=redis.connection_pool
        )
        strategies = importlib.import_module("limits.aio.strategies")
        sliding = strategies.SlidingWindowCounterRateLimiter(storage)
        item = limits.RateLimitItemPerHour(LIMIT)
        sides["limits, sliding window"] = lambda n: sliding.hit(item, key(n))
    if find_spec("throttled") is not None:
        throttled = importlib.import_module("throttled.asyncio")
        store = throttled.store.RedisStore(
            server=url,
            options={
                "REUSE_CONNECTION": True,
                "CONNECTION_POOL_CLASS": "redis.asyncio.BlockingConnectionPool",
                "CONNECTION_POOL_KWARGS": {"max_connections": POOL},
            },
        )
        gcra = throttled.Throttled(
            using="gcra", quota=throttled.rate_limiter.per_hour(LIMIT, burst=LIMIT), store=store
        )
        sides["throttled-py, GCRA"] = lambda n: gcra.limit(key(n))
    return sides


def lock(redis: Redis, key: Callable[[int], str]) -> Call:
    """Take and give back redis-py's own lock, which has no fence."""

    async def taken(number: int) -> None:
        async with redis.lock(key(number), timeout=30):
            pass

    return taken


def starsessions(redis: Redis, key: Callable[[int], str]) -> dict[str, Call]:
    """Read a session and write it back, which is how starsessions touches it; {} if it is not installed."""
    if find_spec("starsessions") is None:
        return {}
    store = importlib.import_module("starsessions.stores.redis").RedisStore(connection=redis, prefix="")

    async def used(number: int) -> None:
        data = await store.read(key(number), _HOUR)
        await store.write(key(number), data or b'{"user_id": 1}', _HOUR, _HOUR)

    return {"starsessions": used}


async def four_calls(redis: Redis, prefix: str, ids: list[UUID]) -> Call:
    """Do what `db.request` does by hand: read a session, touch it, limit it, note who is there."""
    source, digest = script("rate_limit")
    await redis.script_load(source)
    limit = "gcra", str(LIMIT), str(_HOUR * 10**6)
    keys = [f"{prefix}bench:{{{id}}}:{quote('GET /reports')}" for id in ids]
    about: Any = {"about": '{"device": "phone"}', "token": "t" * 64, "created": "1", "seen": "1", "ends": "1"}
    for key in keys:
        await redis.hset(f"{key}:session", mapping=about)

    async def begun(number: int) -> None:
        key = keys[number % len(keys)]
        await redis.hgetall(f"{key}:session")
        await redis.expire(f"{key}:session", _HOUR)
        await redis.evalsha(digest, 1, f"{key}:limit", "hit", "1", "", *limit)
        await redis.zadd(f"{key}:devices", {"phone": number})

    return begun
