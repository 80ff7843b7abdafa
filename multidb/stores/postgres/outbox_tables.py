"""The table of what a commit has promised to MongoDB and Redis, and a relay has still to do there."""

from sqlalchemy import (
    BigInteger,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from multidb.stores.postgres.columns import given, id_, json_object, metadata, moment, one_of, words

__all__ = ["outbox"]

outbox = Table(
    "outbox",
    metadata,
    id_(),
    # Of one stream it grows in the order of the commits; what is told twice is known by it.
    Column("version", BigInteger, Identity(always=True), nullable=False),
    words("store"),
    words("effect"),
    *json_object("payload"),
    # What is to be stored, as the BSON that it will be: exact, and checked already.
    Column("document", LargeBinary),
    # What of one stream and store comes in order; nothing waits for what has none.
    Column("stream", Text),
    # Whose call it was. No foreign key: what is promised is done, also where the company is gone.
    Column("tenant", Uuid),
    moment("created_at", default=func.clock_timestamp(), nullable=False),
    moment("due_at", default=func.clock_timestamp(), nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    moment("dead_at"),
    given("effect"),
    one_of("store", "mongo", "redis"),
    Index("outbox_store_version_idx", "store", "version", postgresql_where=text("dead_at IS NULL")),
    Index(
        "outbox_store_stream_version_idx",
        "store",
        "stream",
        "version",
        postgresql_where=text("stream IS NOT NULL"),
    ),
    # Those are few, and the first that an operator asks for.
    Index("outbox_failed_idx", "version", postgresql_where=text("attempts > 0")),
)
