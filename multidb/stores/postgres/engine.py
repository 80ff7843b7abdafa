"""PostgreSQL's one way in: a pool of asyncpg connections, from which the SQLAlchemy engine borrows too."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from multidb.models.health import PoolUsage
from multidb.settings import PostgresSettings, Settings
from multidb.stores.completion import complete
from multidb.stores.postgres.ambient import Connection, Transaction
from multidb.stores.postgres.errors import heedless, translating
from multidb.stores.postgres.statements import Statement
from multidb.stores.postgres.transactions import Options, Transactions
from multidb.stores.store import Answer, Store, UnderWay

__all__ = ["PostgresStore", "Record", "connect"]

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool

#: A row, by column.
Record: TypeAlias = asyncpg.Record


def dsn(settings: PostgresSettings) -> str:
    """Return the URL as asyncpg reads it, without SQLAlchemy's `+asyncpg`."""
    parts = urlsplit(settings.postgres_url.get_secret_value())
    return urlunsplit(parts._replace(scheme="postgresql"))


async def connect(settings: PostgresSettings) -> "asyncpg.Connection[asyncpg.Record]":
    """Return one connection outside any pool, for migrations and the like."""
    return await asyncpg.connect(dsn(settings), timeout=settings.connect_timeout.total_seconds())


class PostgresStore(Store[Pool]):
    """Runs compiled statements, inside the ambient transaction if there is one."""

    name = "postgres"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.transactions = Transactions(self._pooled, lambda: self.under_way)
        self._engine: AsyncEngine | None = None
        self._turns: _Turns

    async def fetch(
        self,
        statement: Statement,
        values: Mapping[str, Any] | None = None,
        *,
        operation: str,
        columns_of: Mapping[str, Sequence[str]] | None = None,
        tenant: UUID | None = None,
    ) -> list[Record]:
        """Run one statement and return its rows.

        `columns_of` tells, for the errors, which columns each unique index covers. With `tenant`
        the database itself lets the statement see and write that company's rows only.
        """
        with translating(operation, columns_of):
            arguments = statement.arguments(values)
            try:
                async with self._connection(operation, tenant) as connection:
                    return await connection.fetch(statement.sql, *arguments)
            except asyncpg.InvalidCachedStatementError:
                if tenant is None or self.transactions.current() is not None:
                    raise
            # The table was changed. asyncpg repeats a statement by itself, but not in a transaction,
            # which this one had for its tenant's sake alone.
            async with self._connection(operation, tenant) as connection:
                return await connection.fetch(statement.sql, *arguments)

    async def copy(
        self,
        table: str,
        columns: Sequence[str],
        records: Iterable[Sequence[Any]],
        *,
        schema: str | None = None,
        operation: str,
        columns_of: Mapping[str, Sequence[str]] | None = None,
        tenant: UUID | None = None,
    ) -> None:
        """Add `records` by COPY: all of them or, on any error, none."""
        with translating(operation, columns_of):
            async with self._connection(operation, tenant) as connection:
                await connection.copy_records_to_table(
                    table, schema_name=schema, records=records, columns=list(columns)
                )

    @property
    def engine(self) -> "AsyncEngine":
        """SQLAlchemy's engine, for what the repositories do not offer.

        It borrows its connections from the same pool, and knows nothing of `db.transaction()`.
        """
        pool = self.opened
        if self._engine is None:
            # Imported here, for it brings SQLAlchemy's ORM, which nothing else of multidb needs.
            from sqlalchemy.ext.asyncio import create_async_engine
            from sqlalchemy.pool import NullPool

            turns, timeout = self._turns, self.settings.postgres_timeout.total_seconds()

            async def borrow(*_: Any, **__: Any) -> Any:
                return _Borrowed(pool, turns, await turns.take(pool, timeout))

            self._engine = create_async_engine(
                "postgresql+asyncpg://", async_creator=borrow, poolclass=NullPool, hide_parameters=True
            )
        return self._engine

    async def ask(self, *, operation: str) -> Answer:
        with translating(operation):
            async with self._pooled(operation) as connection:
                version, in_recovery = await connection.fetchrow(  # type: ignore[misc]
                    "SELECT current_setting('server_version'), pg_is_in_recovery()"
                )
        return Answer(version.split()[0], "replica" if in_recovery else "primary")

    def pool_usage(self) -> PoolUsage | None:
        if self._client is None:
            return None
        size = self._client.get_size()
        return PoolUsage(
            size=size, in_use=size - self._client.get_idle_size(), limit=self._client.get_max_size()
        )

    def _connection(self, operation: str, tenant: UUID | None) -> AbstractAsyncContextManager[Connection]:
        """Return what lends the connection a statement goes out on: the ambient transaction's, or any."""
        transaction = self.transactions.current()
        if transaction is not None:
            return self._joined(transaction, tenant)
        return self._pooled(operation) if tenant is None else self._scoped(operation, tenant)

    @asynccontextmanager
    async def _joined(self, transaction: Transaction, tenant: UUID | None) -> AsyncIterator[Connection]:
        await transaction.see(tenant)
        yield transaction.connection

    @asynccontextmanager
    async def _scoped(self, operation: str, tenant: UUID) -> AsyncIterator[Connection]:
        # What the connection sees ends with the transaction, so that nothing of it is left for the
        # next borrower, nor behind a pooler that shares connections by transaction.
        async with (
            self._pooled(operation) as connection,
            self.transactions.on(connection, Options(tenant=tenant)),
        ):
            yield connection

    def _pooled(self, operation: str) -> "_Lent":
        timeout = self.settings.postgres_timeout.total_seconds()
        return _Lent(self.opened, self._turns, timeout, operation, self.under_way)

    async def _connect(self) -> Pool:
        settings = self.settings
        self._turns = _Turns(settings.postgres_pool_size)
        with translating("open"):
            pool: Pool = await asyncpg.create_pool(
                dsn(settings),
                # None at first: a store that is away must not stop the application from starting.
                min_size=0,
                max_size=settings.postgres_pool_size,
                timeout=settings.connect_timeout.total_seconds(),
                command_timeout=settings.postgres_timeout.total_seconds(),
                init=_use_json,
                reset=_leave_as_it_is,
                server_settings={"application_name": "multidb"},
            )
        return pool

    async def _disconnect(self, client: Pool) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()
        try:
            async with asyncio.timeout(self.settings.close_timeout.total_seconds()):
                await client.close()
        except TimeoutError:
            client.terminate()


