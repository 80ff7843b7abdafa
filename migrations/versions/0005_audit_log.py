"""The audit log, partitioned by month

Revises: 0004
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Months are UTC's, whatever the session's time zone.
PARTITIONS = """
DO $$
DECLARE
    first timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    month timestamp;
BEGIN
    CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT;
    FOR ahead IN 0..2 LOOP
        month := first + make_interval(months => ahead);
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF audit_logs FOR VALUES FROM (%L) TO (%L)',
            'audit_logs_' || to_char(month, 'YYYY_MM'),
            to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
            to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00'
        );
    END LOOP;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "audit_logs",
        sa.Column("ts", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Uuid, server_default=sa.func.gen_random_uuid(), nullable=False),
        sa.Column("company_id", sa.Uuid),
        sa.Column("actor", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("entity_id", sa.Uuid, nullable=False),
        sa.Column("old", postgresql.JSONB),
        sa.Column("new", postgresql.JSONB),
        sa.PrimaryKeyConstraint("ts", "id", name=op.f("audit_logs_pkey")),
        sa.CheckConstraint(
            "action IN ('insert', 'update', 'delete')", name=op.f("audit_logs_action_known_check")
        ),
        postgresql_partition_by="RANGE (ts)",
    )
    op.create_index(op.f("audit_logs_id_idx"), "audit_logs", ["id"])
    op.create_index(op.f("audit_logs_entity_idx"), "audit_logs", ["entity", "entity_id", "ts", "id"])
    op.create_index(op.f("audit_logs_company_id_idx"), "audit_logs", ["company_id", "ts", "id"])
    op.create_index(op.f("audit_logs_actor_idx"), "audit_logs", ["actor", "ts"])
    op.execute(PARTITIONS)


def downgrade() -> None:
    # Its partitions go with it.
    op.drop_table("audit_logs")
