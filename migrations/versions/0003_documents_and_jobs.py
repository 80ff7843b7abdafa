"""Documents, and the jobs that process them

Revises: 0002
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SEARCH = """\
setweight(to_tsvector('english'::regconfig, title), 'A'::"char") || \
setweight(to_tsvector('english'::regconfig, "left"(body, 200000)), 'B'::"char")"""


def kept_by_the_repository(table: str) -> tuple[sa.Column[object] | sa.Constraint, ...]:
    return (
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.Integer, server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"{table}_pkey")),
        sa.CheckConstraint("version > 0", name=op.f(f"{table}_version_positive_check")),
    )


def upgrade() -> None:
    create_documents()
    create_jobs()


def create_documents() -> None:
    op.create_table(
        "documents",
        *kept_by_the_repository("documents"),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("company_id", sa.Uuid, nullable=False),
        sa.Column("owner_id", sa.Uuid, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("status", sa.Text, server_default=sa.text("'draft'"), nullable=False),
        sa.Column("content_hash", sa.Text),
        sa.Column("size", sa.BigInteger),
        sa.Column("mime_type", sa.Text),
        sa.Column("body", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("fence", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("search", postgresql.TSVECTOR, sa.Computed(SEARCH, persisted=True)),
        sa.CheckConstraint("title <> ''", name=op.f("documents_title_given_check")),
        sa.CheckConstraint(
            "status IN ('draft', 'uploaded', 'processing', 'ready', 'failed', 'archived')",
            name=op.f("documents_status_known_check"),
        ),
        sa.CheckConstraint(
            "content_hash ~ '^[0-9a-f]{64}$'", name=op.f("documents_content_hash_sha256_check")
        ),
        sa.CheckConstraint("size >= 0", name=op.f("documents_size_not_negative_check")),
        sa.CheckConstraint("fence >= 0", name=op.f("documents_fence_not_negative_check")),
        sa.ForeignKeyConstraint(
            ["company_id"], ["companies.id"], name=op.f("documents_company_id_fkey"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("documents_owner_id_fkey"), ondelete="RESTRICT"
        ),
        sa.UniqueConstraint("company_id", "id", name=op.f("documents_company_id_id_key")),
    )
    op.create_index(op.f("documents_owner_id_idx"), "documents", ["owner_id"])
    op.create_index(
        op.f("documents_content_hash_idx"),
        "documents",
        ["company_id", "content_hash"],
        postgresql_where=sa.text("deleted_at IS NULL AND content_hash IS NOT NULL"),
    )
    op.create_index(op.f("documents_search_idx"), "documents", ["search"], postgresql_using="gin")


def create_jobs() -> None:
    op.create_table(
        "ai_processing_jobs",
        *kept_by_the_repository("ai_processing_jobs"),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", postgresql.JSONB, nullable=False),
        sa.Column("state", sa.Text, server_default=sa.text("'available'"), nullable=False),
        sa.Column("priority", sa.SmallInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("attempt", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer, server_default=sa.text("5"), nullable=False),
        sa.Column("lease", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("company_id", sa.Uuid),
        sa.Column("document_id", sa.Uuid),
        sa.Column("result", postgresql.JSONB),
        sa.Column("error", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "jsonb_typeof(payload) = 'object'", name=op.f("ai_processing_jobs_payload_object_check")
        ),
        sa.CheckConstraint("queue <> ''", name=op.f("ai_processing_jobs_queue_given_check")),
        sa.CheckConstraint("kind <> ''", name=op.f("ai_processing_jobs_kind_given_check")),
        sa.CheckConstraint(
            "state IN ('available', 'running', 'completed', 'failed', 'cancelled', 'dead')",
            name=op.f("ai_processing_jobs_state_known_check"),
        ),
        sa.CheckConstraint("attempt >= 0", name=op.f("ai_processing_jobs_attempt_not_negative_check")),
        sa.CheckConstraint("max_attempts > 0", name=op.f("ai_processing_jobs_max_attempts_positive_check")),
        sa.CheckConstraint("lease >= 0", name=op.f("ai_processing_jobs_lease_not_negative_check")),
        sa.ForeignKeyConstraint(
            ["company_id"],
            ["companies.id"],
            name=op.f("ai_processing_jobs_company_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["documents.id"],
            name=op.f("ai_processing_jobs_document_id_fkey"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["company_id", "document_id"],
            ["documents.company_id", "documents.id"],
            name=op.f("ai_processing_jobs_company_id_document_id_fkey"),
            ondelete="SET NULL (document_id)",
        ),
    )
    op.create_index(
        op.f("ai_processing_jobs_claim_idx"),
        "ai_processing_jobs",
        ["queue", "priority", "run_at", "id"],
        postgresql_where=sa.text("state = 'available'"),
    )
    op.create_index(op.f("ai_processing_jobs_company_id_idx"), "ai_processing_jobs", ["company_id", "id"])
    op.create_index(op.f("ai_processing_jobs_document_id_idx"), "ai_processing_jobs", ["document_id"])


def downgrade() -> None:
    op.drop_table("ai_processing_jobs")
    op.drop_table("documents")
