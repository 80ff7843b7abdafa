"""How a PostgreSQL database differs from what the revisions make.

The revisions themselves say what should be there: in one transaction, which is rolled back, they
run into an empty schema of their own, and the catalog of that one is held against the catalog of
the real one. So everything that a revision can write is seen, also what Alembic does not compare:
enum labels, CHECKs, predicates, triggers and their functions, policies, grants.

- Names are looked for in the scratch schema first. The schema that is checked comes last, and only
  if extensions are installed there, whose types and operator classes must be found.
- A revision that reaches out of the scratch schema all the same is noticed, for the other one
  must look the same after it as before.
- Nothing is ever committed, so nobody sees the scratch schema, and a killed check leaves nothing.
"""

import asyncio
import re
import secrets
from functools import partial
from itertools import takewhile
from typing import Any

import asyncpg
from alembic import command
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from multidb.errors import ConfigurationError
from multidb.ops.environment import alembic_config, migration_engine, only_run
from multidb.ops.exclusive import brief
from multidb.ops.fingerprint import BODY, Fingerprint, Part, fingerprint
from multidb.settings import PostgresSettings
from multidb.stores.postgres.errors import translating

__all__ = ["compare", "differences"]

_OPERATION = "migrate.check"

#: Longer definitions, such as those of functions, are not repeated in a line.
_LONGEST = 240

#: The scratch schema, then where extensions are; the real schema last, if some are there.
_SEARCH_PATH = """
    SELECT set_config('search_path', string_agg(quote_ident(name), ', ' ORDER BY place), true)
    FROM (SELECT CAST(:scratch AS name) AS name, 0 AS place
          UNION
          SELECT n.nspname, CASE n.nspname WHEN CAST(:real AS name) THEN 2 ELSE 1 END
          FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
          WHERE n.nspname <> 'pg_catalog') AS path
"""

_OPEN_TO_ALL = """
    SELECT EXISTS (SELECT FROM pg_namespace, aclexplode(nspacl)
                   WHERE nspname = :schema AND grantee = 0 AND privilege_type = 'USAGE')
"""

#: What other parts belong to: where it is missing, that says enough.
_HOLDING = {"table", "view", "sequence", "function"}

_CONCURRENTLY = re.compile(r"^(\s*(?:CREATE (?:UNIQUE )?|DROP )INDEX) CONCURRENTLY\b", re.IGNORECASE)


def differences(settings: PostgresSettings) -> list[str]:
    """Return how the database differs from what the revisions make, a line each; none if it does not.

    Changes nothing. What the revisions do not know, such as an application's tables, is not looked
    at, but what was added to the tables they make is told. Blocks.

    Raises: UnavailableError; ConfigurationError if the user may not make a schema, or a revision
    does not keep to the one it runs in; ConflictError, retryable, if others' locks were in the way.
    """
    with only_run(settings), translating(_OPERATION):
        return asyncio.run(_differences(settings))


async def _differences(settings: PostgresSettings) -> list[str]:
    engine = migration_engine(settings)
    try:
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            await brief(raw, settings)
            # One snapshot: what others do meanwhile must not look like the revisions' doing.
            await connection.execution_options(isolation_level="REPEATABLE READ")
            try:
                return await connection.run_sync(partial(_examine, settings))
            finally:
                await connection.rollback()
    finally:
        await engine.dispose()


def _examine(settings: PostgresSettings, connection: Connection) -> list[str]:
    real = connection.scalar(text("SELECT current_schema()"))
    if real is None:
        raise ConfigurationError("the search_path names no schema that exists", operation=_OPERATION)
    config = alembic_config(settings)
    scratch = f"multidb_check_{secrets.token_hex(8)}"
    _make(connection, scratch, real)
    behind = _behind(connection, ScriptDirectory.from_config(config), real)
    found = fingerprint(connection, real)
    connection.execute(text(_SEARCH_PATH), {"scratch": scratch, "real": real})
    event.listen(connection, "before_cursor_execute", _in_a_transaction, retval=True)
    config.attributes["connection"] = connection
    command.upgrade(config, "heads")
    expected = fingerprint(connection, scratch, read_as=real)
    if _of_schema(fingerprint(connection, real)) != _of_schema(found):
        raise ConfigurationError(
            "a revision changes objects outside the schema it runs in, so what it makes cannot be"
            " compared: it must not name a schema",
            operation=_OPERATION,
        )
    return [*behind, *compare(expected, found)]


