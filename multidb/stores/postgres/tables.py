"""The tables, as Alembic and the repositories see them.

What SQLAlchemy has no words for stands in the revisions alone: row level security, the triggers
that write `audit_logs`, and its partitions. So does how often a table is vacuumed.
"""

import re

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSTZRANGE, TSVECTOR, ExcludeConstraint

from multidb.stores.postgres.columns import (
    LIVING,
    by_company,
    company,
    given,
    id_,
    json_object,
    kept_by_the_repository,
    metadata,
    moment,
    one_of,
    unique_among_the_living,
    user,
    words,
)
from multidb.stores.postgres.job_tables import ai_processing_jobs, ai_processing_queues
from multidb.stores.postgres.outbox_tables import outbox

__all__ = [
    "ai_processing_jobs",
    "ai_processing_queues",
    "audit_logs",
    "calendar_events",
    "companies",
    "company_users",
    "documents",
    "forms",
    "in_metadata",
    "kanban_boards",
    "kanban_cards",
    "kanban_columns",
    "metadata",
    "outbox",
    "user_profiles",
    "user_sessions",
    "users",
]

_PARTITION = re.compile(r"audit_logs_(default|\d{4}_\d{2})")


def in_metadata(name: str | None, kind: str, _: object) -> bool:
    """Tell whether Alembic is to compare what it finds in the database under this name.

    Partitions come and go by the month, and hold what their parent says.
    """
    return kind != "table" or name is None or not _PARTITION.fullmatch(name)


companies = Table(
    "companies",
    metadata,
    id_(),
    words("name"),
    words("slug"),
    *kept_by_the_repository(),
    given("name"),
    unique_among_the_living("companies_slug_key", "slug"),
)

users = Table(
    "users",
    metadata,
    id_(),
    words("email"),
    # Folded by the client (str.casefold): what the server's lower() does depends on its locale.
    words("email_folded"),
    words("name"),
    *kept_by_the_repository(),
    given("name"),
    unique_among_the_living("users_email_key", "email_folded"),
    # What `find(email=...)` and `exists(email=...)` ask for, letter by letter.
    Index(None, "email"),
)

user_profiles = Table(
    "user_profiles",
    metadata,
    id_(),
    user(),
    Column("display_name", Text),
    Column("avatar_url", Text),
    Column("bio", Text),
    Column("locale", Text),
    Column("timezone", Text),
    *json_object("preferences", "{}"),
    *kept_by_the_repository(marks_deleted=False),
    UniqueConstraint("user_id"),
)

company_users = Table(
    "company_users",
    metadata,
    id_(),
    company(),
    user(),
    words("role"),
    *kept_by_the_repository(marks_deleted=False),
    one_of("role", "owner", "admin", "member", "viewer"),
    UniqueConstraint("company_id", "user_id", name="company_users_company_id_user_id_key"),
    by_company("company_users"),
    Index(None, "user_id"),
)

user_sessions = Table(
    "user_sessions",
    metadata,
    id_(),
    user(),
    Column("device", Text),
    Column("ip", Text),
    Column("user_agent", Text),
    moment("started_at", default=func.now(), nullable=False),
    moment("ended_at"),
    Column("end_reason", Text),
    *kept_by_the_repository(marks_deleted=False),
    # Read backwards: a user's sessions, the newest first.
    Index(None, "user_id", "started_at", "id"),
)

