"""What the tables' columns, checks and indexes have in common."""

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    TextClause,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

__all__ = [
    "LIVING",
    "by_company",
    "company",
    "given",
    "id_",
    "json_object",
    "kept_by_the_repository",
    "metadata",
    "moment",
    "one_of",
    "unique_among_the_living",
    "user",
    "words",
]

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    }
)

#: Of the rows of a table that marks what is deleted, those that are not.
LIVING = text("deleted_at IS NULL")


def id_() -> Column[object]:
    return Column("id", Uuid, primary_key=True)


def kept_by_the_repository(*, marks_deleted: bool = True) -> tuple[Column[object] | CheckConstraint, ...]:
    """Return the columns every row has and no caller writes."""
    now = func.now()
    return (
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=now),
        *([Column[object]("deleted_at", DateTime(timezone=True))] if marks_deleted else []),
        Column("version", Integer, nullable=False, server_default=text("1")),
        CheckConstraint("version > 0", name="version_positive"),
    )


def company() -> Column[object]:
    """Return the tenant: with the company goes what is its own."""
    return Column("company_id", Uuid, ForeignKey("companies.id", ondelete="CASCADE"), nullable=False)


def user() -> Column[object]:
    return Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False)


def words(name: str, default: str | None = None) -> Column[object]:
    return Column(name, Text, nullable=False, server_default=_literal(default))


def moment(name: str, *, default: Any = None, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=default)


def json_object(name: str, default: str | None = None) -> tuple[Column[object], CheckConstraint]:
    """Return a column for a JSON object, and what keeps it one."""
    return (
        Column(name, JSONB, nullable=False, server_default=_literal(default)),
        CheckConstraint(f"jsonb_typeof({name}) = 'object'", name=f"{name}_object"),
    )


def given(name: str) -> CheckConstraint:
    return CheckConstraint(f"{name} <> ''", name=f"{name}_given")


def one_of(name: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{name} IN ({listed})", name=f"{name}_known")


def unique_among_the_living(name: str, *columns: str) -> Index:
    """Return a unique index that a deleted row does not hold on to."""
    return Index(name, *columns, unique=True, postgresql_where=LIVING)


def by_company(table: str) -> Index:
    """Return the index behind the pages of one company's rows."""
    return Index(f"{table}_company_id_idx", "company_id", "id")


def _literal(value: str | None) -> TextClause | None:
    return None if value is None else text(f"'{value}'")
