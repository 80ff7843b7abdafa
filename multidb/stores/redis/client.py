"""Redis's one way in: a bounded pool of connections, commands, and scripts by name."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.maint_notifications import MaintNotificationsConfig

from multidb.errors import ConfigurationError
from multidb.models.health import PoolUsage, Role
from multidb.settings import Settings
from multidb.stores.redis.errors import translating
from multidb.stores.redis.keys import KeyPattern
from multidb.stores.store import Answer, Store

__all__ = ["RedisStore"]

Key: TypeAlias = str
Argument: TypeAlias = str | bytes | int | float


class RedisStore(Store[Redis]):
    """Runs commands and scripts. Values are bytes, as they are stored."""

    name = "redis"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._scripts: dict[str, AsyncScript] = {}

    @property
    def client(self) -> Redis:
        """redis-py's own client, for what the repositories do not offer. Keys are as they are stored."""
        return self.opened

    def pattern(self, pattern: str) -> KeyPattern:
        """Return the key pattern with the prefix of the settings in front."""
        return KeyPattern(pattern, prefix=self.settings.key_prefix)

    async def get(self, key: Key, *, operation: str) -> bytes | None:
        """Return the string at `key`, or None."""
        with self.under_way, translating(operation), _heeding():
            value = await self.opened.get(key)
        return cast(bytes | None, value)

    async def delete(self, keys: Iterable[Key], *, operation: str) -> None:
        """Delete the keys that exist, in one round trip."""
        client = self.opened
        with self.under_way, translating(operation), _heeding():
            # One command a key, not one for all: on a cluster they lie in different slots.
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.delete(key)
            for reply in await pipeline.execute(raise_on_error=False):
                if isinstance(reply, Exception):
                    raise reply

    async def run(
        self, script: str, keys: Iterable[Key], arguments: Iterable[Argument], *, operation: str
    ) -> Any:
        """Run `scripts/<script>.lua`, atomically; all its keys must lie in one hash slot."""
        client = self.opened
        loaded = self._scripts.get(script)
        if loaded is None:
            loaded = self._scripts[script] = client.register_script(_source(script))
        with self.under_way, translating(operation), _heeding():
            return await loaded(keys=list(keys), args=list(arguments))

    async def ask(self, *, operation: str) -> Answer:
        pipeline = self.opened.pipeline(transaction=False)
        pipeline.info("server")
        pipeline.info("replication")
        with translating(operation), _heeding():
            server, replication = await pipeline.execute()
        role: Role = "primary" if replication["role"] == "master" else "replica"
        return Answer(str(server["redis_version"]), role)

    def pool_usage(self) -> PoolUsage | None:
        if self._client is None:
            return None
        pool = self._client.connection_pool
        # redis-py tells these to its metrics only.
        idle, in_use = len(pool._available_connections), len(pool._in_use_connections)  # noqa: SLF001
        return PoolUsage(size=idle + in_use, in_use=in_use, limit=pool.max_connections)

    async def _connect(self) -> Redis:
        settings = self.settings
        timeout = settings.redis_timeout.total_seconds()
        with translating("open"):
            pool = BlockingConnectionPool.from_url(
                settings.redis_url.get_secret_value(),
                max_connections=settings.redis_pool_size,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=settings.connect_timeout.total_seconds(),
                # A command may have run although its answer was lost; only the caller knows
                # whether running it twice is harmless.
                retry=Retry(NoBackoff(), 0),
                # With these on, a connection the server has closed passes for a good one.
                maint_notifications_config=MaintNotificationsConfig(enabled=False),
                client_name="multidb",
            )
        if pool.connection_kwargs.get("decode_responses"):
            raise ConfigurationError("MULTIDB_REDIS_URL must not set `decode_responses`: values are bytes")
        return Redis(connection_pool=pool)

    async def _disconnect(self, client: Redis) -> None:
        self._scripts.clear()
        await client.aclose()
        await client.connection_pool.disconnect()


@contextmanager
def _heeding() -> Iterator[None]:
    """Raise a cancellation that came inside and was lost.

    The driver writes by `asyncio.wait_for`, which before Python 3.12 forgets one that comes when
    the bytes have just been written: the caller would go on as if nobody had cancelled it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


@cache
def _source(script: str) -> str:
    return files("multidb.stores.redis").joinpath("scripts", f"{script}.lua").read_text(encoding="utf-8")
