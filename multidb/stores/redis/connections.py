"""The connections to one server: kept open, and lent to one user at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Broken

__all__ = ["Connections"]


class Connections:
    """Connections of redis-py's, made by `make` and opened when they are first lent.

    How many there may be is up to who takes them, and so is the deadline of all they do: `make`
    gives them no timeout of their own, which would cost a task a write and a timer a reply. `greet`
    is called with each that was opened, before it is lent.
    """

    def __init__(
        self,
        make: Callable[[], AbstractConnection],
        greet: Callable[[AbstractConnection], Awaitable[None]] | None = None,
    ) -> None:
        self._make = make
        self._greet = greet
        self._idle: list[AbstractConnection] = []
        self._lent: set[AbstractConnection] = set()
        self._closed = False

    @property
    def size(self) -> int:
        """How many are open."""
        return sum(bool(connection.is_connected) for connection in self._idle) + len(self._lent)

    @property
    def in_use(self) -> int:
        """How many are lent."""
        return len(self._lent)

    async def take(self) -> AbstractConnection:
        """Lend a connection that is open and has nothing to be read.

        Raises: what redis-py raises when it cannot connect.
        """
        if self._closed:
            raise Broken("the client was closed")
        connection = self._idle.pop() if self._idle else self._make()
        self._lent.add(connection)
        try:
            if connection.is_connected:
                if not await connection.can_read():
                    return connection
                # The server has closed it, or said what nobody had asked for.
                await connection.disconnect(nowait=True)
            with _heeding():
                await connection.connect()  # type: ignore[no-untyped-call]
                if self._greet is not None:
                    await self._greet(connection)
        except BaseException:
            await self.drop(connection)
            raise
        return connection

    def give_back(self, connection: AbstractConnection) -> None:
        """Take back a connection whose every reply has been read."""
        self._lent.discard(connection)
        self._idle.append(connection)

    async def drop(self, connection: AbstractConnection) -> None:
        """Take back a connection that broke, or on which replies may still come: it is closed."""
        self._lent.discard(connection)
        await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close all, also those that are lent: whoever has one loses it."""
        self._closed = True
        for connection in (*self._idle, *self._lent):
            await connection.disconnect()
        self._idle.clear()


@contextmanager
def _heeding() -> Iterator[None]:
    """Raise a cancellation that came inside and was lost.

    The driver asks Sentinels by `asyncio.wait_for`, which before Python 3.12 forgets one that comes
    when the bytes have just been written: the caller would go on as if nobody had cancelled it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