class _Turns(asyncio.Semaphore):
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


class _Lent:
    """A pooled connection, for as long as the block lasts. A class, for nearly every call has one."""

    __slots__ = ("_connection", "_operation", "_pool", "_timeout", "_turns", "_under_way")

    _connection: Connection

    def __init__(
        self, pool: Pool, turns: _Turns, timeout: float, operation: str, under_way: UnderWay
    ) -> None:
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


class _Borrowed:
    """A pooled connection in SQLAlchemy's hands: closing it gives it back."""

    def __init__(self, pool: Pool, turns: _Turns, connection: Connection) -> None:
        self._pool = pool
        self._turns: _Turns | None = turns
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


async def _use_json(connection: Any) -> None:
    """Take and give JSON as Python objects' text, the way SQLAlchemy's dialect does on its connections."""
    for name, prefix in (("jsonb", b"\x01"), ("json", b"")):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            format="binary",
            encoder=partial(_encode_json, prefix),
            decoder=partial(_decode_json, prefix),
        )


def _encode_json(prefix: bytes, text: str) -> bytes:
    return prefix + text.encode()


def _decode_json(prefix: bytes, data: bytes) -> Any:
    return json.loads(data[len(prefix) :])


async def _leave_as_it_is(_: object) -> None:
    """Reset nothing: our statements leave no session state, and a reset is a round trip a call.

    asyncpg still rolls back what a connection was left in the middle of.
    """
