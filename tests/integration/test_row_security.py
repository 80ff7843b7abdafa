"""Row level security: what a statement of one company reaches, whoever owns the tables."""

import asyncio
import importlib.util
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from multidb import ConfigurationError
from multidb.registry import BUILT_IN
from multidb.repositories.postgres import PostgresRepository
from multidb.settings import Settings
from multidb.stores.postgres import ddl, tables
from tests.integration.postgres import Connection, add_board, add_company, add_user, raw, sees

ROOT = Path(__file__).parents[2]

#: By table, the column with the company's id.
TENANTS = {
    repository.table.name: getattr(repository, "tenant", None)
    for repository in BUILT_IN
    if issubclass(repository, PostgresRepository) and getattr(repository, "tenant", None)
}


def revision(name: str) -> ModuleType:
    path = ROOT / "migrations" / "versions" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def owned(settings: Settings) -> AsyncIterator[Settings]:
    """Yield settings of a role that owns the database and all in it, and is no superuser."""
    name = f"app_{secrets.token_hex(8)}"
    url = urlsplit(settings.postgres_url.get_secret_value())
    async with raw(settings) as admin:
        await admin.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD 'of-a-test'; GRANT multidb_tenant TO {name};"
            f"ALTER DATABASE {url.path.strip('/')} OWNER TO {name};"
            # REASSIGN OWNED is not for what a superuser owns: the system's own is among it.
            "DO $$ DECLARE r record; BEGIN FOR r IN"
            "    SELECT oid::regclass AS name FROM pg_class"
            "    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            f" LOOP EXECUTE format('ALTER TABLE %s OWNER TO {name}', r.name); END LOOP; END $$;"
            f"ALTER FUNCTION multidb_audit() OWNER TO {name}"
        )
    login = f"{name}:of-a-test@{url.hostname}:{url.port}"
    try:
        yield settings.model_copy(update={"postgres_url": SecretStr(urlunsplit(url._replace(netloc=login)))})
    finally:
        async with raw(settings) as admin:
            await admin.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER")
            await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture(params=["superuser", "owner"])
async def connection(request: pytest.FixtureRequest, multidb_settings: Settings) -> AsyncIterator[Connection]:
    """A connection of a superuser, and of an owner that is none."""
    as_owner = owned(multidb_settings) if request.param == "owner" else nullcontext(multidb_settings)
    async with as_owner as settings, raw(settings) as opened:
        yield opened


@dataclass(frozen=True)
class Filled:
    """A company, and what hangs on it."""

    company: UUID
    user: UUID
    board: UUID
    column: UUID

    def insertions(self, company: UUID) -> dict[str, str]:
        """Return statements that add a row to each table of a tenant, as this company's but for the name."""
        new, user, hour = "gen_random_uuid()", f"'{self.user}'", "now(), now() + interval '1 hour'"
        board, column = f"'{self.board}'", f"'{self.column}'"
        rows = {
            "company_users": ("user_id, role", f"{user}, 'owner'"),
            "documents": ("owner_id, title", f"{user}, 'D'"),
            "ai_processing_jobs": ("queue, kind, payload", "'q', 'k', '{}'"),
            "forms": ("name, definition", f"{new}, '{{}}'"),
            "calendar_events": ("title, starts_at, ends_at", f"'E', {hour}"),
            "kanban_boards": ("name", "'B'"),
            "kanban_columns": ("board_id, name, rank", f"{board}, 'C', {new}"),
            "kanban_cards": ("board_id, column_id, title, rank", f"{board}, {column}, 'C', {new}"),
        }
        return {
            table: f"INSERT INTO {table} (id, company_id, {names}) VALUES ({new}, '{company}', {values})"
            for table, (names, values) in rows.items()
        }


async def fill(connection: Connection) -> Filled:
    """Add a company with a row in each table of a tenant."""
    company = await add_company(connection)
    filled = Filled(company, await add_user(connection), *await add_board(connection, company))
    for statement in filled.insertions(company).values():
        await connection.execute(statement)
    return filled


async def test_every_table_with_a_company_has_a_policy(connection: Connection):
    guarded = {
        row["relname"]
        for row in await connection.fetch(
            "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        )
    }
    policies = {
        row["tablename"]: row["policyname"] for row in await connection.fetch("SELECT * FROM pg_policies")
    }
    with_company = {table.name for table in tables.metadata.sorted_tables if "company_id" in table.c}
    assert guarded == with_company | {"companies"} == {*TENANTS, "audit_logs"}
    assert policies == {table: f"{table}_tenant" for table in guarded}


async def test_a_company_reads_its_own_rows_only(connection: Connection):
    mine, other = await fill(connection), await fill(connection)
    for table, column in (*TENANTS.items(), ("audit_logs", "company_id")):
        everybodys = f"SELECT DISTINCT {column} FROM {table}"
        async with sees(connection, mine.company):
            assert [row[0] for row in await connection.fetch(everybodys)] == [mine.company], table
        async with sees(connection, None):
            assert await connection.fetch(everybodys) == [], table
        # Outside, all is there again: nothing of the role or the setting is left.
        assert {row[0] for row in await connection.fetch(everybodys)} >= {mine.company, other.company}, table


async def test_a_company_changes_its_own_rows_only(connection: Connection):
    mine, other = await fill(connection), await fill(connection)
    for table, column in TENANTS.items():
        change = f"UPDATE {table} SET version = version + 1"
        theirs = f"WHERE {column} = '{other.company}'"
        async with sees(connection, mine.company):
            assert await connection.execute(f"{change} {theirs}") == "UPDATE 0", table
            assert await connection.execute(f"DELETE FROM {table} {theirs}") == "DELETE 0", table
            assert await connection.execute(change) != "UPDATE 0", table
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"UPDATE {table} SET {column} = '{other.company}'")


