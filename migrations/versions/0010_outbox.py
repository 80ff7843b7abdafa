"""The outbox: what a commit has promised to MongoDB and Redis

Revises: 0009
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

#: Rows live for milliseconds, and a relay reads past those that are not yet cleared away.
STORAGE = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "5000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "0",
    "autovacuum_analyze_scale_factor": "0.05",
}


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("version", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("store", sa.Text, nullable=False),
        sa.Column("effect", sa.Text, nullable=False),
        sa.Column("payload", postgresql.JSONB, nullable=False),
        sa.Column("document", sa.LargeBinary),
        sa.Column("stream", sa.Text),
        sa.Column("tenant", sa.Uuid),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("attempts", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("dead_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("outbox_pkey")),
        sa.CheckConstraint("effect <> ''", name=op.f("outbox_effect_given_check")),
        sa.CheckConstraint("store IN ('mongo', 'redis')", name=op.f("outbox_store_known_check")),
        sa.CheckConstraint("jsonb_typeof(payload) = 'object'", name=op.f("outbox_payload_object_check")),
    )
    for name, columns, where in (
        ("store_version", ["store", "version"], "dead_at IS NULL"),
        ("store_stream_version", ["store", "stream", "version"], "stream IS NOT NULL"),
        ("failed", ["version"], "attempts > 0"),
    ):
        op.create_index(op.f(f"outbox_{name}_idx"), "outbox", columns, postgresql_where=sa.text(where))
    op.execute(f"ALTER TABLE outbox SET ({', '.join(f'{name} = {STORAGE[name]}' for name in STORAGE)})")


def downgrade() -> None:
    op.drop_table("outbox")
