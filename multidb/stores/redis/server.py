"""A single Redis server."""

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from multidb.errors import ConfigurationError
from multidb.models.health import PoolUsage
from multidb.settings import Settings
from multidb.stores.redis.breaker import Breaker
from multidb.stores.redis.commands import Key
from multidb.stores.redis.node import Call, Node

__all__ = ["Server"]

#: What the replies' form and our reading of them depend on.
_FIXED = {"decode_responses", "protocol", "legacy_responses", "encoding"}


class Server:
    """One server, which runs every command."""

    def __init__(self, settings: Settings) -> None:
        timeout = settings.redis_timeout.total_seconds()
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
        for option in sorted(_FIXED & set(pool.connection_kwargs)):
            raise ConfigurationError(f"MULTIDB_REDIS_URL must not set `{option}`: values are bytes")
        #: redis-py's client, on connections of its own.
        self.client = Redis(connection_pool=pool)
        self._pool = pool
        self._limit = settings.redis_pool_size
        breaker = Breaker(
            limit=settings.redis_breaker_limit, pause=settings.redis_breaker_pause.total_seconds()
        )
        self._node = Node(self._make, limit=settings.redis_pool_size, timeout=timeout, breaker=breaker)

    async def send(self, call: Call) -> list[Any]:
        """Return a reply for each command of the call, or the error in its place."""
        return await self._node.send(call)

    async def ask(self, call: Call) -> list[Any]:
        """Do what `send` does, also where calls are refused because the server did not answer."""
        return await self._node.ask(call)

    @property
    def refuses(self) -> bool:
        """Whether calls fail at once, for the server has not answered lately."""
        return self._node.breaker.is_open

    def node(self, key: Key) -> Node:
        """Return the node that has this key."""
        return self._node

    def pool_usage(self) -> PoolUsage:
        """Return how many connections are open and at work, those of `client` aside."""
        each = self._node.connections
        size, in_use = sum(one.size for one in each), sum(one.in_use for one in each)
        return PoolUsage(size=size, in_use=in_use, limit=self._limit)

    async def close(self) -> None:
        """Close every connection."""
        await self._node.close()
        await self.client.aclose()
        await self._pool.disconnect()

    def _make(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        connection.socket_timeout = None  # the round trip has a deadline, for all it does
        return connection
