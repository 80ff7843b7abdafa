"""Channels: one connection listens to all that anybody here wants to hear."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from itertools import count
from typing import Any, NamedTuple, Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisError

from multidb.errors import DataError, NotOpenError
from multidb.stores.completion import complete
from multidb.stores.pauses import Pauses
from multidb.stores.redis.commands import pack
from multidb.stores.redis.connections import Connections
from multidb.stores.redis.errors import translating

__all__ = ["Listener", "Message", "Messages"]

#: How many messages a listener may leave unread.
_BACKLOG = 10_000
#: Seconds without a word, after which the server is asked whether it is still there.
_SILENCE = 15.0


class Message(NamedTuple):
    """What somebody has published."""

    channel: str
    data: bytes


class Messages:
    """What is published on some channels, `async for message in messages:`, in the order it arrives.

    None stands where something may have been missed: the connection was lost, it is there again, or
    too much was left unread. Who waits for a message looks for itself then. Raises: NotOpenError once
    the store is closed.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(_BACKLOG)
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message | None:
        if self._ended and self._queue.empty():
            raise NotOpenError("closed while it was listened to", store="redis")
        message = await self._queue.get()
        return await anext(self) if self._ended and message is None else message

    def put(self, message: Message | None) -> None:
        """Add what has arrived; where there is no room for it, None takes the place of all."""
        if self._queue.full():
            self.forget()
            message = None
        self._queue.put_nowait(message)

    def end(self) -> None:
        """Have whoever has read it all be told that nothing will come any more, by a NotOpenError."""
        self._ended = True
        self.put(None)  # for who waits now

    def forget(self) -> None:
        """Drop what is unread."""
        while not self._queue.empty():
            self._queue.get_nowait()


class Listener:
    """Listens for everybody, on a connection made when it is first needed, and made anew when it is lost.

    A server answers in order. So a PING sent after SUBSCRIBE comes back once the server will tell
    of the channel, whatever else was asked of the connection before.
    """

    def __init__(self, connections: Connections, *, timeout: float) -> None:
        self.connections = connections
        self._timeout = timeout
        self._listeners: dict[str, list[Messages]] = {}
        self._tokens = count(1)
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        #: The connection, once there is one; after a loss, the next one.
        self._connected: asyncio.Future[AbstractConnection]
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listen(self, channels: Collection[str], operation: str) -> AsyncIterator[Messages]:
        """Listen to channels: all that is published from the beginning of the block on is heard."""
        channels = dict.fromkeys(channels)
        if not channels:
            raise DataError("name a channel to listen to", store="redis", operation=operation)
        with translating(operation):
            # Before anybody else's connection hears of it, for one that cannot be sent would end that.
            subscribe = pack("SUBSCRIBE", *channels)
        messages = Messages()
        for name in channels:
            self._listeners.setdefault(name, []).append(messages)
        try:
            with translating(operation):
                async with asyncio.timeout(self._timeout):
                    await self._subscribe(subscribe)
            messages.forget()
            yield messages
        finally:
            for name in channels:
                self._listeners[name].remove(messages)
            await self._unsubscribe([name for name in channels if not self._listeners[name]])

    async def close(self) -> None:
        """Stop listening, and close the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for messages in {each for listening in self._listeners.values() for each in listening}:
            messages.end()
        await self.connections.close()

    async def _subscribe(self, subscribe: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._connected = loop.create_future()
            # In an empty context, for it is part of nobody's call.
            self._task = loop.create_task(self._listen(), context=Context())
        connection = await asyncio.shield(self._connected)
        token = str(next(self._tokens)).encode()
        answered = self._pings[token] = loop.create_future()
        try:
            await _say(connection, subscribe, pack("PING", token))
            await answered
        finally:
            self._pings.pop(token, None)

    async def _unsubscribe(self, channels: Collection[str]) -> None:
        for name in channels:
            del self._listeners[name]
        if channels and self._task is not None and self._connected.done():
            with suppress(RedisError, OSError):  # a connection that is lost tells of nothing any more
                await _say(self._connected.result(), pack("UNSUBSCRIBE", *channels))

    async def _listen(self) -> None:
        pauses = Pauses()
        while True:
            connection = None
            try:
                async with asyncio.timeout(self._timeout):
                    connection = await self.connections.take()
                if self._listeners:
                    await _say(connection, pack("SUBSCRIBE", *self._listeners))
                self._connected.set_result(connection)
                self._tell_all(None)
                pauses.restart()
                await self._hear(connection)
            except (RedisError, OSError) as error:
                self._lose(error)
            finally:
                if connection is not None:
                    await self.connections.drop(connection)
            await asyncio.sleep(pauses.next())

    async def _hear(self, connection: AbstractConnection) -> None:
        asked = False
        while True:
            said = await connection.read_response(timeout=_SILENCE, push_request=True)
            if said is None:
                if asked:
                    raise Broken("silence")
                await _say(connection, pack("PING", ""))
            asked = said is None
            if isinstance(said, bytes):
                ping = self._pings.get(said)
                if ping is not None and not ping.done():
                    ping.set_result(None)
            elif said and said[0] == b"message":
                channel = said[1].decode()
                for messages in self._listeners.get(channel, ()):
                    messages.put(Message(channel, said[2]))

    def _lose(self, error: Exception) -> None:
        waiting: list[asyncio.Future[Any]] = [self._connected, *self._pings.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # there may be nobody to see it
        self._connected = asyncio.get_running_loop().create_future()
        self._tell_all(None)

    def _tell_all(self, message: Message | None) -> None:
        for messages in {each for listening in self._listeners.values() for each in listening}:
            messages.put(message)


async def _say(connection: AbstractConnection, *packed: bytes) -> None:
    """Write commands, all of them: the connection is everybody's, and half a command would end it."""
    await complete(connection.send_packed_command(packed, check_health=False))