async def test_a_company_adds_its_own_rows_only(connection: Connection):
    mine, other = await fill(connection), await fill(connection)
    async with sees(connection, mine.company):
        await connection.execute("DELETE FROM company_users")
        for statement in mine.insertions(mine.company).values():
            assert await connection.execute(statement) == "INSERT 0 1"
    for statement in (
        *mine.insertions(other.company).values(),
        *other.insertions(other.company).values(),
        "INSERT INTO companies (id, name, slug) VALUES (gen_random_uuid(), 'C', 'c')",
    ):
        async with sees(connection, mine.company):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_nobody_of_a_company_writes_the_audit_log_or_reads_past_its_policy(connection: Connection):
    mine = await fill(connection)
    for statement in (
        "DELETE FROM audit_logs",
        "UPDATE audit_logs SET actor = 'somebody else'",
        "INSERT INTO audit_logs SELECT * FROM audit_logs",
        # Partitions have no policy of their own.
        "SELECT * FROM audit_logs_default",
        # What belongs to no company is not for one company's statements.
        "SELECT * FROM users",
        "TRUNCATE forms",
    ):
        async with sees(connection, mine.company):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_the_index_is_used_within_a_company(connection: Connection):
    mine = await fill(connection)
    async with sees(connection, mine.company):
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(
            f"EXPLAIN SELECT * FROM documents WHERE company_id = '{mine.company}' ORDER BY id LIMIT 10"
        )
    lines = "\n".join(row[0] for row in plan)
    assert "documents_company_id_id_key" in lines
    assert "Sort" not in lines


async def test_many_databases_may_make_the_role_at_once(multidb_settings: Settings):
    """The tests' own role is long there, so the revision's text is tried on another."""
    name = f"tenant_{secrets.token_hex(8)}"
    making = revision("0006_row_level_security.py").ROLE.replace("multidb_tenant", name)
    member = f"app_{secrets.token_hex(8)}"

    async def make() -> None:
        async with raw(multidb_settings) as connection:
            await connection.execute(f"SET ROLE {member}")
            await connection.execute(making)

    async with raw(multidb_settings) as admin:
        await admin.execute(
            f"CREATE ROLE {member} CREATEROLE; GRANT CREATE, USAGE ON SCHEMA public TO {member}"
        )
        try:
            await asyncio.gather(*(make() for _ in range(8)))
            assert await admin.fetchval("SELECT pg_has_role($1, $2, 'MEMBER')", member, name)
        finally:
            await admin.execute(f"DROP OWNED BY {name}, {member}; DROP ROLE {name}; DROP ROLE {member}")


async def test_an_applications_table_is_guarded_by_the_same_words(connection: Connection):
    mine, other = await fill(connection), await fill(connection)
    await connection.execute("CREATE TABLE invoices (id uuid PRIMARY KEY, company_id uuid NOT NULL)")
    for statement in ddl.tenant_policy("invoices"):
        await connection.execute(statement)
    for company in (mine.company, other.company):
        await connection.execute("INSERT INTO invoices VALUES ($1, $2)", uuid4(), company)
    async with sees(connection, mine.company):
        assert await connection.fetchval("SELECT count(*) FROM invoices") == 1
    for statement in ddl.drop_tenant_policy("invoices"):
        await connection.execute(statement)
    assert not await connection.fetch("SELECT FROM pg_policies WHERE tablename = 'invoices'")
    async with sees(connection, mine.company):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM invoices")


@pytest.mark.parametrize("name", ["", "Invoices", "a b", "a;", "a'b", 'a"b', "public.a", "a,b"])
def test_a_name_that_is_none_makes_no_statement(name: str):
    for make in (ddl.tenant_policy, ddl.drop_tenant_policy, ddl.audit_triggers, ddl.drop_audit_triggers):
        with pytest.raises(ConfigurationError, match="plain lower-case name"):
            make(name)
    with pytest.raises(ConfigurationError):
        ddl.tenant_policy("a", name)
    with pytest.raises(ConfigurationError):
        ddl.audit_triggers("a", masked=[name])
