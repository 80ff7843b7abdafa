"""The audit log: the database writes who changed what, and how it was before."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from multidb.models.fields import Masked
from multidb.registry import BUILT_IN
from multidb.repositories.postgres import PostgresRepository
from multidb.settings import Settings
from multidb.stores.postgres import ddl
from tests.integration.postgres import Connection, add_board, add_company, add_user, raw

#: What the database computes, by table: no change of it is one that anybody made.
COMPUTED = {"documents": {"search"}, "calendar_events": {"period"}}

AUDITED = {
    "companies",
    "users",
    "user_profiles",
    "company_users",
    "documents",
    "forms",
    "calendar_events",
    "kanban_boards",
    "kanban_columns",
    "kanban_cards",
}


@pytest.fixture
async def connection(multidb_settings: Settings) -> AsyncIterator[Connection]:
    async with raw(multidb_settings) as opened:
        yield opened


async def entries(connection: Connection, entity: str, id: UUID | None = None) -> list[dict[str, Any]]:
    """Return what the log says about a table or a row of it, the oldest first."""
    rows = await connection.fetch(
        "SELECT * FROM audit_logs WHERE entity = $1 AND ($2::uuid IS NULL OR entity_id = $2) ORDER BY ts",
        entity,
        id,
    )
    return [
        {**row, "old": json.loads(row["old"] or "null"), "new": json.loads(row["new"] or "null")}
        for row in rows
    ]


async def act(connection: Connection, actor: str, request_id: str) -> None:
    await connection.execute(
        "SELECT set_config('multidb.actor', $1, true), set_config('multidb.request_id', $2, true)",
        actor,
        request_id,
    )


async def test_it_says_who_did_what_and_for_which_request(connection: Connection):
    async with connection.transaction():
        await act(connection, "ada", "r-1")
        company = await add_company(connection)
    await connection.execute("UPDATE companies SET name = 'D', version = 2 WHERE id = $1", company)
    async with connection.transaction():
        await act(connection, "bea", "r-2")
        await connection.execute("DELETE FROM companies WHERE id = $1", company)
    inserted, updated, deleted = await entries(connection, "companies")
    assert [(each["action"], each["actor"], each["request_id"]) for each in (inserted, updated, deleted)] == [
        ("insert", "ada", "r-1"),
        # What was said for a transaction is forgotten after it.
        ("update", None, None),
        ("delete", "bea", "r-2"),
    ]
    assert {each["entity_id"] for each in (inserted, updated, deleted)} == {company}
    assert {each["company_id"] for each in (inserted, updated, deleted)} == {company}
    assert inserted["old"] is None
    assert (inserted["new"]["name"], inserted["new"]["version"]) == ("C", 1)
    assert (updated["old"], updated["new"]) == ({"name": "C", "version": 1}, {"name": "D", "version": 2})
    assert deleted["new"] is None
    assert deleted["old"] == {**inserted["new"], "name": "D", "version": 2}
    assert inserted["ts"] < updated["ts"] < deleted["ts"]


async def test_personal_values_are_masked_and_null_stays_null(connection: Connection):
    user = await add_user(connection, "Ada")
    profile = uuid4()
    await connection.execute(
        "INSERT INTO user_profiles (id, user_id, bio) VALUES ($1, $2, 'B')", profile, user
    )
    await connection.execute(
        "UPDATE user_profiles SET bio = NULL, display_name = 'Ada', locale = 'de' WHERE id = $1", profile
    )
    await connection.execute("UPDATE users SET name = 'Bea' WHERE id = $1", user)
    [added, renamed] = await entries(connection, "users")
    assert {name: added["new"][name] for name in ("email", "email_folded", "name")} == {
        "email": "***",
        "email_folded": "***",
        "name": "***",
    }
    # That it changed is told, and not to what.
    assert (renamed["old"], renamed["new"]) == ({"name": "***"}, {"name": "***"})
    [added, changed] = await entries(connection, "user_profiles")
    assert (added["new"]["bio"], added["new"]["display_name"], added["company_id"]) == ("***", None, None)
    assert changed["old"] == {"bio": "***", "display_name": None, "locale": None}
    assert changed["new"] == {"bio": None, "display_name": "***", "locale": "de"}
    said = await connection.fetch("SELECT concat(old::text, new::text) FROM audit_logs")
    assert not [row[0] for row in said if "Ada" in row[0] or "@" in row[0]]


async def test_an_update_that_changes_nothing_is_not_told(connection: Connection):
    company = await add_company(connection)
    await connection.execute("UPDATE companies SET name = name")
    await connection.execute("UPDATE companies SET name = 'D' WHERE id = $1", uuid4())
    await connection.execute("DELETE FROM companies WHERE id = $1", uuid4())
    await connection.execute("INSERT INTO companies SELECT * FROM companies WHERE false")
    assert len(await entries(connection, "companies", company)) == 1


async def test_one_statement_writes_one_entry_for_each_row_it_changes(connection: Connection):
    await connection.execute(
        "INSERT INTO companies (id, name, slug)"
        " SELECT gen_random_uuid(), 'C' || n, 'c-' || n FROM generate_series(1, 500) n"
    )
    await connection.execute("UPDATE companies SET name = name || '!' WHERE slug LIKE 'c-1%'")
    said = await entries(connection, "companies")
    inserted = {each["entity_id"]: each["new"] for each in said if each["action"] == "insert"}
    updated = {each["entity_id"]: each for each in said if each["action"] == "update"}
    assert len(inserted) == 500
    assert len(updated) == len(said) - 500 == 111
    for id, each in updated.items():
        assert (each["old"], each["new"]) == (
            {"name": inserted[id]["name"]},
            {"name": inserted[id]["name"] + "!"},
        )


async def test_copy_and_conflicts_are_told_too(connection: Connection):
    ids = [uuid4() for _ in range(3)]
    await connection.copy_records_to_table(
        "companies", records=[(id, "C", str(id)) for id in ids], columns=["id", "name", "slug"]
    )
    assert {each["entity_id"] for each in await entries(connection, "companies")} == set(ids)
    await connection.execute(
        "INSERT INTO companies (id, name, slug) VALUES ($1, 'D', 'd'), ($2, 'D', 'e')"
        " ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        ids[0],
        uuid4(),
    )
    assert [each["action"] for each in await entries(connection, "companies", ids[0])] == ["insert", "update"]
    assert len(await entries(connection, "companies")) == 5


async def test_what_is_rolled_back_is_not_told(connection: Connection):
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await add_company(connection)
            raise ZeroDivisionError
    async with connection.transaction():
        await add_company(connection)
        with pytest.raises(asyncpg.CheckViolationError):
            async with connection.transaction():
                await connection.execute("UPDATE companies SET name = ''")
    assert [each["action"] for each in await entries(connection, "companies")] == ["insert"]


async def test_what_goes_with_a_company_is_told_as_deleted(connection: Connection):
    company = await add_company(connection)
    board, column = await add_board(connection, company)
    await connection.execute("DELETE FROM companies WHERE id = $1", company)
    for entity, id in (("companies", company), ("kanban_boards", board), ("kanban_columns", column)):
        said = await entries(connection, entity, id)
        assert [each["action"] for each in said] == ["insert", "delete"], entity
        assert {each["company_id"] for each in said} == {company}


async def test_nobody_hides_a_row_by_changing_its_id(connection: Connection):
    before, after = await add_company(connection), uuid4()
    await connection.execute("UPDATE companies SET id = $2, name = 'D' WHERE id = $1", before, after)
    assert [each["action"] for each in await entries(connection, "companies", before)] == ["insert", "delete"]
    [said] = await entries(connection, "companies", after)
    assert (said["action"], said["old"], said["new"]["name"]) == ("insert", None, "D")


async def test_what_the_database_computes_is_left_out(connection: Connection):
    company, user = await add_company(connection), await add_user(connection)
    document, event = uuid4(), uuid4()
    await connection.execute(
        "INSERT INTO documents (id, company_id, owner_id, title) VALUES ($1, $2, $3, 'D')",
        document,
        company,
        user,
    )
    await connection.execute("UPDATE documents SET body = 'words'")
    await connection.execute(
        "INSERT INTO calendar_events (id, company_id, title, starts_at, ends_at)"
        " VALUES ($1, $2, 'E', now(), now() + interval '1 hour')",
        event,
        company,
    )
    added, changed = await entries(connection, "documents", document)
    assert "search" not in added["new"]
    assert (changed["old"], changed["new"]) == ({"body": ""}, {"body": "words"})
    [added] = await entries(connection, "calendar_events", event)
    assert "period" not in added["new"]


async def test_an_entry_of_a_month_without_a_partition_finds_its_place(connection: Connection):
    names = {row[0] for row in await connection.fetch("SELECT inhrelid::regclass::text FROM pg_inherits")}
    now = datetime.now(UTC)
    months = [
        f"audit_logs_{now.year + (now.month + n - 1) // 12}_{(now.month + n - 1) % 12 + 1:02}"
        for n in range(3)
    ]
    assert {"audit_logs_default", *months} <= names
    await connection.execute(
        "INSERT INTO audit_logs (ts, action, entity, entity_id) VALUES ($1, 'insert', 'x', $2)",
        now - timedelta(days=400),
        uuid4(),
    )
    assert await connection.fetchval("SELECT count(*) FROM audit_logs_default") == 1
    await add_company(connection)
    assert await connection.fetchval(f"SELECT count(*) FROM {months[0]}") == 1


# --- which tables, and which of their columns


async def triggers(connection: Connection) -> dict[str, dict[str, list[str]]]:
    """Return the arguments of the triggers, by table and name."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in await connection.fetch(
        "SELECT tgrelid::regclass::text AS table, tgname AS name, encode(tgargs, 'escape') AS arguments"
        " FROM pg_trigger WHERE tgfoid = 'multidb_audit'::regproc"
    ):
        arguments = row["arguments"].split("\\000")[:-1]
        found.setdefault(row["table"], {})[row["name"]] = arguments
    return found


