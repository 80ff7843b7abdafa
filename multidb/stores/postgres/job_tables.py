"""The tables of the job queue: the jobs, and how many of a queue's may run at a time."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Interval,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from multidb.stores.postgres.columns import (
    given,
    id_,
    json_object,
    kept_by_the_repository,
    metadata,
    moment,
    one_of,
    words,
)

__all__ = ["ai_processing_jobs", "ai_processing_queues"]

ai_processing_jobs = Table(
    "ai_processing_jobs",
    metadata,
    id_(),
    words("queue"),
    words("kind"),
    *json_object("payload"),
    # One that waits for its time is available too: it has a `run_at` to come.
    words("state", "available"),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    moment("run_at", default=func.now(), nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("max_attempts", Integer, nullable=False, server_default=text("5")),
    # One higher with each claim: who brings a lower one has lost the job.
    Column("lease", BigInteger, nullable=False, server_default=text("0")),
    Column("worker", Text),
    moment("lease_until"),
    Column("company_id", Uuid, ForeignKey("companies.id", ondelete="CASCADE")),
    Column("document_id", Uuid, ForeignKey("documents.id", ondelete="SET NULL")),
    Column("result", JSONB),
    Column("error", Text),
    moment("started_at"),
    moment("finished_at"),
    Column("timeout", Interval),
    Column("idempotency_key", Text),
    Column("idempotency_window", Interval),
    # Whether no other job may have its key. A finished one whose window is over gives it up when asked.
    Column("holds_key", Boolean, nullable=False, server_default=text("true")),
    Column("concurrency_key", Text),
    Column("depends_on", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    # Whether jobs depend on it that have not been told yet how it ended.
    Column("awaited", Boolean, nullable=False, server_default=text("false")),
    Column("progress", Double),
    moment("cancel_requested_at"),
    *kept_by_the_repository(marks_deleted=False),
    given("queue"),
    given("kind"),
    one_of("state", "waiting", "available", "running", "completed", "failed", "cancelled", "dead"),
    CheckConstraint("progress >= 0 AND progress <= 1", name="progress_a_share"),
    CheckConstraint("attempt >= 0", name="attempt_not_negative"),
    CheckConstraint("max_attempts > 0", name="max_attempts_positive"),
    CheckConstraint("lease >= 0", name="lease_not_negative"),
    # A company's job is about its own documents.
    ForeignKeyConstraint(
        ["company_id", "document_id"],
        ["documents.company_id", "documents.id"],
        name="ai_processing_jobs_company_id_document_id_fkey",
        ondelete="SET NULL (document_id)",
    ),
    Index(
        "ai_processing_jobs_claim_idx",
        "queue",
        "priority",
        "run_at",
        "id",
        postgresql_where=text("state = 'available'"),
    ),
    # What a claim that shares out looks for: one company's next jobs, one key's, and those of none.
    Index(
        "ai_processing_jobs_company_claim_idx",
        "queue",
        "company_id",
        "priority",
        "run_at",
        "id",
        postgresql_where=text("state = 'available' AND company_id IS NOT NULL"),
    ),
    Index(
        "ai_processing_jobs_no_company_claim_idx",
        "queue",
        "priority",
        "run_at",
        "id",
        postgresql_where=text("state = 'available' AND company_id IS NULL"),
    ),
    Index(
        "ai_processing_jobs_key_claim_idx",
        "queue",
        "concurrency_key",
        "priority",
        "run_at",
        "id",
        postgresql_where=text("state = 'available' AND concurrency_key IS NOT NULL"),
    ),
    Index(
        "ai_processing_jobs_no_key_claim_idx",
        "queue",
        "priority",
        "run_at",
        "id",
        postgresql_where=text("state = 'available' AND concurrency_key IS NULL"),
    ),
    # Without `lease_until`: a heartbeat then changes no index. Those that run are few.
    Index(
        "ai_processing_jobs_state_idx",
        "state",
        "id",
        postgresql_where=text("state IN ('waiting', 'running', 'failed', 'dead')"),
    ),
    Index(
        "ai_processing_jobs_awaited_idx",
        "finished_at",
        postgresql_where=text("awaited AND state IN ('completed', 'cancelled')"),
    ),
    Index(
        "ai_processing_jobs_waiting_idx",
        "depends_on",
        postgresql_using="gin",
        postgresql_where=text("state = 'waiting'"),
    ),
    Index(
        "ai_processing_jobs_finished_idx",
        "finished_at",
        "id",
        postgresql_where=text("finished_at IS NOT NULL"),
    ),
    Index(
        "ai_processing_jobs_idempotency_key_key",
        "queue",
        "idempotency_key",
        "company_id",
        unique=True,
        postgresql_where=text("holds_key AND idempotency_key IS NOT NULL"),
        postgresql_nulls_not_distinct=True,
    ),
    # Not of those that have none, for each change of a job's state is one of every index it is in.
    Index(
        "ai_processing_jobs_company_id_idx",
        "company_id",
        "id",
        postgresql_where=text("company_id IS NOT NULL"),
    ),
    Index(
        "ai_processing_jobs_document_id_idx",
        "document_id",
        postgresql_where=text("document_id IS NOT NULL"),
    ),
)

# How many of a queue's jobs may run at a time; one that has no row here has no limit.
ai_processing_queues = Table(
    "ai_processing_queues",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("at_most", Integer),
    Column("at_most_per_key", Integer),
    CheckConstraint("at_most >= 0", name="at_most_not_negative"),
    CheckConstraint("at_most_per_key >= 0", name="at_most_per_key_not_negative"),
)
