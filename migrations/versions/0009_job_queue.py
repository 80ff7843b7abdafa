"""Jobs as a work queue: keys, limits, dependencies, and what claims are found by

Revises: 0008
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JOBS = "ai_processing_jobs"
STATES = "'available', 'running', 'completed', 'failed', 'cancelled', 'dead'"

#: Rows die as fast as jobs are done, and a claim reads past those that are not yet cleared away.
STORAGE = {
    "fillfactor": "80",
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "10000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "0",
    "autovacuum_analyze_scale_factor": "0.05",
}

#: By name, the columns, the predicate, and what else makes the index.
INDEXES: dict[str, tuple[list[str], str, dict[str, Any]]] = {
    "company_claim_idx": (
        ["queue", "company_id", "priority", "run_at", "id"],
        "state = 'available' AND company_id IS NOT NULL",
        {},
    ),
    "no_company_claim_idx": (
        ["queue", "priority", "run_at", "id"],
        "state = 'available' AND company_id IS NULL",
        {},
    ),
    "key_claim_idx": (
        ["queue", "concurrency_key", "priority", "run_at", "id"],
        "state = 'available' AND concurrency_key IS NOT NULL",
        {},
    ),
    "no_key_claim_idx": (
        ["queue", "priority", "run_at", "id"],
        "state = 'available' AND concurrency_key IS NULL",
        {},
    ),
    "state_idx": (["state", "id"], "state IN ('waiting', 'running', 'failed', 'dead')", {}),
    "awaited_idx": (["finished_at"], "awaited AND state IN ('completed', 'cancelled')", {}),
    "waiting_idx": (["depends_on"], "state = 'waiting'", {"postgresql_using": "gin"}),
    "finished_idx": (["finished_at", "id"], "finished_at IS NOT NULL", {}),
    "idempotency_key_key": (
        ["queue", "idempotency_key", "company_id"],
        "holds_key AND idempotency_key IS NOT NULL",
        {"unique": True, "postgresql_nulls_not_distinct": True},
    ),
    "company_id_idx": (["company_id", "id"], "company_id IS NOT NULL", {}),
    "document_id_idx": (["document_id"], "document_id IS NOT NULL", {}),
}


def upgrade() -> None:
    for column in added():
        op.add_column(JOBS, column)
    know_states(f"'waiting', {STATES}")
    op.create_check_constraint(
        op.f(f"{JOBS}_progress_a_share_check"), JOBS, "progress >= 0 AND progress <= 1"
    )
    for name in ("company_id_idx", "document_id_idx"):
        op.drop_index(op.f(f"{JOBS}_{name}"), JOBS)
    for name, (columns, where, more) in INDEXES.items():
        op.create_index(op.f(f"{JOBS}_{name}"), JOBS, columns, postgresql_where=sa.text(where), **more)
    op.execute(f"ALTER TABLE {JOBS} SET ({', '.join(f'{name} = {STORAGE[name]}' for name in STORAGE)})")
    op.create_table(
        "ai_processing_queues",
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("at_most", sa.Integer),
        sa.Column("at_most_per_key", sa.Integer),
        sa.PrimaryKeyConstraint("queue", name=op.f("ai_processing_queues_pkey")),
        sa.CheckConstraint("at_most >= 0", name=op.f("ai_processing_queues_at_most_not_negative_check")),
        sa.CheckConstraint(
            "at_most_per_key >= 0", name=op.f("ai_processing_queues_at_most_per_key_not_negative_check")
        ),
    )


def downgrade() -> None:
    op.drop_table("ai_processing_queues")
    op.execute(f"ALTER TABLE {JOBS} RESET ({', '.join(STORAGE)})")
    for name in reversed(INDEXES):
        op.drop_index(op.f(f"{JOBS}_{name}"), JOBS)
    op.create_index(op.f(f"{JOBS}_company_id_idx"), JOBS, ["company_id", "id"])
    op.create_index(op.f(f"{JOBS}_document_id_idx"), JOBS, ["document_id"])
    op.drop_constraint(op.f(f"{JOBS}_progress_a_share_check"), JOBS)
    # Nothing would make it available any more.
    op.execute(
        "UPDATE ai_processing_jobs SET state = 'cancelled', finished_at = now() WHERE state = 'waiting'"
    )
    know_states(STATES)
    for column in reversed(added()):
        op.drop_column(JOBS, column.name)


def added() -> list[sa.Column[object]]:
    return [
        sa.Column("timeout", sa.Interval),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("idempotency_window", sa.Interval),
        sa.Column("holds_key", sa.Boolean, server_default=sa.text("true"), nullable=False),
        sa.Column("concurrency_key", sa.Text),
        sa.Column("depends_on", postgresql.ARRAY(sa.Uuid), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("awaited", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.Column("progress", sa.Double),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True)),
    ]


def know_states(states: str) -> None:
    op.drop_constraint(op.f(f"{JOBS}_state_known_check"), JOBS)
    op.create_check_constraint(op.f(f"{JOBS}_state_known_check"), JOBS, f"state IN ({states})")
