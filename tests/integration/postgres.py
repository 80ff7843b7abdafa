"""PostgreSQL without multidb in between, for what tests must see or do behind its back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from multidb.settings import PostgresSettings
from multidb.stores.postgres.engine import connect

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

__all__ = ["Connection", "add_board", "add_company", "add_user", "raw", "sees"]


@asynccontextmanager
async def raw(settings: PostgresSettings) -> AsyncIterator[Connection]:
    """Yield a connection outside any pool."""
    connection = await connect(settings)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def sees(connection: Connection, company: UUID | None) -> AsyncIterator[None]:
    """Run the block as one company's, in a transaction that is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SET LOCAL ROLE multidb_tenant")
        if company is not None:
            await connection.execute(f"SET LOCAL multidb.company_id = '{company}'")
        yield
    finally:
        await transaction.rollback()


async def add_company(connection: Connection) -> UUID:
    id = uuid4()
    await connection.execute("INSERT INTO companies (id, name, slug) VALUES ($1, 'C', $2)", id, f"c-{id}")
    return id


async def add_user(connection: Connection, name: str = "Ada") -> UUID:
    id = uuid4()
    await connection.execute(
        "INSERT INTO users (id, email, email_folded, name) VALUES ($1, $2, $2, $3)",
        id,
        f"{id}@example.com",
        name,
    )
    return id


async def add_board(connection: Connection, company: UUID) -> tuple[UUID, UUID]:
    """Add a board with one column, and return both ids."""
    board, column = uuid4(), uuid4()
    await connection.execute(
        "INSERT INTO kanban_boards (id, company_id, name) VALUES ($1, $2, 'B')", board, company
    )
    await connection.execute(
        "INSERT INTO kanban_columns (id, company_id, board_id, name, rank) VALUES ($1, $2, $3, 'C', 'V')",
        column,
        company,
        board,
    )
    return board, column
