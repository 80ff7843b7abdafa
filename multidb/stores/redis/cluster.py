"""Redis Cluster: each call goes to the nodes that have its keys, and after those who have moved."""

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import TimeoutError as TimedOut

from multidb.settings import Settings
from multidb.stores.redis.address import Host, Target
from multidb.stores.redis.commands import Command, Key, plain
from multidb.stores.redis.connections import Connections
from multidb.stores.redis.listener import Listener
from multidb.stores.redis.node import Call, Node
from multidb.stores.redis.servers import Servers

__all__ = ["Cluster"]

#: How often a command goes after a slot that has moved.
_REDIRECTIONS = 5
#: Seconds until a command is tried again whose keys are being moved just now.
_MOVING = 0.05
#: Seconds between two looks at who has which slots, at least.
_BETWEEN_LOOKS = 0.3

_WHO_HAS_WHAT = plain("CLUSTER", "SLOTS")
_ASKING = plain("ASKING")


class _Way(NamedTuple):
    """Where a command goes."""

    host: Host | None
    #: Whether the slot is only on its way there, so that the node has to be asked to run it.
    asking: bool = False


class Cluster(Servers):
    """A cluster. Who has which slots is asked at the first call, and again when that turns out wrong.

    A command that a node refuses because the key lies elsewhere did not run, and follows the key.
    One whose node does not answer is not sent to another: it may have run.
    """

    def __init__(self, settings: Settings, target: Target) -> None:
        super().__init__(settings, target)
        self._connection: type[Connection] = target.options.get("connection_class", Connection)
        self._options = {name: value for name, value in target.options.items() if name != "connection_class"}
        secure: dict[str, Any] = {"ssl": True} if self._connection is not Connection else {}
        self.client = RedisCluster(
            startup_nodes=[ClusterNode(*host) for host in target.hosts],
            max_connections=settings.redis_pool_size,
            socket_timeout=self._timeout,
            **self._options,
            **secure,
        )
        self.listener = Listener(Connections(self._make_any), timeout=self._timeout)
        self._seeds = target.hosts
        self._nodes: dict[Host, Node] = {}
        #: By slot, who has it.
        self._owners: list[Host | None] = []
        self._primaries: set[Host] = set()
        #: The primaries and their replicas, who can be asked.
        self._known: set[Host] = set()
        self._look: asyncio.Task[Exception | None] | None = None
        self._looked_at = 0.0

    async def send(self, call: Call, *, insist: bool = False) -> list[Any]:
        if not self._owners and (problem := await self._find_out()) is not None:
            return [problem] * len(call)
        replies: list[Any] = [None] * len(call)
        going = {index: _Way(self._owner(command.key)) for index, command in enumerate(call)}
        for _ in range(1 + _REDIRECTIONS):
            await self._go(call, going, replies, insist=insist)
            going = {
                index: onward
                for index, way in going.items()
                if isinstance(replies[index], Exception)
                and (onward := self._onward(call[index], way, replies[index])) is not None
            }
            if not going:
                break
            if any(isinstance(replies[index], TryAgainError) for index in going):
                await asyncio.sleep(_MOVING)
        return replies

    async def ask(self, call: Call) -> list[list[Any]]:
        if not self._owners and (problem := await self._find_out()) is not None:
            if isinstance(problem, ResponseError):  # it answers, but is no cluster
                return [await self._at(self._seeds[0]).ask(call)]
            return [[problem] * len(call)]
        return await asyncio.gather(*(self._at(host).ask(call) for host in self._primaries))

    async def locate(self, key: Key) -> Node:
        if not self._owners and (problem := await self._find_out()) is not None:
            raise problem
        owner = self._owner(key)
        if owner is None:
            raise SlotNotCoveredError
        return self._at(owner)

    def incarnation(self, key: Key) -> bytes:
        owner = self._owner(key) if self._owners else None
        return b"" if owner is None else self._at(owner).incarnation

    def is_settled(self, key: Key) -> bool:
        owner = self._owner(key) if self._owners else None
        return owner is None or self._at(owner).is_settled

    @property
    def nodes(self) -> Collection[Node]:
        return self._nodes.values()

    async def close(self) -> None:
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
        await self.listener.close()
        for node in self._nodes.values():
            await node.close()
        await self.client.aclose()

    async def _go(self, call: Call, going: Mapping[int, _Way], replies: list[Any], *, insist: bool) -> None:
        """Send the commands at these places, one call a node, and put their replies there."""
        by_host: dict[Host, list[int]] = {}
        for index, way in going.items():
            if way.host is None:
                replies[index] = SlotNotCoveredError()
            else:
                by_host.setdefault(way.host, []).append(index)

        async def go(host: Host, indexes: list[int]) -> None:
            sent = [
                command
                for index in indexes
                for command in ((_ASKING, call[index]) if going[index].asking else (call[index],))
            ]
            told = await self._at(host).send(tuple(sent), insist=insist)
            got = dict(zip(sent, told, strict=True))
            for index in indexes:
                replies[index] = got[call[index]]

        if len(by_host) == 1:
            [(host, indexes)] = by_host.items()
            await go(host, indexes)
        else:
            await asyncio.gather(*(go(host, indexes) for host, indexes in by_host.items()))

    def _onward(self, command: Command, way: _Way, reply: Exception) -> _Way | None:
        """Return where a command is to go after this answer, or None if that was its answer."""
        here = way.host.name if way.host is not None else ""
        match reply:
            case MovedError():
                moved = Host(reply.host or here, reply.port)
                self._owners[reply.slot_id] = moved
                self._look_soon()
                return _Way(moved)
            case AskError():
                return _Way(Host(reply.host or here, reply.port), asking=True)
            case TryAgainError():
                return _Way(self._owner(command.key))
            case ClusterDownError() | SlotNotCoveredError() | Broken() | TimedOut() | OSError():
                self._look_soon()
        return None

    def _owner(self, key: Key) -> Host | None:
        return self._owners[key_slot(key.encode())]

    def _at(self, host: Host) -> Node:
        node = self._nodes.get(host)
        if node is None:
            node = self._nodes[host] = self._node(partial(self._make, host))
        return node

    # --- who has which slots

    async def _find_out(self) -> Exception | None:
        """Wait for a look, and return why it found nothing."""
        return await asyncio.shield(self._look_soon())

    def _look_soon(self) -> asyncio.Task[Exception | None]:
        if self._look is None or self._look.done():
            # In an empty context, for it is part of nobody's call.
            self._look = asyncio.get_running_loop().create_task(self._look_around(), context=Context())
        return self._look

    async def _look_around(self) -> Exception | None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._looked_at + _BETWEEN_LOOKS - loop.time())
        self._looked_at = loop.time()
        problem: Exception = Broken("there is no node")
        candidates = list({*self._seeds, *self._known})
        random.shuffle(candidates)
        for host in sorted(candidates, key=lambda host: self._at(host).breaker.is_open):
            [reply] = await self._at(host).send((_WHO_HAS_WHAT,))
            if not isinstance(reply, Exception):
                await self._learn(reply, host)
                return None
            problem = reply
        return problem

    async def _learn(self, ranges: Sequence[Sequence[Any]], told_by: Host) -> None:
        owners: list[Host | None] = [None] * SLOTS
        known: set[Host] = set()
        for first, last, *servers in ranges:
            # A node that does not know its own name leaves it out.
            hosts = [Host(server[0].decode() if server[0] else told_by.name, server[1]) for server in servers]
            owners[first : last + 1] = [hosts[0]] * (last + 1 - first)
            known.update(hosts)
        self._owners = owners
        self._known = known
        self._primaries = {owner for owner in owners if owner is not None}
        for host in self._nodes.keys() - known - set(self._seeds):
            await self._nodes.pop(host).close()

    def _make(self, host: Host) -> AbstractConnection:
        return self._connection(host=host.name, port=host.port, socket_timeout=None, **self._options)

    def _make_any(self) -> AbstractConnection:
        return self._make(random.choice([*(self._primaries or self._seeds)]))  # noqa: S311 - no secret
