"""Channels of PostgreSQL: what NOTIFY says, heard on a connection of its own."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeAlias

import asyncpg

from multidb.errors import MultiDBError
from multidb.stores.pauses import Pauses, nap
from multidb.stores.postgres.engine import PostgresStore, connect
from multidb.stores.postgres.errors import translating

__all__ = ["Listening"]

#: Told what was said; None where something may have been missed, so that it looks for itself.
Heard: TypeAlias = Callable[[str | None], None]

#: Seconds without a word, after which the server is asked whether it is still there.
_SILENCE = 15.0


class Listening:
    """Hears a channel while its block runs, and connects anew whenever the connection is lost.

    The connection goes to `Settings.migration_url` where there is one: a pooler that shares
    connections by transaction passes nothing on. While PostgreSQL is away, nothing is heard.
    """

    def __init__(self, store: PostgresStore, channel: str, heard: Heard) -> None:
        self._store = store
        self._channel = channel
        self._heard = heard
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        assert self._store.opened is not None  # which tells who has not opened it
        # In an empty context, for it is part of nobody's call.
        self._task = asyncio.get_running_loop().create_task(self._listen(), context=Context())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _listen(self) -> None:
        pauses = Pauses()
        while True:
            connection: Any = None
            with suppress(MultiDBError):
                try:
                    with translating("listen"):
                        connection = await connect(self._store.settings)
                        lost = asyncio.Event()
                        connection.add_termination_listener(lambda _, lost=lost: lost.set())
                        await connection.add_listener(self._channel, self._hear)
                        self._heard(None)
                        pauses.restart()
                        await self._until(lost, connection)
                finally:
                    if connection is not None:
                        connection.terminate()
            await asyncio.sleep(pauses.next())

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._heard(str(payload))

    @staticmethod
    async def _until(lost: asyncio.Event, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while not lost.is_set():
            if not await nap(lost, _SILENCE):
                await connection.execute("SELECT 1", timeout=_SILENCE)
