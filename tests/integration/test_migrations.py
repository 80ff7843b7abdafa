"""PostgreSQL's schema, by `alembic` and by multidb's own calls."""

import asyncio
import os
from pathlib import Path

import pytest

from multidb import ConfigurationError, StoreError, UnavailableError
from multidb.ops import migrations
from multidb.settings import Settings
from multidb.stores.postgres.engine import connect

from . import programs
from .schema_changes import ROOT, alembic

HEAD = max(path.name for path in (ROOT / "migrations" / "versions").glob("*.py"))[:4]


async def tables(settings: Settings) -> set[str]:
    connection = await connect(settings)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()
    return {row[0] for row in rows}


def test_alembic_goes_up_down_and_up_again(empty: Settings):
    for command in (("upgrade", "head"), ("downgrade", "base"), ("upgrade", "head")):
        done = alembic(empty, *command)
        assert done.returncode == 0, done.stderr
    assert "(head)" in alembic(empty, "current").stdout
    check = alembic(empty, "check")
    assert check.returncode == 0, check.stdout + check.stderr


def test_alembic_prints_sql_without_a_database(empty: Settings):
    nowhere = empty.model_copy(
        update={"postgres_url": type(empty.postgres_url)("postgresql://u:p@127.0.0.1:1/nowhere")}
    )
    done = alembic(nowhere, "upgrade", "head", "--sql")
    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE users" in done.stdout
    assert "DROP TABLE users" in alembic(nowhere, "downgrade", "head:base", "--sql").stdout


def test_alembic_without_a_url_names_the_variable(empty: Settings, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MULTIDB_")}
    done = programs.run("alembic", "-c", str(ROOT / "alembic.ini"), "current", cwd=tmp_path, env=environment)
    assert done.returncode != 0
    assert "MULTIDB_POSTGRES_URL is required" in done.stderr


def test_the_printed_sql_makes_the_same_schema(empty: Settings):
    async def run(sql: str) -> None:
        connection = await connect(empty)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    asyncio.run(run(migrations.upgrade(empty, sql=True)))
    assert migrations.check(empty) == []
    assert migrations.current(empty) == HEAD


def test_upgrade_is_idempotent_and_tells_where_it_is(empty: Settings):
    assert migrations.current(empty) is None
    migrations.upgrade(empty)
    migrations.upgrade(empty)
    assert migrations.current(empty) == HEAD
    assert migrations.check(empty) == []
    migrations.downgrade(empty, "base")
    assert migrations.current(empty) is None
    assert asyncio.run(tables(empty)) == {"alembic_version"}


def test_check_names_what_differs(empty: Settings):
    assert any("users" in line for line in migrations.check(empty))
    migrations.upgrade(empty)

    async def change() -> None:
        connection = await connect(empty)
        try:
            await connection.execute("ALTER TABLE users DROP COLUMN name; DROP INDEX companies_slug_key")
        finally:
            await connection.close()

    asyncio.run(change())
    lines = migrations.check(empty)
    assert any("name" in line and "users" in line for line in lines)
    assert any("companies_slug_key" in line for line in lines)


def test_an_unknown_revision_is_refused(empty: Settings):
    with pytest.raises(ConfigurationError, match="'nonsense'"):
        migrations.upgrade(empty, "nonsense")


def test_a_database_that_is_away_is_unavailable(empty: Settings, unused_tcp_port: int):
    away = type(empty.postgres_url)(f"postgresql://u:p@127.0.0.1:{unused_tcp_port}/d")
    with pytest.raises(UnavailableError):
        migrations.upgrade(empty.model_copy(update={"postgres_url": away}))


def test_a_failed_migration_leaves_nothing(empty: Settings):
    """A table in the way of the second half: the first half must not stay."""

    async def stand_in_the_way() -> None:
        connection = await connect(empty)
        try:
            await connection.execute("CREATE TABLE users (n int)")
        finally:
            await connection.close()

    asyncio.run(stand_in_the_way())
    with pytest.raises(StoreError, match="migrate"):
        migrations.upgrade(empty)
    assert asyncio.run(tables(empty)) == {"users"}
