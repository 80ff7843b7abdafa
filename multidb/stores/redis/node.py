"""One server: calls that meet leave in one pipeline, over one of its connections.

A call is one or more commands. It gets a reply for each, in their order; where the server refused
one, the error stands in the reply's place, and the others are as they are. Of a connection that
breaks, those who had their replies keep them, and each of the rest is told: its command may have
run. Only what is `repeatable` is then sent again, once, by itself.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Broken

from multidb.stores.batching import Batcher
from multidb.stores.redis.breaker import Breaker
from multidb.stores.redis.commands import Command, pack
from multidb.stores.redis.connections import Connections
from multidb.stores.redis.dedicated import DedicatedConnections
from multidb.stores.redis.errors import Refused

__all__ = ["Call", "Node", "Run", "run_of"]

#: Commands that one caller sends together.
Call: TypeAlias = tuple[Command, ...]


#: Round trips under way at a time.
_LANES = 4
#: Commands worth a round trip of their own while others are under way: so the server works on one
#: batch while the next is made and the last is read, instead of each waiting for the other.
_ENOUGH = 32
#: Seconds that who insists may take.
_INSISTENCE = 0.25
#: Seconds that a run of the server is old before what it has not heard of may be thought over.
_SETTLING = 1.0

_INFO = pack("INFO", "server")


class Node:
    """A server, its connections, and those who wait for one.

    It has `limit` connections at most. A round trip takes `timeout` seconds
    at most, the way to a connection included.
    """

    def __init__(
        self, make: Callable[[], AbstractConnection], *, limit: int, timeout: float, breaker: Breaker
    ) -> None:
        lanes = max(1, min(_LANES, limit - 1))
        self.breaker = breaker
        self._timeout = timeout
        #: Which run of the server this is, by the last connection that was opened: another one after a
        #: restart or a failover. Empty before the first, and where the server does not say.
        self.incarnation = b""
        #: Since when, by the clock of the event loop, that run passes for settled.
        self._settled = 0.0
        self._connections = Connections(make, self._greet)
        self._batcher: Batcher[Call, list[Any]] = Batcher(
            self._alone, self._together, lanes=lanes, enough=_ENOUGH
        )
        #: For those who need one for themselves.
        self.dedicated = DedicatedConnections(Connections(make), limit=max(1, limit - lanes), timeout=timeout)

    async def send(self, call: Call, *, insist: bool = False) -> list[Any]:
        """Return a reply a command; an exception where there is none. Never raises one of the driver's.

        Who insists tries also while others are refused, for a moment.
        """
        if self.breaker.refuses:
            if not insist:
                return [Refused()] * len(call)
            return await self._trip(call, asking=True, seconds=min(self._timeout, _INSISTENCE))
        return await self._batcher.get(call) or []

    async def ask(self, call: Call) -> list[Any]:
        """Send a call by itself, also while others are refused: what it finds out counts."""
        return await self._trip(call, asking=True)

    @property
    def connections(self) -> Sequence[Connections]:
        """All that it has: for calls, and for one caller at a time."""
        return self._connections, self.dedicated.connections

    @property
    def is_settled(self) -> bool:
        """Whether the run is so old that those who could not reach the server before are done by now."""
        return asyncio.get_running_loop().time() >= self._settled

    async def close(self) -> None:
        """Close every connection, and wait for those who lose theirs."""
        await self.dedicated.connections.close()
        await self._connections.close()
        await self._batcher.close()

    async def _greet(self, connection: AbstractConnection) -> None:
        run = await run_of(connection)
        if run.id != self.incarnation:
            # Another run than before may be an old one, that of a replica: it is new as this server.
            age = 0 if self.incarnation else run.age
            self._settled = asyncio.get_running_loop().time() + _SETTLING - age
            self.incarnation = run.id

    async def _alone(self, call: Call, _: Any) -> list[Any]:
        return await self._trip(call)

    async def _together(self, calls: Sequence[Call], _: Any) -> Mapping[Call, list[Any] | Exception]:
        replies = iter(await self._trip([command for call in calls for command in call]))
        return {call: [next(replies) for _ in call] for call in calls}

    async def _trip(
        self, commands: Sequence[Command], *, asking: bool = False, seconds: float | None = None
    ) -> list[Any]:
        if not (self.breaker.admit() or asking):
            return [Refused()] * len(commands)
        deadline = asyncio.get_running_loop().time() + (seconds or self._timeout)
        replies = await self._exchange([command.packed for command in commands], deadline)
        again = [
            index
            for index, reply in enumerate(replies)
            if isinstance(reply, Exception) and _may_go_again(commands[index], reply)
        ]
        if again and not self.breaker.is_open:
            loads = _loads(commands[index] for index in again if type(replies[index]) is NoScriptError)
            repeated = await self._exchange([*loads, *(commands[index].packed for index in again)], deadline)
            for index, reply in zip(again, repeated[len(loads) :], strict=True):
                replies[index] = reply
        return replies

    async def _exchange(self, packed: Sequence[bytes], deadline: float) -> list[Any]:
        """Send commands and return a reply for each: what was answered, else why there is no answer."""
        replies: list[Any] = []
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._connections.take()
                try:
                    await connection.send_packed_command(packed, check_health=False)
                    while len(replies) < len(packed):
                        try:
                            replies.append(await connection.read_response())
                        except ResponseError as refusal:
                            replies.append(refusal)
                except BaseException:
                    await self._connections.drop(connection)
                    raise
                self._connections.give_back(connection)
        except (RedisError, OSError) as error:
            if replies or isinstance(error, AuthenticationError | AuthorizationError):
                self.breaker.answered()
            else:
                self.breaker.failed(began)
            replies += [error] * (len(packed) - len(replies))
        except BaseException:
            self.breaker.given_up(began)
            raise
        else:
            self.breaker.answered()
        return replies


class Run(NamedTuple):
    """A run of a server, from its start to its end."""

    #: Empty if the server does not say.
    id: bytes
    #: For how many whole seconds it has been one.
    age: int


async def run_of(connection: AbstractConnection) -> Run:
    """Return which run of the server this is a connection to."""
    await connection.send_packed_command([_INFO], check_health=False)
    told: Any = b""
    with suppress(ResponseError):  # it may be forbidden
        told = await connection.read_response()
    run, age = re.search(rb"run_id:(\w+)", told), re.search(rb"uptime_in_seconds:(\d+)", told)
    return Run(run[1] if run else b"", int(age[1]) if age else 0)


def _may_go_again(command: Command, reply: Exception) -> bool:
    if command.script is not None and type(reply) is NoScriptError:
        return True  # it did not run
    return command.repeatable and type(reply) is Broken


def _loads(commands: Iterable[Command]) -> list[bytes]:
    """Return what gives the server the scripts of these commands, each once."""
    sources = {command.script.source: None for command in commands if command.script is not None}
    return [pack("SCRIPT", "LOAD", source) for source in sources]
