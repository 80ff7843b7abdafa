"""What stands behind the store: one server, found by Sentinels or not, or a cluster of them."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.maint_notifications import MaintNotificationsConfig

from multidb.models.health import PoolUsage
from multidb.settings import Settings
from multidb.stores.redis.address import Target
from multidb.stores.redis.breaker import Breaker
from multidb.stores.redis.commands import Key
from multidb.stores.redis.connections import Connections
from multidb.stores.redis.listener import Listener
from multidb.stores.redis.node import Call, Node
from multidb.stores.redis.tracking import Tracker

__all__ = ["Servers", "Single"]


class Servers(ABC):
    """Servers that run calls. What cannot be run has its error in the reply's place; none is raised."""

    #: What the URL says they are.
    kind: Literal["server", "sentinel", "cluster"]
    #: redis-py's own client, on connections of its own.
    client: Redis | RedisCluster
    #: Hears what is published.
    listener: Listener
    #: Hears which keys change; there is none in a cluster.
    tracker: Tracker | None = None

    def __init__(self, settings: Settings, target: Target) -> None:
        self.kind = target.kind
        self._settings = settings
        self._timeout = settings.redis_timeout.total_seconds()

    @abstractmethod
    def send(self, call: Call, *, insist: bool = False) -> Awaitable[list[Any]]:
        """Return a reply a command. Who insists tries also where calls are refused, for a moment."""

    @abstractmethod
    async def ask(self, call: Call) -> list[list[Any]]:
        """Send a call to every server that runs commands, also where calls are refused."""

    @abstractmethod
    async def locate(self, key: Key) -> Node:
        """Return the server that has this key. Raises: what redis-py raises if nobody has."""

    @abstractmethod
    def incarnation(self, key: Key) -> bytes:
        """Return which run of which server has this key, as far as is known without asking."""

    @abstractmethod
    def is_settled(self, key: Key) -> bool:
        """Tell whether that run is no new one."""

    @property
    @abstractmethod
    def nodes(self) -> Collection[Node]:
        """Every server there is a connection to."""

    @property
    def refuses(self) -> bool:
        """Whether calls to one of them fail at once, for it has not answered lately."""
        return any(node.breaker.is_open for node in self.nodes)

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""

    def pool_usage(self) -> PoolUsage:
        """Return how many connections are open and at work, those of `client` aside."""
        each = [*(pool for node in self.nodes for pool in node.connections), self.listener.connections]
        if self.tracker is not None:
            each.append(self.tracker.connections)
        return PoolUsage(
            size=sum(connections.size for connections in each),
            in_use=sum(connections.in_use for connections in each),
            # And one that listens, and one that hears of changes.
            limit=self._settings.redis_pool_size * max(1, len(self.nodes)) + 1 + (self.tracker is not None),
        )

    def _node(self, make: Callable[[], AbstractConnection]) -> Node:
        settings = self._settings
        breaker = Breaker(
            limit=settings.redis_breaker_limit, pause=settings.redis_breaker_pause.total_seconds()
        )
        return Node(make, limit=settings.redis_pool_size, timeout=self._timeout, breaker=breaker)


class Single(Servers):
    """One server: the one at the address, or the one the Sentinels say is the master now."""

    def __init__(self, settings: Settings, target: Target) -> None:
        super().__init__(settings, target)
        self._sentinel: Sentinel | None = None
        options = {
            **target.options,
            "socket_timeout": self._timeout,
            "max_connections": settings.redis_pool_size,
            # With them on, a connection the server has closed passes for a good one.
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        if target.kind == "sentinel":
            if options.pop("connection_class", None) is not None:
                options["ssl"] = True
            self._sentinel = _sentinel(target, self._timeout)
            client: Redis = self._sentinel.master_for(target.service, **options)
        else:
            [(host, port)] = target.hosts
            client = Redis.from_pool(
                BlockingConnectionPool(host=host, port=port, timeout=self._timeout, **options)
            )
        self.client = client
        self._pool: ConnectionPool = client.connection_pool
        self._only = self._node(self._make)
        self.listener = Listener(Connections(self._make), timeout=self._timeout)
        # Several times within what it is asked for, lest one late answer be missed.
        every = settings.cache_local_staleness.total_seconds() / 4
        self.tracker = Tracker(self._make, every=every, timeout=self._timeout)

    def send(self, call: Call, *, insist: bool = False) -> Awaitable[list[Any]]:
        return self._only.send(call, insist=insist)

    async def ask(self, call: Call) -> list[list[Any]]:
        return [await self._only.ask(call)]

    async def locate(self, key: Key) -> Node:
        return self._only

    def incarnation(self, key: Key) -> bytes:
        return self._only.incarnation

    def is_settled(self, key: Key) -> bool:
        return self._only.is_settled

    @property
    def nodes(self) -> Collection[Node]:
        return (self._only,)

    async def close(self) -> None:
        if self.tracker is not None:
            await self.tracker.close()
        await self.listener.close()
        await self._only.close()
        await self.client.aclose()
        await self._pool.disconnect()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    def _make(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        connection.socket_timeout = None  # the round trip has a deadline, for all it does
        return connection


def _sentinel(target: Target, timeout: float) -> Sentinel:
    # So short that all can be asked within the time a call has.
    each = timeout / (len(target.hosts) + 1)
    options = {**target.sentinel_options, "socket_timeout": each, "socket_connect_timeout": each}
    return Sentinel(target.hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
