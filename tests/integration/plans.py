"""Many rows in every table, the statements that repositories send, and how PostgreSQL would run them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from multidb import MultiDB
from multidb.settings import PostgresSettings
from multidb.stores.postgres.statements import Statement

from .postgres import Connection, raw, sees

__all__ = ["BIG", "COMPANY", "Sent", "fill", "id_of", "listening", "nodes", "plan", "scans", "sorts"]

#: Rows a table, 14 of them.
ROWS = 16_000
#: The companies that have any, ten rows of each table; but every twentieth row is COMPANY's.
COMPANIES = 1_600
#: A table with fewer rows is rightly read from end to end.
BIG = 1_000

_KINDS = {
    name: number
    for number, name in enumerate(
        ("companies", "users", "documents", "kanban_boards", "kanban_columns", "resources"), start=16
    )
}


def id_of(table: str, n: int) -> UUID:
    """Return the id of the table's n-th row."""
    return UUID(int=_KINDS[table] << 64 | n)


#: The company that has a twentieth of all.
COMPANY = id_of("companies", 0)

_FUNCTIONS = f"""
CREATE FUNCTION pg_temp.id(kind int, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN (lpad(to_hex(kind), 16, '0') || lpad(to_hex(n), 16, '0'))::uuid;
CREATE FUNCTION pg_temp.company(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN pg_temp.id({_KINDS["companies"]}, CASE WHEN n % 20 = 0 THEN 0 ELSE n % {COMPANIES} END);
"""

#: By table, the columns and what stands in them for `n`; `id(table, n)` is the n-th row's of that table.
_TABLES = {
    "companies": ("id, name, slug, deleted_at", "id(companies, n), 'C' || n, 'c-' || n, deleted(n)"),
    "users": (
        "id, email, email_folded, name, deleted_at",
        "id(users, n), 'U' || n || '@example.com', 'u' || n || '@example.com', 'N' || n % 100, deleted(n)",
    ),
    "user_profiles": ("id, user_id, display_name", "id(users, n), id(users, n), 'N' || n"),
    "company_users": ("id, company_id, user_id, role", "id(users, n), company(n), id(users, n), 'member'"),
    "user_sessions": (
        "id, user_id, device, started_at",
        "id(users, n), id(users, n / 8), 'phone', now() - n * interval '1 minute'",
    ),
    "documents": (
        "id, company_id, owner_id, title, content_hash, body, deleted_at",
        """id(documents, n), company(n), id(users, n / 8), 'Title ' || n, repeat(md5(n::text), 2),
        'word' || n || ' and word' || n % 1000, deleted(n)""",
    ),
    "ai_processing_jobs": (
        """id, queue, kind, payload, state, priority, company_id, document_id, concurrency_key, finished_at,
        idempotency_key, holds_key""",
        """id(documents, n), 'q' || n % 4, 'read', '{}',
        CASE WHEN n % 10 = 0 THEN 'available' WHEN n % 1000 = 1 THEN 'waiting' ELSE 'completed' END,
        n % 3, company(n), id(documents, n), CASE WHEN n % 4 = 0 THEN 'key ' || n % 50 END,
        CASE WHEN n % 10 <> 0 AND n % 1000 <> 1 THEN now() - n * interval '1 minute' END,
        'key ' || n, n % 3 = 0""",
    ),
    "forms": (
        "id, company_id, name, definition, deleted_at",
        "id(documents, n), company(n), 'form ' || n, '{}', deleted(n)",
    ),
    "calendar_events": (
        "id, company_id, resource_id, title, starts_at, ends_at, attendees, deleted_at",
        """id(documents, n), company(n), CASE WHEN n % 4 = 0 THEN id(resources, n % 100) END, 'Event ' || n,
        timestamptz '2026-01-01Z' + n * interval '1 hour',
        timestamptz '2026-01-01Z' + (n + 1) * interval '1 hour',
        ARRAY[id(users, n), id(users, n / 8)], deleted(n)""",
    ),
    "kanban_boards": (
        "id, company_id, name, deleted_at",
        "id(kanban_boards, n), company(n), 'Board ' || n, deleted(n)",
    ),
    "kanban_columns": (
        "id, company_id, board_id, name, rank",
        "id(kanban_columns, n), company(n / 4), id(kanban_boards, n / 4), 'Column', 'a' || n % 4 + 1",
    ),
    "kanban_cards": (
        "id, company_id, board_id, column_id, title, assignee_id, rank, deleted_at",
        """id(kanban_columns, n), company(n / 16), id(kanban_boards, n / 16), id(kanban_columns, n / 4),
        'Card', id(users, n / 8), 'a' || n % 4 + 1, deleted(n)""",
    ),
    "audit_logs": (
        "ts, id, company_id, actor, action, entity, entity_id",
        """now() - n * interval '1 minute', id(documents, n), company(n), 'actor ' || n % 500, 'update',
        'documents', id(documents, n / 8)""",
    ),
    "outbox": (
        "id, store, effect, payload, document, stream, attempts, error, dead_at",
        """id(documents, n), CASE WHEN n % 2 = 0 THEN 'redis' ELSE 'mongo' END, 'uploads.abort',
        jsonb_build_object('id', CASE WHEN n % 500 <> 4 THEN id(documents, n) END),
        sha512(n::text::bytea), CASE WHEN n % 4 = 0 THEN 's/' || n / 40 END,
        CASE WHEN n % 100 < 2 THEN 1 ELSE 0 END, CASE WHEN n % 100 < 2 THEN 'it failed' END,
        CASE WHEN n % 200 < 2 THEN now() END""",
    ),
}


