"""Telling workers that there is something to do: NOTIFY, after the commit and no more often than needed.

NOTIFY inside a transaction makes commits wait for each other, and would be sent once each. So a process
sends it by itself, for all its queues together, and what comes within the next moment rides on the next
one. A worker that hears nothing, for the process has died between its commit and this, looks for itself
now and then.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from contextvars import Context

from multidb.errors import MultiDBError
from multidb.repositories.job_statements import NOTIFY
from multidb.stores.postgres.engine import PostgresStore

__all__ = ["CANCEL", "Wakeups"]

#: What precedes the id of a running job that is to stop.
CANCEL = "cancel\t"

#: Between two of a process, in seconds.
_PAUSE = 0.01


class Wakeups:
    """What a process has to tell, and has not told yet."""

    def __init__(self, postgres: PostgresStore) -> None:
        self._postgres = postgres
        self._due: set[str] = set()
        self._sending: asyncio.Task[None] | None = None

    def tell(self, payloads: Iterable[str]) -> None:
        """Tell whoever listens, once what was written in the ambient transaction is committed."""
        told = set(payloads)
        transaction = self._postgres.transactions.current()
        if not told:
            return
        if transaction is None:
            self._send_later(told)
            return

        async def committed() -> None:
            self._send_later(told)

        transaction.on_commit(committed)

    async def close(self) -> None:
        """Wait until all is told."""
        if self._sending is not None and self._sending.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._sending])
        self._sending, self._due = None, set()

    def _send_later(self, payloads: set[str]) -> None:
        self._due |= payloads
        loop = asyncio.get_running_loop()
        if self._sending is None or self._sending.done() or self._sending.get_loop() is not loop:
            # In an empty context, for it is part of nobody's call.
            self._sending = loop.create_task(self._send(), context=Context())

    async def _send(self) -> None:
        while self._due:
            payloads, self._due = sorted(self._due), set()
            with suppress(MultiDBError):  # the workers look for themselves
                await self._postgres.fetch(NOTIFY, {"payloads": payloads}, operation="jobs.notify")
            await asyncio.sleep(_PAUSE)
