"""What the tests of migrations and partitions share: commands, statements, and revisions of their own."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from multidb.settings import Settings
from multidb.stores.postgres.engine import connect

from . import programs

ROOT = Path(__file__).parents[2]

#: Nothing here takes as long: it only keeps a broken guard from hanging the suite.
AGES = 60


def environment(settings: Settings, **variables: str) -> dict[str, str]:
    """Return what is set for who migrates this database, and none of our settings but these."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MULTIDB_")}
    return {**others, "MULTIDB_POSTGRES_URL": settings.postgres_url.get_secret_value(), **variables}


def alembic_command(settings: Settings, *arguments: str) -> dict[str, Any]:
    """Return what `subprocess` needs to run `alembic` as its users do."""
    args = [sys.executable, "-m", "alembic", *arguments]
    return {"args": args, "cwd": ROOT, "env": environment(settings), "text": True}


def alembic(settings: Settings, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return programs.run("alembic", *arguments, cwd=ROOT, env=environment(settings, **variables))


async def run(settings: Settings, sql: str, *values: object) -> list[Any]:
    connection = await connect(settings)
    try:
        return await (connection.fetch(sql, *values) if values else _simply(connection, sql))
    finally:
        await connection.close()


async def _simply(connection: asyncpg.Connection, sql: str) -> list[Any]:
    """Run one statement and return its rows, or several and return none."""
    if ";" in sql.rstrip().rstrip(";"):
        await connection.execute(sql)
        return []
    return await connection.fetch(sql)


def execute(settings: Settings, sql: str, *values: object) -> list[Any]:
    return asyncio.run(run(settings, sql, *values))


async def until(seen: Callable[[], Awaitable[Any]]) -> Any:
    """Look again and again until something is there, and return it."""
    async with asyncio.timeout(AGES):
        while not (found := await seen()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # another process's doing, which no event tells
    return found


async def second_try(settings: Settings) -> None:
    """Return once a transaction that waited for a lock was given up, and begun anew."""
    begun = set[Any]()

    async def waits_again() -> bool:
        rows = await connection.fetch(
            "SELECT xact_start FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database() AND xact_start IS NOT NULL"
        )
        begun.update(row[0] for row in rows)
        return len(begun) > 1

    connection = await connect(settings)
    try:
        await until(waits_again)
    finally:
        await connection.close()


class Tree:
    """A copy of Alembic's files with no revisions but a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "migrations" / "versions").mkdir(parents=True)
        shutil.copy(ROOT / "alembic.ini", folder)
        shutil.copy(ROOT / "migrations" / "env.py", folder / "migrations")
        self._last: str | None = None

    def add(self, revision: str, *statements: str, body: str = "") -> None:
        """Add a revision on top that runs these statements, then `body`'s lines."""
        lines = [f"    op.execute({each!r})" for each in statements]
        lines += [f"    {line}" for line in body.splitlines()]
        (self.folder / "migrations" / "versions" / f"{revision}.py").write_text(
            f'"""{revision}"""\nfrom alembic import op\n\n'
            f"revision = {revision!r}\ndown_revision = {self._last!r}\n"
            "\n\ndef upgrade():\n" + "\n".join(lines) + "\n\n\ndef downgrade():\n    pass\n"
        )
        self._last = revision

    def file(self, name: str) -> Path:
        return self.folder / name
