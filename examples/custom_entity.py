"""An application's own table: invoices, beside multidb's companies and like them in all.

    python examples/custom_entity.py

It starts real servers in `.multidb`, brings their tables up to date, those of this application
included, keeps the books of two companies for a day, and stops the servers. The data stays.

The table is made by `custom_entity_migrations/`, a branch of Alembic revisions over multidb's. On
servers of one's own the same is done by `upgrade` below, in a deploy by

    export MULTIDB_MIGRATION_PATHS=examples/custom_entity_migrations/versions
    multidb migrate                   # or `alembic -c .../alembic.ini upgrade heads`
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias
from uuid import UUID

import pydantic
import sqlalchemy as sa

from multidb import (
    PERSONAL,
    UNCHANGED,
    AlreadyExistsError,
    BelongsTo,
    CachePolicy,
    Company,
    ConflictError,
    Field,
    Model,
    MultiDB,
    MultiDBError,
    NewCompany,
    Page,
    PostgresRepository,
    Related,
    Row,
    RowFields,
    Settings,
    UtcDatetime,
    uuid7,
)
from multidb.ops import migrations

#: The folder of this application's own revisions.
REVISIONS = Path(__file__).parent / "custom_entity_migrations" / "versions"


def upgrade(settings: Settings) -> None:
    """Bring multidb's tables and this application's up to date: `alembic upgrade heads`."""
    migrations.upgrade(settings.model_copy(update={"migration_paths": (REVISIONS,)}))


# --- the models

Status: TypeAlias = Literal["draft", "sent", "paid"]
Number = Annotated[str, pydantic.StringConstraints(pattern=r"^\d{4}-\d{3,}$")]
#: About a person, so the audit log does not repeat it; the revision says so to the database.
Customer = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=200), PERSONAL]
Cents = Annotated[int, pydantic.Field(gt=0, lt=2**63)]


class Invoice(Row):
    """An invoice as it is stored."""

    company_id: UUID
    number: Number
    customer: Customer
    cents: Cents
    status: Status
    due_on: date
    deleted_at: UtcDatetime | None = None

    company: ClassVar[Related[Company]] = Related()


class NewInvoice(Model):
    """An invoice to add. No other living invoice of the company may have its number."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    number: Number
    customer: Customer
    cents: Cents
    status: Status = "draft"
    due_on: date


class InvoiceChanges(Model):
    """What may change about an invoice: not its company, nor its number."""

    customer: Customer = UNCHANGED
    cents: Cents = UNCHANGED
    status: Status = UNCHANGED
    due_on: date = UNCHANGED


class InvoiceFields(RowFields):
    """The fields of an invoice, for conditions and orders that type checkers understand."""

    company_id: Field[UUID]
    number: Field[str]
    customer: Field[str]
    cents: Field[int]
    status: Field[Status]
    due_on: Field[date]
    deleted_at: Field[UtcDatetime | None]


# --- the repository

