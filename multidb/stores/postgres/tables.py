"""The tables, as Alembic and the repositories see them."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)

__all__ = ["companies", "metadata", "users"]

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    }
)


def _id() -> Column[object]:
    return Column("id", Uuid, primary_key=True)


def _kept_by_the_repository() -> tuple[Column[object], ...]:
    """Return the columns every row has and no caller writes."""
    now = func.now()
    return (
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("deleted_at", DateTime(timezone=True)),
        Column("version", Integer, nullable=False, server_default=text("1")),
    )


def _unique_among_the_living(name: str, column: str) -> Index:
    """Return a unique index that a deleted row does not hold on to."""
    return Index(name, column, unique=True, postgresql_where=text("deleted_at IS NULL"))


companies = Table(
    "companies",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False),
    *_kept_by_the_repository(),
    CheckConstraint("name <> ''", name="name_given"),
    CheckConstraint("version > 0", name="version_positive"),
    _unique_among_the_living("companies_slug_key", "slug"),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("email", Text, nullable=False),
    # Folded by the client (str.casefold): what the server's lower() does depends on its locale.
    Column("email_folded", Text, nullable=False),
    Column("name", Text, nullable=False),
    *_kept_by_the_repository(),
    CheckConstraint("name <> ''", name="name_given"),
    CheckConstraint("version > 0", name="version_positive"),
    _unique_among_the_living("users_email_key", "email_folded"),
)
