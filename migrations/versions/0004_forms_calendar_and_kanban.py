"""Forms, calendar events, kanban boards

Revises: 0003
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def kept_by_the_repository(table: str) -> tuple[sa.Column[object] | sa.Constraint, ...]:
    return (
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("company_id", sa.Uuid, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.Integer, server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"{table}_pkey")),
        sa.CheckConstraint("version > 0", name=op.f(f"{table}_version_positive_check")),
    )


def deleted_at() -> sa.Column[object]:
    return sa.Column("deleted_at", sa.DateTime(timezone=True))


def with_the_company(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["company_id"], ["companies.id"], name=op.f(f"{table}_company_id_fkey"), ondelete="CASCADE"
    )


def given(table: str, column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} <> ''", name=op.f(f"{table}_{column}_given_check"))


def upgrade() -> None:
    create_forms()
    create_calendar_events()
    create_kanban_boards_and_columns()
    create_kanban_cards()


def create_forms() -> None:
    op.create_table(
        "forms",
        *kept_by_the_repository("forms"),
        deleted_at(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("definition", postgresql.JSONB, nullable=False),
        given("forms", "name"),
        sa.CheckConstraint("jsonb_typeof(definition) = 'object'", name=op.f("forms_definition_object_check")),
        with_the_company("forms"),
    )
    op.create_index(
        op.f("forms_company_id_name_key"),
        "forms",
        ["company_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(op.f("forms_company_id_idx"), "forms", ["company_id", "id"])


def create_calendar_events() -> None:
    # Lets a gist index hold ids beside ranges. Whoever owns the database may create it.
    op.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    op.create_table(
        "calendar_events",
        *kept_by_the_repository("calendar_events"),
        deleted_at(),
        sa.Column("resource_id", sa.Uuid),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("location", sa.Text),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "period",
            postgresql.TSTZRANGE,
            sa.Computed("tstzrange(starts_at, GREATEST(starts_at, ends_at), '[)'::text)", persisted=True),
        ),
        sa.Column("attendees", postgresql.ARRAY(sa.Uuid), server_default=sa.text("'{}'"), nullable=False),
        given("calendar_events", "title"),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("calendar_events_ends_after_start_check")),
        with_the_company("calendar_events"),
        postgresql.ExcludeConstraint(
            ("company_id", "="),
            ("resource_id", "="),
            ("period", "&&"),
            using="gist",
            where=sa.text("deleted_at IS NULL"),
            name=op.f("calendar_events_resource_id_excl"),
        ),
    )
    op.create_index(
        op.f("calendar_events_attendees_idx"), "calendar_events", ["attendees"], postgresql_using="gin"
    )
    op.create_index(
        op.f("calendar_events_starts_at_idx"), "calendar_events", ["company_id", "starts_at", "id"]
    )
    op.create_index(op.f("calendar_events_company_id_idx"), "calendar_events", ["company_id", "id"])


def create_kanban_boards_and_columns() -> None:
    op.create_table(
        "kanban_boards",
        *kept_by_the_repository("kanban_boards"),
        deleted_at(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        given("kanban_boards", "name"),
        with_the_company("kanban_boards"),
        sa.UniqueConstraint("company_id", "id", name=op.f("kanban_boards_company_id_id_key")),
    )
    op.create_table(
        "kanban_columns",
        *kept_by_the_repository("kanban_columns"),
        sa.Column("board_id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("rank", sa.Text(collation="C"), nullable=False),
        sa.Column("wip_limit", sa.Integer),
        given("kanban_columns", "name"),
        given("kanban_columns", "rank"),
        sa.CheckConstraint("wip_limit > 0", name=op.f("kanban_columns_wip_limit_positive_check")),
        sa.ForeignKeyConstraint(
            ["company_id", "board_id"],
            ["kanban_boards.company_id", "kanban_boards.id"],
            name=op.f("kanban_columns_board_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint(
            "company_id", "board_id", "id", name=op.f("kanban_columns_company_id_board_id_id_key")
        ),
        sa.UniqueConstraint("board_id", "rank", name=op.f("kanban_columns_board_id_rank_key")),
    )


def create_kanban_cards() -> None:
    op.create_table(
        "kanban_cards",
        *kept_by_the_repository("kanban_cards"),
        deleted_at(),
        sa.Column("board_id", sa.Uuid, nullable=False),
        sa.Column("column_id", sa.Uuid, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("assignee_id", sa.Uuid),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("rank", sa.Text(collation="C"), nullable=False),
        given("kanban_cards", "title"),
        given("kanban_cards", "rank"),
        sa.ForeignKeyConstraint(
            ["company_id", "board_id", "column_id"],
            ["kanban_columns.company_id", "kanban_columns.board_id", "kanban_columns.id"],
            name=op.f("kanban_cards_column_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["assignee_id"], ["users.id"], name=op.f("kanban_cards_assignee_id_fkey"), ondelete="SET NULL"
        ),
    )
    op.create_index(
        op.f("kanban_cards_column_id_rank_key"),
        "kanban_cards",
        ["column_id", "rank"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(op.f("kanban_cards_board_id_idx"), "kanban_cards", ["board_id", "column_id", "rank"])
    op.create_index(op.f("kanban_cards_assignee_id_idx"), "kanban_cards", ["assignee_id"])
    op.create_index(op.f("kanban_cards_company_id_idx"), "kanban_cards", ["company_id", "id"])


def downgrade() -> None:
    # btree_gist stays: it may have been there before, and serve others.
    op.drop_table("kanban_cards")
    op.drop_table("kanban_columns")
    op.drop_table("kanban_boards")
    op.drop_table("calendar_events")
    op.drop_table("forms")
