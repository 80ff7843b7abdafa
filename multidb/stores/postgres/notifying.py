"""Telling others that there is something to do: NOTIFY, after the commit and no more often than needed.

NOTIFY inside a transaction makes commits wait for each other, and would be sent once each. So a process
sends it by itself, for all of a channel together, and what comes within the next moment rides on the next
one. Who hears nothing, for the process has died between its commit and this, looks for itself now and
then.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import sqlalchemy as sa

from multidb.errors import MultiDBError
from multidb.stores.background import Background
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.postgres.statements import Statement

__all__ = ["Notifying"]

#: Its commit waits for no disk: what a server that dies has not told, they find.
_NOTIFY = Statement(
    sa.text(
        "SELECT set_config('synchronous_commit', 'off', true), pg_notify(:channel, payload)"
        " FROM unnest(:payloads) AS payload"
    ).bindparams(
        sa.bindparam("channel", None, type_=sa.Text()),
        sa.bindparam("payloads", None, type_=sa.ARRAY(sa.Text())),
    )
)

#: Between two of a process, in seconds.
_PAUSE = 0.01


class Notifying:
    """What a process has to tell on a channel, and has not told yet."""

    def __init__(self, postgres: PostgresStore, channel: str) -> None:
        self._postgres = postgres
        self._channel = channel
        self._due: set[str] = set()
        self._sending = Background(self._send)

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
        await self._sending.end()
        self._due = set()

    def _send_later(self, payloads: set[str]) -> None:
        self._due |= payloads
        self._sending.begin()

    async def _send(self) -> None:
        while self._due:
            payloads, self._due = sorted(self._due), set()
            values = {"channel": self._channel, "payloads": payloads}
            with suppress(MultiDBError):  # they look for themselves
                await self._postgres.fetch(_NOTIFY, values, operation="notify")
            await asyncio.sleep(_PAUSE)