async def fill(settings: PostgresSettings) -> int:
    """Store the rows, and return how many. Every seventh is deleted where a table keeps such rows."""
    async with raw(settings) as connection:
        await connection.execute(_FUNCTIONS)
        # No triggers: neither the audit log's nor those of the foreign keys.
        await connection.execute("SET session_replication_role = replica")
        for table, (columns, values) in _TABLES.items():
            told = values.replace("deleted(n)", "CASE WHEN n % 7 = 3 THEN now() END")
            for name, number in _KINDS.items():
                told = told.replace(f"id({name}, ", f"pg_temp.id({number}, ")
            told = told.replace("company(", "pg_temp.company(")
            await connection.execute(
                f"INSERT INTO {table} ({columns}) SELECT {told} FROM generate_series(0, {ROWS - 1}) n"
            )
        # What autovacuum would do in time; without it all words wait in the list of a GIN index.
        await connection.execute("VACUUM ANALYZE")
        counts = [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in _TABLES]
    return sum(counts)


class Sent(NamedTuple):
    """A statement that a repository has sent."""

    operation: str
    sql: str
    arguments: tuple[Any, ...]
    #: Whose rows the database let it see.
    tenant: UUID | None


@contextmanager
def listening(db: MultiDB) -> Iterator[list[Sent]]:
    """Yield what the repositories send inside the block; it is sent all the same."""
    sent: list[Sent] = []
    store = db.postgres
    fetch = store.fetch

    async def heard(
        statement: Statement, values: Mapping[str, Any] | None = None, **options: Any
    ) -> list[asyncpg.Record]:
        arguments = tuple(statement.arguments(values))
        sent.append(Sent(options["operation"], statement.sql, arguments, options.get("tenant")))
        return await fetch(statement, values, **options)

    store.fetch = heard  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        del store.fetch


async def plan(connection: Connection, sent: Sent, *, generic: bool = False) -> dict[str, Any]:
    """Return the plan for a statement: for its arguments, or the one for any that prepared ones come to."""
    async with sees(connection, sent.tenant) if sent.tenant else connection.transaction():
        if generic:
            await connection.execute(
                f"SET LOCAL plan_cache_mode = force_generic_plan; PREPARE sent AS {sent.sql}"
            )
            nulls = ", ".join(["NULL"] * len(sent.arguments))
            execute = f"EXECUTE sent ({nulls})" if nulls else "EXECUTE sent"
            found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {execute}")
            await connection.execute("DEALLOCATE sent")
        else:
            found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sent.sql}", *sent.arguments)
    made: dict[str, Any] = json.loads(found)[0]["Plan"]
    return made


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every step of a plan."""
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def scans(plan: Mapping[str, Any], big: set[str]) -> list[str]:
    """Return which of the big tables the plan reads from end to end."""
    return [
        each["Relation Name"]
        for each in nodes(plan)
        if each["Node Type"] == "Seq Scan" and each["Relation Name"] in big
    ]


def sorts(plan: Mapping[str, Any], most: int) -> list[str]:
    """Return the keys by which the plan sorts more than `most` rows."""
    return [
        ", ".join(each["Sort Key"])
        for each in nodes(plan)
        if each["Node Type"].endswith("Sort") and each["Plans"][0]["Plan Rows"] > most
    ]
