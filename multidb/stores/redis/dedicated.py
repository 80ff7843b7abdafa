"""A connection of one caller's own: for commands that block, and for WATCH, MULTI and EXEC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Broken

from multidb.stores.redis.commands import Argument, pack
from multidb.stores.redis.connections import Connections
from multidb.stores.redis.errors import translating

__all__ = ["Dedicated", "DedicatedConnections"]


class Dedicated:
    """What `RedisStore.dedicated` lends."""

    def __init__(self, connection: AbstractConnection, *, timeout: float, operation: str) -> None:
        self._connection = connection
        self._timeout = timeout
        self._operation = operation

    async def execute(self, name: str, *arguments: Argument, wait: timedelta = timedelta(0)) -> Any:
        """Run one command and return its reply.

        `wait` is how long the command itself may block, `execute("BLPOP", key, 30, wait=...)`; the
        reply may come `Settings.redis_timeout` later. Raises: as `RedisStore.execute`. After an
        error of the connection, or a cancellation, it is of no more use.
        """
        with translating(self._operation):
            packed = pack(name, *arguments)
            async with asyncio.timeout(self._timeout + wait.total_seconds()):
                if not self._connection.is_connected:
                    # Or redis-py would connect again, and what was watched would be watched no more.
                    raise Broken("lost before")
                await self._connection.send_packed_command([packed], check_health=False)
                return await self._connection.read_response()


class DedicatedConnections:
    """Lends up to `limit` connections at a time; who comes later waits, `timeout` seconds at most."""

    def __init__(self, connections: Connections, *, limit: int, timeout: float) -> None:
        self.connections = connections
        self._timeout = timeout
        self._free = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def lend(self, operation: str) -> AsyncIterator[Dedicated]:
        """Lend a connection; it is closed at the end, with all that the server keeps of it."""
        with translating(operation):
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        try:
            with translating(operation):
                async with asyncio.timeout(self._timeout):
                    connection = await self.connections.take()
            try:
                yield Dedicated(connection, timeout=self._timeout, operation=operation)
            finally:
                await self.connections.drop(connection)
        finally:
            self._free.release()
