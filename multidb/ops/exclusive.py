"""One change of PostgreSQL's schema at a time, and none that holds everybody up for long.

Who changes the schema holds an advisory lock, so that ten processes may start the same migration
at once: one does the work, the others wait and find it done.

- The lock belongs to the session that does the work, not to another one that watches over it. It
  is gone when that session is, whichever way it ends, and never before: nobody can start while
  the server is still at the last statement of one that was killed.
- It is asked for again and again, never waited for. A statement that waits holds a snapshot, and
  `CREATE INDEX CONCURRENTLY` waits for every older snapshot: each would wait for the other.
- A lock on a table is waited for only briefly (`lock_timeout`), for whoever comes after stands in
  the queue behind it, readers too. Then everything is rolled back, and tried again after a pause
  in which the queue runs empty.

A pooler that gives a session's statements to several connections, as PgBouncer does in
transaction mode, cannot carry such a lock: changes of the schema need a direct connection, and
where `postgres_url` gives none `migration_url` must.
"""

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import asyncpg

from multidb.errors import ConfigurationError, ConflictError
from multidb.settings import PostgresSettings
from multidb.stores.postgres.errors import heedless, translating

__all__ = ["LOCK_KEY", "Connection", "Patience", "alone", "brief", "insisting"]

T = TypeVar("T")

#: A connection outside any pool.
if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

#: Advisory locks are a database's own, so every database may use the same key.
LOCK_KEY = int.from_bytes(hashlib.sha256(b"multidb: changes of the schema").digest()[:8], signed=True)

_BETWEEN_TRIES = timedelta(milliseconds=150)

#: A client that says nothing for so long, while it holds locks, is taken for one that never will.
_FROZEN = timedelta(minutes=1)


class Patience:
    """How long one step may wait for others, from its beginning or the last `renew`."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._limit = settings.migration_timeout.total_seconds()
        #: How long to let others through after their locks were waited for in vain.
        self.breather = settings.migration_lock_timeout
        self.renew()

    def renew(self) -> None:
        """Begin anew, for a step was done."""
        self._deadline = asyncio.get_running_loop().time() + self._limit

    async def pause(self, about: timedelta) -> bool:
        """Wait roughly so long, so that no two stay in step; return False, at once, if patience is over."""
        left = self._deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - it spreads, and is no secret
        await asyncio.sleep(min(left, about.total_seconds() * spread))
        return True


@asynccontextmanager
async def alone(
    connection: Connection, settings: PostgresSettings, operation: str
) -> AsyncIterator[Patience]:
    """Hold the lock during the body, on `connection`, whose waits for locks are brief from here on.

    Raises: ConfigurationError if a pooler stands between here and the server; ConflictError,
    retryable, if others held it until `migration_timeout` was over.
    """
    patience = Patience(settings)
    with translating(operation):
        # Who names a `migration_url` has said that its sessions are the server's.
        if settings.migration_url is None and not await _is_direct(connection):
            raise ConfigurationError(
                "MULTIDB_POSTGRES_URL leads to a pooler, whose sessions are not the server's:"
                " set MULTIDB_MIGRATION_URL to the server's own address",
                store="postgres",
                operation=operation,
            )
        await brief(connection, settings)
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            if not await patience.pause(_BETWEEN_TRIES):
                raise ConflictError(
                    "another migration of this database is under way, and was not done within"
                    " MULTIDB_MIGRATION_TIMEOUT",
                    store="postgres",
                    operation=operation,
                    retryable=True,
                )
    patience.renew()
    try:
        yield patience
    finally:
        # Not left to the end of the session, which the server notices later.
        await heedless(lambda: connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY))


async def _is_direct(connection: Connection) -> bool:
    # A pooler names itself where the server names the process that serves the session.
    pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid == connection.get_server_pid()


async def brief(connection: Connection, settings: PostgresSettings) -> None:
    """Let the connection wait only briefly for locks, and let go of them soon if its client is no more."""
    await connection.execute(
        "SELECT set_config('lock_timeout', $1, false),"
        " set_config('idle_in_transaction_session_timeout', $2, false)",
        _milliseconds(settings.migration_lock_timeout),
        _milliseconds(_FROZEN),
    )
    # A client that was killed leaves the server at its statement, and so the lock, until that ends.
    # Not every server can look for it: neither before PostgreSQL 14 nor on every system.
    with suppress(asyncpg.PostgresError):
        await connection.execute("SET client_connection_check_interval = '1s'")


async def insisting(attempt: Callable[[], Awaitable[T]], patience: Patience, operation: str) -> T:
    """Return what `attempt` returns, made again while others' transactions are in its way.

    It must have rolled back when it raises: nothing may be held during the pauses.

    Raises: ConflictError, retryable, once patience is over.
    """
    while True:
        try:
            with translating(operation):
                return await attempt()
        except ConflictError as error:
            if not error.retryable:
                raise
            if not await patience.pause(patience.breather):
                raise ConflictError(
                    "other transactions held what it needs until MULTIDB_MIGRATION_TIMEOUT was over;"
                    " pg_stat_activity shows them",
                    store="postgres",
                    operation=operation,
                    retryable=True,
                ) from error


def _milliseconds(duration: timedelta) -> str:
    # Zero would switch the limit off.
    return str(max(1, math.ceil(duration / timedelta(milliseconds=1))))
