"""Profiles, memberships and the history of sessions

Revises: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def kept_by_the_repository(table: str) -> tuple[sa.Column[object] | sa.Constraint, ...]:
    return (
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.Integer, server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"{table}_pkey")),
        sa.CheckConstraint("version > 0", name=op.f(f"{table}_version_positive_check")),
    )


def with_the_user(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["user_id"], ["users.id"], name=op.f(f"{table}_user_id_fkey"), ondelete="CASCADE"
    )


def upgrade() -> None:
    op.create_table(
        "user_profiles",
        *kept_by_the_repository("user_profiles"),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("display_name", sa.Text),
        sa.Column("avatar_url", sa.Text),
        sa.Column("bio", sa.Text),
        sa.Column("locale", sa.Text),
        sa.Column("timezone", sa.Text),
        sa.Column("preferences", postgresql.JSONB, server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint(
            "jsonb_typeof(preferences) = 'object'", name=op.f("user_profiles_preferences_object_check")
        ),
        with_the_user("user_profiles"),
        sa.UniqueConstraint("user_id", name=op.f("user_profiles_user_id_key")),
    )
    op.create_table(
        "company_users",
        *kept_by_the_repository("company_users"),
        sa.Column("company_id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.CheckConstraint(
            "role IN ('owner', 'admin', 'member', 'viewer')", name=op.f("company_users_role_known_check")
        ),
        sa.ForeignKeyConstraint(
            ["company_id"],
            ["companies.id"],
            name=op.f("company_users_company_id_fkey"),
            ondelete="CASCADE",
        ),
        with_the_user("company_users"),
        sa.UniqueConstraint("company_id", "user_id", name=op.f("company_users_company_id_user_id_key")),
    )
    op.create_index(op.f("company_users_company_id_idx"), "company_users", ["company_id", "id"])
    op.create_index(op.f("company_users_user_id_idx"), "company_users", ["user_id"])
    op.create_table(
        "user_sessions",
        *kept_by_the_repository("user_sessions"),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("device", sa.Text),
        sa.Column("ip", sa.Text),
        sa.Column("user_agent", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("end_reason", sa.Text),
        with_the_user("user_sessions"),
    )
    op.create_index(op.f("user_sessions_user_id_idx"), "user_sessions", ["user_id", "started_at", "id"])


def downgrade() -> None:
    op.drop_table("user_sessions")
    op.drop_table("company_users")
    op.drop_table("user_profiles")
