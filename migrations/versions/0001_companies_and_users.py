"""Companies and users

Revises: nothing; this is the first.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def kept_by_the_repository() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("version", sa.Integer, server_default=sa.text("1"), nullable=False),
    )


def unique_among_the_living(name: str, table: str, column: str) -> None:
    op.create_index(name, table, [column], unique=True, postgresql_where=sa.text("deleted_at IS NULL"))


def upgrade() -> None:
    op.create_table(
        "companies",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("slug", sa.Text, nullable=False),
        *kept_by_the_repository(),
        sa.CheckConstraint("name <> ''", name=op.f("companies_name_given_check")),
        sa.CheckConstraint("version > 0", name=op.f("companies_version_positive_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("companies_pkey")),
    )
    unique_among_the_living("companies_slug_key", "companies", "slug")
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("email_folded", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        *kept_by_the_repository(),
        sa.CheckConstraint("name <> ''", name=op.f("users_name_given_check")),
        sa.CheckConstraint("version > 0", name=op.f("users_version_positive_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pkey")),
    )
    unique_among_the_living("users_email_key", "users", "email_folded")


def downgrade() -> None:
    op.drop_table("users")
    op.drop_table("companies")
