"""Over 200,000 rows no statement of the repositories reads a big table from end to end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import pytest_asyncio

from multidb import AlreadyExistsError, ConflictError, MultiDB, NewJob, PostgresRepository, Settings, uuid7
from multidb.registry import BUILT_IN
from multidb.repositories.postgres_reader import PostgresReader
from multidb.repositories.relay import Lane
from multidb.testing import isolated
from tests.contract.subjects import COMPANY as SMALL
from tests.contract.subjects import ROWS, RowSubject

from .plans import BIG, COMPANY, Sent, fill, id_of, listening, nodes, plan, scans, sorts
from .postgres import raw
from .test_row_security import owned

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Indexes that no call here uses, and why they are there all the same.
KEPT_FOR = {
    "calendar_events_attendees_idx": "whose events, asked by an application: c.attendees.contains([user])",
}

READERS: list[type[PostgresReader[Any]]] = [each for each in BUILT_IN if issubclass(each, PostgresReader)]


class Filled(NamedTuple):
    """A database with many rows, after every kind of call on it."""

    #: By kind of login: no row level security binds a superuser, nor who has BYPASSRLS.
    logins: dict[str, Settings]
    rows: int
    #: The tables and partitions with many rows.
    big: set[str]
    #: One of each text.
    sent: list[Sent]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(multidb_servers: Settings) -> AsyncIterator[Filled]:
    async with isolated(multidb_servers) as settings:
        rows = await fill(settings)
        async with MultiDB(settings) as db:
            with listening(db) as sent:
                await call_everything(db)
        async with raw(settings) as connection, owned(settings) as owner:
            found = await connection.fetch("SELECT relname FROM pg_class WHERE reltuples > $1", BIG)
            yield Filled(
                {"superuser": settings, "owner": owner},
                rows,
                {row[0] for row in found},
                list({each.sql: each for each in sent}.values()),
            )


# --- the calls


async def call_everything(db: MultiDB) -> None:
    # What the cache answers, PostgreSQL is not asked.
    with db.uncached():
        stored: set[UUID] = set()
        for subject in ROWS:
            for entity, parents in subject.parents:
                new = [each for each in parents if each.id not in stored]
                await getattr(db, entity).add_many(new)
                stored |= {each.id for each in new}
        for scope in (nullcontext(), db.tenant(SMALL.id)):
            with scope:
                for number, subject in enumerate(ROWS):
                    await write(subject.repository(db), subject, 20 * isinstance(scope, nullcontext) + number)
        for scope in (nullcontext(), db.tenant(COMPANY)):
            with scope:
                for reader in READERS:
                    await read(db[reader])
                await ask(db)
                await move(db)
        await queue(db)
        await deliver(db)


async def read(repository: PostgresReader[Any]) -> None:
    """Read in every way that each repository has."""
    page = await repository.find(limit=200)
    some = page.items
    assert some
    # A company sees one company.
    for _ in range(3 if page.next else 0):
        page = await repository.find(limit=200, after=page.next)
    if page.previous:
        await repository.find(limit=50, before=page.previous)
    await repository.get(some[0].id)
    await asyncio.gather(*(repository.get(each.id) for each in some[:20]))
    await repository.get_many([each.id for each in some[:20]])
    await repository.find_one(id=some[0].id)
    await repository.count(repository.c.id.in_([each.id for each in some[:20]]))
    await repository.exists(repository.c.id == some[0].id)
    await asyncio.gather(*(repository.exists(id=each.id) for each in some[:20]))
    async for n, _ in enumerate_async(repository.stream()):
        if n > 1_000:
            break
    for fields in unique_fields(repository):
        values = {name: getattr(some[0], name) for name in fields}
        await repository.find_one(**values)
        await repository.exists(**values)
    for name in foreign_keys(repository):
        referred = list({getattr(each, name) for each in some} - {None})
        if referred:
            await repository.related(referred[:50], by=name)
            await repository.find(**{name: referred[0]}, limit=10)
            await repository.exists(**{name: referred[0]})
    for name in repository.relations:
        await repository.find(limit=50, include=(name,))
        await repository.get(some[0].id, include=(name,))


async def enumerate_async(items: AsyncIterator[Any]) -> AsyncIterator[tuple[int, Any]]:
    n = 0
    async for each in items:
        yield n, each
        n += 1


def unique_fields(repository: PostgresReader[Any]) -> set[tuple[str, ...]]:
    if not isinstance(repository, PostgresRepository):
        return set()
    # An exclusion constraint is no unique key.
    return {fields for name, fields in repository.unique.items() if not name.endswith("_excl")}


def foreign_keys(repository: PostgresReader[Any]) -> list[str]:
    columns = {column.name for column in repository.table.c if column.foreign_keys}
    return sorted(columns & set(repository.model.model_fields))


async def write(repository: PostgresRepository[Any, Any, Any], subject: RowSubject, n: int) -> None:
    """Write in every way that each repository has."""
    # In its own scope, a company can add no other.
    company = repository.entity() == "companies"
    row = await (repository.fetch(SMALL.id) if company else repository.add(subject.new(n)))
    row = await repository.update(row.id, **subject.change(n))
    await repository.update(row.id, **subject.change(n + 1), version=row.version)
    await repository.update_many(repository.c.id == row.id, changes=subject.change(n))
    for fields in unique_fields(repository):
        if "idempotency_key" in fields:
            continue  # the row has none, and without one it conflicts with no other
        given = row.model_dump(include=set(repository.new_model.model_fields))
        if "id" not in fields and repository.tenant != "id":
            given["id"] = uuid7()
        there = repository.new_model.model_validate(given)
        await repository.upsert(there, on=fields)
        await repository.upsert_many([there], on=fields)
        with suppress(AlreadyExistsError):  # after it has asked which keys are taken
            await repository.add_many([there])
    if repository.entity() == "documents":
        await repository.update(row.id, **subject.change(n), fence=1)
    if not company:
        await repository.delete(row.id)
        if subject.marks_deleted:
            await repository.restore(row.id)
            await repository.delete_many(repository.c.id == row.id)


async def queue(db: MultiDB) -> None:
    """Do what workers do, and who looks after them."""
    key = NewJob(queue="q0", kind="read", payload={}, idempotency_key="key 4", concurrency_key="key 1")
    (held,) = await db.jobs.claim("q0", worker="w")
    first = await db.jobs.enqueue(key)
    await db.jobs.enqueue(key)
    await db.jobs.enqueue_many([key])
    await db.jobs.enqueue(NewJob(queue="q0", kind="read", payload={}, depends_on=(first.id, held.id)))
    for _ in range(3):
        await db.jobs.claim("q0", worker="w", limit=2)
    await db.jobs.claim("q0", worker="w", limit=2, fair=True)
    with db.tenant(COMPANY):
        for fair in (False, False, True):
            await db.jobs.claim("q0", worker="w", limit=2, fair=fair)
    await db.jobs.limit("q0", at_most=1000, at_most_per_key=3)
    for fair in (False, True):
        await db.jobs.claim("q0", worker="w", limit=2, fair=fair)
    await db.jobs.heartbeat([held])
    await db.jobs.progress(held, 0.5)
    await db.jobs.complete(held)
    with suppress(ConflictError):
        await db.jobs.complete(held.model_copy(update={"lease": 7}))
    for each in (first, held):
        await db.jobs.cancel(each.id)
        await db.jobs.discard(each.id)
        await db.jobs.retry(each.id)
    await db.jobs.rescue()
    await db.jobs.prune(timedelta(days=1), most=10)
    await db.jobs.stats()
    for state in ("failed", "dead"):
        await db.jobs.find(state=state)


async def deliver(db: MultiDB) -> None:
    """Do what a relay does, and who looks after it."""
    kinds = db.relay._kinds("redis")
    lane = Lane(db.relay._resources, "redis", asyncio.Event(), asyncio.Event(), kinds)
    for _ in range(2):
        await lane._deliver()
    none = Lane(db.relay._resources, "mongo", asyncio.Event(), asyncio.Event(), kinds={})
    await none._deliver()
    await db.outbox.find(after=1000, limit=200)
    dead = await db.outbox.find(dead=True)
    await db.outbox.retry(dead[0].id)
    await db.outbox.skip(dead[1].id)
    await db.outbox.retry_all()
    await db.outbox.stats()


async def ask(db: MultiDB) -> None:
    """Ask what only some repositories can answer."""
    await db.users.by_email("U3@example.com")
    await db.companies.by_slug("c-0")
    await db.user_profiles.by_user(id_of("users", 3))
    await db.company_users.members(COMPANY)
    await db.company_users.memberships(id_of("users", 4))
    await db.company_users.membership(COMPANY, user_id=id_of("users", 4))
    await db.company_users.join(COMPANY, user_id=id_of("users", 5))
    await db.company_users.leave(COMPANY, user_id=id_of("users", 5))
    await db.forms.by_name(COMPANY, name="form 4")
    await db.user_sessions.find(user_id=id_of("users", 4), order_by="-started_at")
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    starts = db.calendar_events.c.starts_at.between(noon, noon + timedelta(days=7))
    await db.calendar_events.find(starts, company_id=COMPANY, order_by="starts_at")
    page = await db.documents.search("word4", limit=1)
    await db.documents.search("word4", limit=1, after=page.next)
    await db.documents.find(company_id=COMPANY, content_hash="0a" * 32)
    await db.audit_logs.history("documents", id_of("documents", 3))
    await db.audit_logs.find(actor="actor 3")
    await db.audit_logs.find(company_id=COMPANY)


async def move(db: MultiDB) -> None:
    """Order what has an order."""
    board = await db.kanban_boards.find_one(id=id_of("kanban_boards", 20))
    assert board is not None
    columns = await db.kanban_columns.find(board_id=board.id, order_by="rank")
    await db.kanban_columns.move(columns.items[0].id, after=columns.items[2].id)
    await db.kanban_columns.place(board.id)
    cards = await db.kanban_cards.find(column_id=columns.items[0].id, order_by="rank")
    await db.kanban_cards.move(cards.items[0].id, before=cards.items[1].id)
    await db.kanban_cards.place(cards.items[0].column_id)


# --- what is held


async def test_there_are_as_many_rows_and_statements_as_that(filled: Filled):
    assert filled.rows >= 200_000
    assert len(filled.sent) > 400
    assert {reader.table.name for reader in READERS} <= filled.big


@pytest.mark.parametrize("generic", [False, True], ids=["for its arguments", "for any"])
@pytest.mark.parametrize("login", ["superuser", "owner"])
async def test_no_statement_reads_a_big_table_from_end_to_end(filled: Filled, login: str, generic: bool):
    found = []
    async with raw(filled.logins[login]) as connection:
        for each in filled.sent:
            if login == "owner" and each.operation == "documents.search":
                continue  # row level security lets no operator look first that is not leakproof
            if read := scans(await plan(connection, each, generic=generic), filled.big):
                found.append((each.operation, read, each.sql))
    assert found == []


async def test_no_page_has_to_be_sorted_out_of_many_rows(filled: Filled):
    found = []
    async with raw(filled.logins["owner"]) as connection:
        for each in filled.sent:
            if not each.operation.endswith(".find"):
                continue  # who wants all of a company's rows may as well sort them
            if sorted_by := sorts(await plan(connection, each), 500):
                found.append((each.operation, sorted_by, each.sql))
    assert found == []


async def test_a_scan_would_be_seen(filled: Filled):
    sql = "SELECT count(*) FROM users WHERE name = $1 UNION SELECT count(*) FROM audit_logs WHERE new IS NULL"
    async with raw(filled.logins["superuser"]) as connection:
        for generic in (False, True):
            found = scans(await plan(connection, Sent("", sql, ("Ada",), None), generic=generic), filled.big)
            assert "users" in found
            assert any(name.startswith("audit_logs_") for name in found)


async def test_jobs_are_claimed_in_the_order_of_their_index(filled: Filled):
    claims = [each for each in filled.sent if each.operation == "jobs.claim"]
    found = set()
    async with raw(filled.logins["owner"]) as connection:
        for claim in claims:
            for generic in (False, True):
                steps = list(nodes(await plan(connection, claim, generic=generic)))
                used = {str(each["Index Name"]) for each in steps if "Index Name" in each}
                found |= used
                if "groups" not in claim.sql and "SKIP LOCKED" in claim.sql:
                    assert "Sort" not in {each["Node Type"] for each in steps}, claim.sql
                    assert any(name.endswith("claim_idx") for name in used), claim.sql
    assert {name for name in found if name.endswith("claim_idx")} == {
        f"ai_processing_jobs_{name}claim_idx" for name in ("", "company_", "no_company_", "key_", "no_key_")
    }


async def test_every_foreign_key_is_checked_by_an_index(filled: Filled):
    """Whoever deletes a row asks, of each table that refers to it, for the rows that do."""
    found = []
    async with raw(filled.logins["superuser"]) as connection:
        keys = await connection.fetch(
            """
            SELECT conrelid::regclass::text AS name, conname AS key, array_agg(attname::text) AS columns
            FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY (conkey)
            WHERE contype = 'f' AND connamespace = 'public'::regnamespace GROUP BY conrelid, conname
            """
        )
        for name, key, columns in keys:
            where = " AND ".join(f"{column} = ${n}" for n, column in enumerate(columns, 1))
            for sql in (
                f"DELETE FROM ONLY {name} WHERE {where}",
                f"SELECT FROM ONLY {name} WHERE {where} FOR KEY SHARE",
            ):
                check = Sent("", sql, (None,) * len(columns), None)
                if scans(await plan(connection, check, generic=True), filled.big):
                    found.append(key)
    assert len(keys) > 10
    assert found == []


async def test_every_index_is_used_or_guards_something(filled: Filled):
    async with raw(filled.logins["superuser"]) as connection:
        # Of a partitioned table's index, the partitions' together.
        indexes = await connection.fetch(
            """
            SELECT coalesce(inhparent, s.indexrelid)::regclass::text AS name
            FROM pg_stat_user_indexes s
            JOIN pg_index i USING (indexrelid) LEFT JOIN pg_inherits ON inhrelid = indexrelid
            WHERE NOT indisunique AND NOT indisexclusion
              AND NOT EXISTS (
                SELECT FROM pg_constraint
                WHERE contype = 'f' AND conrelid = i.indrelid AND conkey[1] = i.indkey[0]
              )
            GROUP BY 1 HAVING sum(idx_scan) = 0
            """
        )
    assert {row["name"] for row in indexes} == KEPT_FOR.keys()
