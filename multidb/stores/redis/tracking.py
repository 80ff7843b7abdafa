"""Hearing of keys that change: a connection that the server tells of every change, and how lately it did."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any, TypeAlias, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisError

from multidb.stores.background import Background
from multidb.stores.pauses import Pauses
from multidb.stores.redis.commands import pack
from multidb.stores.redis.connections import Connections
from multidb.stores.redis.node import run_of

__all__ = ["Heard", "Tracker", "apart"]

_log = logging.getLogger("multidb.redis")

#: Is told which keys have changed; None for any of them, for nobody knows.
Heard: TypeAlias = Callable[[Sequence[bytes] | None], None]


class Tracker:
    """Tells of every change of keys that begin with certain prefixes, whoever makes it.

    A server answers in order, and what it has to tell of changes stands in front of what it answers
    later. So once a PING is answered, all that was changed before it was sent has been told. The
    server is asked every `every` seconds; with one that does not answer for `timeout` the connection
    is made anew.
    """

    def __init__(self, make: Callable[[], AbstractConnection], *, every: float, timeout: float) -> None:
        self.connections = Connections(make, self._greet)
        self._every = every
        self._timeout = timeout
        self._prefixes: frozenset[str] = frozenset()
        self._heard: Heard = _nobody
        self._hearing = Background(self._run)
        #: Whether changes are told of now; if not, they are missed.
        self.is_on = False
        #: All that changed before this moment, of `time.monotonic`, has been told of.
        self.told_until = -math.inf
        #: Which run of the server tells.
        self.incarnation = b""

    def follow(self, prefixes: Collection[str], heard: Heard) -> None:
        """Tell `heard` of changes, once it is on; with other prefixes than before it begins anew."""
        self._heard = heard
        if self._prefixes != prefixes:
            self._prefixes = frozenset(prefixes)
            self._lose()
        self._hearing.begin()

    async def close(self) -> None:
        """Stop, and close the connection."""
        await self._hearing.end(within=0)
        await self.connections.close()

    async def _run(self) -> None:
        pauses = Pauses()
        is_away = False
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    connection = await self.connections.take()
                try:
                    async with asyncio.timeout(self._timeout):
                        prefixes = await self._begin(connection)
                    pauses.restart()
                    is_away = False
                    await self._hear(connection, prefixes)
                finally:
                    self._lose()
                    await self.connections.drop(connection)
            except (RedisError, OSError) as error:
                if not is_away:
                    _log.warning("Redis does not tell what changes: %s", type(error).__name__)
                is_away = True
                await asyncio.sleep(pauses.next())

    async def _greet(self, connection: AbstractConnection) -> None:
        self.incarnation = (await run_of(connection)).id

    async def _begin(self, connection: AbstractConnection) -> frozenset[str]:
        # redis-py hands these messages to a handler, and keeps them to itself where there is none.
        parser = cast(Any, connection)._parser  # noqa: SLF001 - it offers no other way
        parser.set_invalidation_push_handler(_as_it_is)
        prefixes, began = self._prefixes, time.monotonic()
        words = [word for prefix in apart(prefixes) for word in ("PREFIX", prefix)]
        command = pack("CLIENT", "TRACKING", "ON", "BCAST", *words)
        await connection.send_packed_command([command], check_health=False)
        await connection.read_response()
        if prefixes is self._prefixes:
            self.is_on, self.told_until = True, began
        return prefixes

    async def _hear(self, connection: AbstractConnection, prefixes: frozenset[str]) -> None:
        """Hear what changes, until other prefixes are to be followed."""
        tokens = count(1)
        token, asked, answered = b"", time.monotonic(), True
        while True:
            until = asked + (self._every if answered else self._timeout)
            said = None
            if (left := until - time.monotonic()) > 0:
                said = await connection.read_response(timeout=left, push_request=True)
            if prefixes is not self._prefixes:
                return
            if isinstance(said, list):
                if said[0] == b"invalidate":
                    self._heard(said[1])
            elif said is not None:
                if said == token:
                    self.told_until, answered = asked, True
            elif not answered:
                raise Broken("silence")
            else:
                token, asked, answered = str(next(tokens)).encode(), time.monotonic(), False
                await connection.send_packed_command([pack("PING", token)], check_health=False)

    def _lose(self) -> None:
        self.is_on, self.told_until = False, -math.inf
        self._heard(None)


async def _as_it_is(push: Any) -> Any:
    return push


def _nobody(_: Sequence[bytes] | None) -> None:
    pass


def apart(prefixes: Collection[str]) -> list[str]:
    """Return prefixes of which none begins with another, for the server refuses such."""
    apart: list[str] = []
    for prefix in sorted(prefixes):
        if not apart or not prefix.startswith(apart[-1]):
            apart.append(prefix)
    return apart