async def test_the_triggers_mask_what_the_models_mark(connection: Connection):
    found = await triggers(connection)
    assert set(found) == AUDITED
    for repository in BUILT_IN:
        if not issubclass(repository, PostgresRepository) or repository.table.name not in AUDITED:
            continue
        table = repository.table.name
        assert set(found[table]) == {f"{table}_audit_{action}" for action in ("insert", "update", "delete")}
        marked = {
            name
            for name, field in repository.model.model_fields.items()
            if any(isinstance(each, Masked) for each in everything_said_of(field.annotation, field.metadata))
        }
        marked |= {column for column, (field, _) in repository.derived.items() if field in marked}
        company = getattr(repository, "tenant", None) or ""
        for masked, left_out, named in found[table].values():
            assert set(filter(None, masked.split(","))) == marked, table
            assert set(filter(None, left_out.split(","))) == COMPUTED.get(table, set()), table
            assert named == company, table


def everything_said_of(annotation: Any, metadata: Any) -> list[Any]:
    """Return the metadata of a type, that inside `X | None` included."""
    found = [*metadata, *getattr(annotation, "__metadata__", ())]
    for inner in getattr(annotation, "__args__", ()):
        found += everything_said_of(inner, ())
    return found


async def test_only_the_triggers_may_call_the_function(connection: Connection):
    assert not await connection.fetchval(
        "SELECT has_function_privilege('multidb_tenant', 'multidb_audit()', 'EXECUTE')"
    )