#: What statements need to know: the columns, and the unique index. The rest is the revision's.
invoices = sa.Table(
    "invoices",
    sa.MetaData(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("company_id", sa.Uuid, nullable=False),
    sa.Column("number", sa.Text, nullable=False),
    sa.Column("customer", sa.Text, nullable=False),
    sa.Column("cents", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("due_on", sa.Date, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("deleted_at", sa.DateTime(timezone=True)),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Index(
        "invoices_company_id_number_key",
        "company_id",
        "number",
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    ),
)


class InvoiceRepository(PostgresRepository[Invoice, NewInvoice, InvoiceChanges]):
    """The calls on invoices."""

    c: ClassVar[InvoiceFields]
    table = invoices
    tenant = "company_id"
    unique = {"invoices_pkey": ("id",), "invoices_company_id_number_key": ("company_id", "number")}
    relations = {"company": BelongsTo("companies", by="company_id")}
    cache = CachePolicy("cache:invoice:{id}", ttl=timedelta(minutes=5))

    async def by_number(self, company_id: UUID, *, number: str) -> Invoice | None:
        """Return the company's invoice of this number, or None."""
        return await self.find_one(company_id=company_id, number=number)

    async def overdue(self, company_id: UUID, *, on: date, after: str | None = None) -> Page[Invoice]:
        """Return a page of what the company is still owed `on` a day, the longest due first."""
        late = (self.c.status == "sent") & (self.c.due_on < on)
        return await self.find(late, company_id=company_id, order_by="due_on", after=after)

    async def pay(self, id: UUID) -> Invoice:
        """Mark a sent invoice as paid. Raises: NotFoundError; ConflictError if it is not to be paid."""
        invoice = await self.fetch(id)
        if invoice.status != "sent":
            raise ConflictError(f"invoice {id} is {invoice.status}", version=invoice.version)
        # With the version: of two who saw it unpaid, one is refused.
        return await self.update(id, status="paid", version=invoice.version)


# --- a day with the books

TODAY = date(2026, 3, 2)


def main() -> None:
    """Start the servers, keep the books, stop the servers."""
    parser = argparse.ArgumentParser(description="An application with a table of its own.")
    parser.add_argument("--dir", type=Path, default=Path(".multidb"), help="where the data is kept")
    try:
        asyncio.run(keep_the_books(parser.parse_args().dir))
    except MultiDBError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


async def keep_the_books(directory: Path) -> None:
    """Open the database with this application's repository and revisions, and use it."""
    async with MultiDB.embedded(
        directory, repositories=[InvoiceRepository], migration_paths=[REVISIONS]
    ) as db:
        bakery = await db.companies.upsert(NewCompany(name="Harbour Bakery", slug="bakery"), on="slug")
        brewery = await db.companies.upsert(NewCompany(name="Hill Brewery", slug="brewery"), on="slug")
        await the_ledgers_are_imported(db, bakery, brewery)
        # From here on every call is about the bakery's rows, and the database holds it to that.
        async with db.tenant(bakery.id):
            await what_is_overdue(db, bakery)
            await one_is_paid(db, bakery)
            await a_number_is_taken(db, bakery)
            await others_are_not_seen(db, brewery)
            await all_are_added_up(db)


async def the_ledgers_are_imported(db: MultiDB, *companies: Company) -> None:
    """Store a ledger of each company; imported again, it changes what is there."""

    def ledger(company: Company) -> Iterator[NewInvoice]:
        for n in range(1, 501):
            yield NewInvoice(
                company_id=company.id,
                number=f"2026-{n:03}",
                customer=f"Customer {n % 40}",
                cents=100 * n,
                status="sent",
                due_on=date(2026, 1, 1) + timedelta(days=n // 4),
            )

    async with db.transaction(actor="import"):
        for company in companies:
            count = await db[InvoiceRepository].upsert_many(ledger(company), on=("company_id", "number"))
            tell(f"{company.name}: {count} invoices imported")


async def what_is_overdue(db: MultiDB, company: Company) -> None:
    """Find by conditions, a page at a time, and load the company with it."""
    page = await db[InvoiceRepository].overdue(company.id, on=TODAY)
    late = await db[InvoiceRepository].count(InvoiceRepository.c.due_on < TODAY, status="sent")
    tell(f"overdue on {TODAY}: {late}, the first page has {len(page.items)}")
    first = await db[InvoiceRepository].fetch(page.items[0].id, include=("company",))
    tell(f"the longest: {first.number}, {euros(first.cents)} owed to {first.company.name}")


async def one_is_paid(db: MultiDB, company: Company) -> None:
    """Change a row in a transaction that says who acts, and read it in the audit log."""
    invoice = await db[InvoiceRepository].by_number(company.id, number="2026-007")
    assert invoice is not None
    async with db.transaction(actor="grace", request_id="r-1"):
        paid = await db[InvoiceRepository].pay(invoice.id)
    tell(f"{paid.number} is {paid.status}")
    try:
        await db[InvoiceRepository].pay(invoice.id)
    except ConflictError as error:
        tell(f"paid twice: refused with {type(error).__name__}")
    (entry,) = (await db.audit_logs.find(entity="invoices", entity_id=invoice.id, limit=1)).items
    assert entry.old is not None
    assert entry.new is not None
    tell(f"the audit log: {entry.actor}, {entry.action}, {entry.old['status']} -> {entry.new['status']}")


async def a_number_is_taken(db: MultiDB, company: Company) -> None:
    """Add one with a number that another has; deleted, that one holds on to it no longer."""
    new = NewInvoice(company_id=company.id, number="2026-008", customer="Ada", cents=4200, due_on=TODAY)
    try:
        await db[InvoiceRepository].add(new)
    except AlreadyExistsError as error:
        tell(f"{new.number} again: refused with {type(error).__name__}, {' and '.join(error.columns)}")
    async with db.transaction(actor="grace"):
        await db[InvoiceRepository].delete_many(company_id=company.id, number=new.number)
        added = await db[InvoiceRepository].add(new)
    tell(f"{added.number} after its predecessor was deleted: {added.status}, version {added.version}")


async def others_are_not_seen(db: MultiDB, other: Company) -> None:
    """Look for another company's invoices, from inside the scope of one and from outside."""
    number = "2026-001"
    inside = await db[InvoiceRepository].by_number(other.id, number=number)
    async with db.unscoped():
        outside = await db[InvoiceRepository].by_number(other.id, number=number)
    tell(f"{other.name}'s {number}: {'seen' if inside else 'not seen'} as the bakery", end="; ")
    tell(f"{'seen' if outside else 'not seen'} as everybody")


async def all_are_added_up(db: MultiDB) -> None:
    """Go through all rows of the company in bounded memory."""
    total = 0
    async for invoice in db[InvoiceRepository].stream(InvoiceRepository.c.status.in_(["sent", "paid"])):
        total += invoice.cents
    tell(f"sent and paid: {euros(total)}")


def euros(cents: int) -> str:
    """Return an amount the way people write it."""
    return f"EUR {cents / 100:,.2f}"


def tell(text: str, *, end: str = "\n") -> None:
    """Say what happened."""
    print(text, end=end, flush=True)


if __name__ == "__main__":
    main()
