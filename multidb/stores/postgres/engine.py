"""PostgreSQL's one way in: a pool of asyncpg connections, from which the SQLAlchemy engine borrows too."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
from pydantic import SecretStr
from pydantic_core import from_json

from multidb.models.health import PoolUsage
from multidb.settings import PostgresSettings, Settings
from multidb.stores.postgres.ambient import Connection, Transaction
from multidb.stores.postgres.errors import translating
from multidb.stores.postgres.lending import Borrowed, Lent, Pool, Turns
from multidb.stores.postgres.statements import Statement
from multidb.stores.postgres.transactions import Options, Transactions
from multidb.stores.store import Answer, Store

__all__ = ["PostgresStore", "Record", "connect"]

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

#: A row, by column.
Record: TypeAlias = asyncpg.Record


#: Prepared statements a connection keeps, which is asyncpg's own number.
_KEPT = 100


def dsn(url: SecretStr) -> str:
    """Return the URL as asyncpg reads it, without SQLAlchemy's `+asyncpg`."""
    return urlunsplit(urlsplit(url.get_secret_value())._replace(scheme="postgresql"))


async def connect(settings: PostgresSettings) -> "asyncpg.Connection[asyncpg.Record]":
    """Return one connection outside any pool, for migrations and the like."""
    return await asyncpg.connect(
        dsn(settings.migration_url or settings.postgres_url),
        timeout=settings.connect_timeout.total_seconds(),
        statement_cache_size=_kept(settings),
    )


def _kept(settings: PostgresSettings) -> int:
    # With none kept asyncpg names no statement, and parses it anew with each use: SQLAlchemy's too.
    return _KEPT if settings.postgres_prepared_statements else 0


class PostgresStore(Store[Pool]):
    """Runs compiled statements, inside the ambient transaction if there is one."""

    name = "postgres"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.transactions = Transactions(self._pooled, lambda: self.under_way)
        self._engine: AsyncEngine | None = None
        self._turns: Turns

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
                try:
                    await connection.copy_records_to_table(
                        table, schema_name=schema, records=records, columns=list(columns)
                    )
                except (TypeError, ValueError, ArithmeticError) as error:
                    # Of a value it cannot encode asyncpg tells a COPY's caller as Python does.
                    raise asyncpg.DataError from error

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
                return Borrowed(pool, turns, await turns.take(pool, timeout))

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

    def _pooled(self, operation: str) -> Lent:
        timeout = self.settings.postgres_timeout.total_seconds()
        return Lent(self.opened, self._turns, timeout, operation, self.under_way)

    async def _connect(self) -> Pool:
        settings = self.settings
        self._turns = Turns(settings.postgres_pool_size)
        with translating("open"):
            pool: Pool = await asyncpg.create_pool(
                dsn(settings.postgres_url),
                # None at first: a store that is away must not stop the application from starting.
                min_size=0,
                max_size=settings.postgres_pool_size,
                timeout=settings.connect_timeout.total_seconds(),
                command_timeout=settings.postgres_timeout.total_seconds(),
                statement_cache_size=_kept(settings),
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
    text = data[len(prefix) :]
    try:
        return from_json(text)  # in half the time of `json`, and of a small value in a tenth
    except ValueError:
        return json.loads(text)  # which reads deeper ones too, and half a surrogate pair, as `json` may hold


async def _leave_as_it_is(_: object) -> None:
    """Reset nothing: our statements leave no session state, and a reset is a round trip a call.

    asyncpg still rolls back what a connection was left in the middle of.
    """