def _of_schema(parts: Fingerprint) -> Fingerprint:
    """Return the parts less the extensions, which are the database's."""
    return {part: definition for part, definition in parts.items() if part.kind != "extension"}


def _behind(connection: Connection, script: ScriptDirectory, schema: str) -> list[str]:
    there = MigrationContext.configure(connection, opts={"version_table_schema": schema}).get_current_heads()
    try:
        # Of a branch that depends on another one the table names the first alone.
        reached = {revision.revision for revision in script.get_all_current(there)}
    except CommandError:
        # A revision of a newer release, or in a folder that the settings do not name.
        reached = set(there)
    missing = sorted(set(script.get_heads()) - reached)
    if not missing:
        return []
    return [f"revision: the database is at {', '.join(sorted(there)) or 'none'}, not at {', '.join(missing)}"]


def compare(expected: Fingerprint, found: Fingerprint) -> list[str]:
    """Return what is missing from `found`, there without need, or different, a line each."""
    wanted, there = _holders(expected), _holders(found)
    # Whom else the operator lets in is not the revisions' business, but who these let in, and everybody, is.
    roles = {"PUBLIC", *(part.name for part in expected if _is_grant(part))}
    lines: list[str] = []
    for part in sorted(expected.keys() | found.keys()):
        holder = part.table or (part.name if part.kind == BODY else "")
        if part not in found:
            if part.kind in _HOLDING or not holder or holder in there:
                lines.append(f"missing {_label(part)}{_told(part, expected[part])}")
        elif part not in expected:
            if (holder in wanted or part.kind == "grants on the schema") and (
                not _is_grant(part) or part.name in roles
            ):
                lines.append(f"unexpected {_label(part)}{_told(part, found[part])}")
        elif found[part] != expected[part]:
            lines.append(f"{_label(part)} {_contrast(found[part], expected[part])}")
    return lines


def _holders(parts: Fingerprint) -> set[str]:
    return {part.table or part.name for part in parts if part.kind in _HOLDING}


def _is_grant(part: Part) -> bool:
    return part.kind.startswith("grants")


def _label(part: Part) -> str:
    match part:
        case Part(kind, table, "") if kind in _HOLDING:
            return f"{kind} {table}"
        case Part("column", table, name):
            return f"column {table}.{name}"
        case Part(kind, table, name) if _is_grant(part):
            return f"{kind}{' ' * bool(table)}{table} to {name}"
        case Part(kind, "", name):
            return f"{kind} {name}"
        case Part(kind, table, name):
            return f"{kind}{' ' * bool(name)}{name} of {table}"


def _told(part: Part, definition: str) -> str:
    line = " ".join(definition.split())
    return f": {line}" if 0 < len(line) <= _LONGEST and part.kind != "table" else ""


def _contrast(found: str, expected: str) -> str:
    is_so, should_be = " ".join(found.split()), " ".join(expected.split())
    if is_so == should_be:
        return "differs in white space"
    if max(len(is_so), len(should_be)) > _LONGEST:
        # From shortly before the first difference.
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(is_so, should_be, strict=False))
        start = max(0, sum(1 for _ in alike) - 20)
        is_so, should_be = (f"…{line[start : start + _LONGEST // 2]}…" for line in (is_so, should_be))
    return f"is {is_so}, not {should_be}"


def _make(connection: Connection, scratch: str, real: str) -> None:
    try:
        connection.exec_driver_sql(f"CREATE SCHEMA {scratch}")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != asyncpg.InsufficientPrivilegeError.sqlstate:
            raise
        raise ConfigurationError(
            "the check makes a schema, which it rolls back, and the user of MULTIDB_POSTGRES_URL may not:"
            " GRANT CREATE ON DATABASE … TO …",
            operation=_OPERATION,
        ) from error
    # A revision may let a role in only where not everybody is in anyway.
    if connection.scalar(text(_OPEN_TO_ALL), {"schema": real}):
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {scratch} TO PUBLIC")


def _in_a_transaction(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    """Make an index of the empty scratch tables the plain way: the other cannot be rolled back."""
    return _CONCURRENTLY.sub(r"\1", statement), parameters
