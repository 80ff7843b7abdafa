"""Lending the pool's connections: to each caller in turn, and to SQLAlchemy's engine."""

import asyncio
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from multidb.stores.completion import complete
from multidb.stores.postgres.ambient import Connection
from multidb.stores.postgres.errors import heedless, translating
from multidb.stores.store import UnderWay

__all__ = ["Borrowed", "Lent", "Pool", "Turns"]

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool


class Turns(asyncio.Semaphore):
    """Who may take a connection of the pool, in the order of asking.

    The pool alone keeps no order: a connection that was given back goes to whoever asks next, and
    those who were waiting for it wait anew, behind all others.
    """

    async def take(self, pool: Pool, timeout: float) -> Connection:  # noqa: ASYNC109 - it is the pool's too
        """Return a connection once there is one; the turn is over with `release`."""
        if self.locked():
            loop = asyncio.get_running_loop()
            until = loop.time() + timeout
            async with asyncio.timeout_at(until):
                await self.acquire()
            timeout = max(0.001, until - loop.time())
        else:
            await self.acquire()
        try:
            return await pool.acquire(timeout=timeout)
        except BaseException:
            self.release()
            raise


class Lent:
    """A pooled connection, for as long as the block lasts. A class, for nearly every call has one."""

    __slots__ = ("_connection", "_operation", "_pool", "_timeout", "_turns", "_under_way")

    _connection: Connection

    def __init__(self, pool: Pool, turns: Turns, timeout: float, operation: str, under_way: UnderWay) -> None:
        self._pool = pool
        self._turns = turns
        self._timeout = timeout
        self._operation = operation
        self._under_way = under_way

    async def __aenter__(self) -> Connection:
        # Under way while it still waits for a connection: closing must not come between.
        self._under_way.__enter__()
        try:
            with translating(self._operation):
                self._connection = await self._turns.take(self._pool, self._timeout)
        except BaseException:
            self._under_way.__exit__()
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        release = partial(heedless, partial(self._pool.release, self._connection))
        try:
            if isinstance(error, asyncpg.InternalClientError):
                self._connection.terminate()  # out of step with the server: nobody must get it again
            # After an error to its end: until then the server may be at what the caller was cancelled in.
            await (release() if error is None else complete(release()))
        finally:
            self._turns.release()
            self._under_way.__exit__()


class Borrowed:
    """A pooled connection in SQLAlchemy's hands: closing it gives it back."""

    def __init__(self, pool: Pool, turns: Turns, connection: Connection) -> None:
        self._pool = pool
        self._turns: Turns | None = turns
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        try:
            if not self.is_closed():
                # Whoever had it may have changed settings, or listened.
                await self._connection.reset(timeout=timeout)
        except BaseException:
            self.terminate()
            raise
        finally:
            try:
                await heedless(partial(self._pool.release, self._connection))
            finally:
                self._end_turn()

    def is_closed(self) -> bool:
        try:
            return self._connection.is_closed()
        except asyncpg.InterfaceError:
            return True  # it broke, and has left the pool's hands already

    def terminate(self) -> None:
        if not self.is_closed():
            self._connection.terminate()
        self._end_turn()

    def _end_turn(self) -> None:
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.release()