documents = Table(
    "documents",
    metadata,
    id_(),
    # Neither may go while there are documents of theirs: who deletes them shall mean to.
    Column("company_id", Uuid, ForeignKey("companies.id", ondelete="RESTRICT"), nullable=False),
    Column("owner_id", Uuid, ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    words("title"),
    words("status", "draft"),
    # SHA-256 of what was uploaded, in hexadecimal.
    Column("content_hash", Text),
    Column("size", BigInteger),
    Column("mime_type", Text),
    words("body", ""),
    # The highest fence that has written; one below it comes from a lock that was lost.
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    # Written as the server tells it, so that Alembic sees no difference. A tsvector holds a
    # megabyte: of a longer body, the beginning is found.
    Column(
        "search",
        TSVECTOR,
        Computed(
            """setweight(to_tsvector('english'::regconfig, title), 'A'::"char") || """
            """setweight(to_tsvector('english'::regconfig, "left"(body, 200000)), 'B'::"char")""",
            persisted=True,
        ),
    ),
    *kept_by_the_repository(),
    given("title"),
    one_of("status", "draft", "uploaded", "processing", "ready", "failed", "archived"),
    CheckConstraint("content_hash ~ '^[0-9a-f]{64}$'", name="content_hash_sha256"),
    CheckConstraint("size >= 0", name="size_not_negative"),
    CheckConstraint("fence >= 0", name="fence_not_negative"),
    # For the foreign keys that go through the company, and for its pages.
    UniqueConstraint("company_id", "id", name="documents_company_id_id_key"),
    Index(None, "owner_id"),
    Index(
        "documents_content_hash_idx",
        "company_id",
        "content_hash",
        postgresql_where=text("deleted_at IS NULL AND content_hash IS NOT NULL"),
    ),
    Index(None, "search", postgresql_using="gin"),
)

forms = Table(
    "forms",
    metadata,
    id_(),
    company(),
    words("name"),
    Column("description", Text),
    *json_object("definition"),
    *kept_by_the_repository(),
    given("name"),
    unique_among_the_living("forms_company_id_name_key", "company_id", "name"),
    by_company("forms"),
)

calendar_events = Table(
    "calendar_events",
    metadata,
    id_(),
    company(),
    # A room, a car, whatever only one event at a time may have.
    Column("resource_id", Uuid),
    words("title"),
    Column("description", Text),
    Column("location", Text),
    moment("starts_at", nullable=False),
    moment("ends_at", nullable=False),
    # Of an end before the start it makes nothing, so that the check is what refuses it.
    Column(
        "period",
        TSTZRANGE,
        Computed("tstzrange(starts_at, GREATEST(starts_at, ends_at), '[)'::text)", persisted=True),
    ),
    Column("attendees", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    *kept_by_the_repository(),
    given("title"),
    CheckConstraint("ends_at > starts_at", name="ends_after_start"),
    ExcludeConstraint(
        ("company_id", "="),
        ("resource_id", "="),
        ("period", "&&"),
        using="gist",
        where=LIVING,
        name="calendar_events_resource_id_excl",
    ),
    Index(None, "attendees", postgresql_using="gin"),
    Index("calendar_events_starts_at_idx", "company_id", "starts_at", "id"),
    by_company("calendar_events"),
)

# Columns and cards name their company too, and refer to what they hang on through it: so a card
# can never hang on another company's board, whoever writes it.
kanban_boards = Table(
    "kanban_boards",
    metadata,
    id_(),
    company(),
    words("name"),
    Column("description", Text),
    *kept_by_the_repository(),
    given("name"),
    UniqueConstraint("company_id", "id", name="kanban_boards_company_id_id_key"),
)

kanban_columns = Table(
    "kanban_columns",
    metadata,
    id_(),
    Column("company_id", Uuid, nullable=False),
    Column("board_id", Uuid, nullable=False),
    words("name"),
    # Ordered byte by byte, as `multidb.models.ranks` makes them.
    Column("rank", Text(collation="C"), nullable=False),
    Column("wip_limit", Integer),
    *kept_by_the_repository(marks_deleted=False),
    given("name"),
    given("rank"),
    CheckConstraint("wip_limit > 0", name="wip_limit_positive"),
    ForeignKeyConstraint(
        ["company_id", "board_id"],
        ["kanban_boards.company_id", "kanban_boards.id"],
        name="kanban_columns_board_id_fkey",
        ondelete="CASCADE",
    ),
    UniqueConstraint("company_id", "board_id", "id", name="kanban_columns_company_id_board_id_id_key"),
    UniqueConstraint("board_id", "rank", name="kanban_columns_board_id_rank_key"),
)

kanban_cards = Table(
    "kanban_cards",
    metadata,
    id_(),
    Column("company_id", Uuid, nullable=False),
    Column("board_id", Uuid, nullable=False),
    Column("column_id", Uuid, nullable=False),
    words("title"),
    Column("description", Text),
    Column("assignee_id", Uuid, ForeignKey("users.id", ondelete="SET NULL")),
    moment("due_at"),
    Column("rank", Text(collation="C"), nullable=False),
    *kept_by_the_repository(),
    given("title"),
    given("rank"),
    ForeignKeyConstraint(
        ["company_id", "board_id", "column_id"],
        ["kanban_columns.company_id", "kanban_columns.board_id", "kanban_columns.id"],
        name="kanban_cards_column_id_fkey",
        ondelete="CASCADE",
    ),
    unique_among_the_living("kanban_cards_column_id_rank_key", "column_id", "rank"),
    Index(None, "board_id", "column_id", "rank"),
    Index(None, "assignee_id"),
    by_company("kanban_cards"),
)

audit_logs = Table(
    "audit_logs",
    metadata,
    moment("ts", nullable=False),
    Column("id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    # No foreign key: what is written here outlives what it is about.
    Column("company_id", Uuid),
    Column("actor", Text),
    Column("request_id", Text),
    words("action"),
    words("entity"),
    Column("entity_id", Uuid, nullable=False),
    Column("old", JSONB),
    Column("new", JSONB),
    PrimaryKeyConstraint("ts", "id"),
    one_of("action", "insert", "update", "delete"),
    Index(None, "entity", "entity_id", "ts", "id"),
    Index(None, "company_id", "ts", "id"),
    Index(None, "actor", "ts"),
    Index("audit_logs_id_idx", "id"),
    postgresql_partition_by="RANGE (ts)",
)