async def test_it_works_in_any_schema_and_whatever_the_caller_has_put_on_the_path(connection: Connection):
    company = await add_company(connection)
    await connection.execute(
        "CREATE SCHEMA trap; CREATE TABLE trap.audit_logs (LIKE audit_logs);"
        "CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz"
        " LANGUAGE sql AS $$ SELECT '2000-01-01'::timestamptz $$;"
        "CREATE TEMP TABLE audit_logs (LIKE public.audit_logs);"
        "SET search_path = trap, pg_catalog, public; UPDATE companies SET name = 'D'; RESET search_path;"
        "DROP TABLE pg_temp.audit_logs"
    )
    assert len(await entries(connection, "companies", company)) == 2
    assert await connection.fetchval("SELECT count(*) FROM trap.audit_logs") == 0


async def test_an_applications_table_is_audited_by_the_same_words(connection: Connection):
    await connection.execute(
        "CREATE TABLE invoices (id uuid PRIMARY KEY, payer text, total numeric, doubled numeric"
        " GENERATED ALWAYS AS (total * 2) STORED, shop uuid)"
    )
    for statement in ddl.audit_triggers("invoices", masked=["payer"], left_out=["doubled"], company="shop"):
        await connection.execute(statement)
    id, shop = uuid4(), uuid4()
    await connection.execute("INSERT INTO invoices VALUES ($1, 'Ada', 1.50, DEFAULT, $2)", id, shop)
    await connection.execute("UPDATE invoices SET total = 2")
    for statement in ddl.drop_audit_triggers("invoices"):
        await connection.execute(statement)
    await connection.execute("DELETE FROM invoices")
    added, changed = await entries(connection, "invoices", id)
    assert added["new"] == {"id": str(id), "payer": "***", "total": 1.5, "shop": str(shop)}
    assert (changed["old"], changed["new"]) == ({"total": 1.5}, {"total": 2})
    assert {added["company_id"], changed["company_id"]} == {shop}
