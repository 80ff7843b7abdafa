"""An application's own table to page through: with nulls, with ties, and in orders of several fields."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field

from multidb import Model, MultiDB, NewCompany, NewDocument, NewUser, Page, PostgresRepository, Row, uuid7

__all__ = [
    "Entries",
    "Entry",
    "NewEntry",
    "OldEntries",
    "add_documents",
    "ids",
    "in_order",
    "metadata",
    "walk",
]

metadata = sa.MetaData()


def entry_table(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("rank", sa.Integer),
        # By code points, as Python compares texts.
        sa.Column("tag", sa.Text(collation="C")),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    )


class Entry(Row):
    rank: int | None = None
    tag: str | None = None
    name: str
    due_at: datetime | None = None


class NewEntry(Model):
    id: UUID = Field(default_factory=uuid7)
    rank: int | None = None
    tag: str | None = None
    name: str = "a"
    due_at: datetime | None = None


class Entries(PostgresRepository[Entry, NewEntry]):
    table = entry_table("entries")


class OldEntry(Entry):
    pass


class OldEntries(PostgresRepository[OldEntry, NewEntry]):
    table = entry_table("old_entries")


def in_order(rows: Iterable[Entry], order: Sequence[str]) -> list[Entry]:
    """Return rows as they must come: null above everything, then by id, the way the last key goes."""
    ordered = list(rows)
    for name in reversed([*order, "-id" if order and order[-1].startswith("-") else "id"]):
        values = {row.id: getattr(row, name.removeprefix("-")) for row in ordered}
        ordered.sort(
            key=lambda row: (values[row.id] is None, 0 if values[row.id] is None else values[row.id]),
            reverse=name.startswith("-"),
        )
    return ordered


def ids(rows: Iterable[Row]) -> list[UUID]:
    return [row.id for row in rows]


async def walk(entries: Entries, order: Sequence[str], limit: int) -> list[Page[Entry]]:
    pages = [await entries.find(order_by=order, limit=limit)]
    while (after := pages[-1].next) is not None:
        pages.append(await entries.find(order_by=order, limit=limit, after=after))
    return pages


async def add_documents(db: MultiDB, name: str, documents: int) -> UUID:
    """Add a company with so many documents, and return its id."""
    company = await db.companies.add(NewCompany(name=name, slug=name))
    user = await db.users.add(NewUser(email=f"{name}@example.com", name=name))
    await db.documents.add_many(
        NewDocument(company_id=company.id, owner_id=user.id, title="plans") for _ in range(documents)
    )
    return company.id
