"""Migrations that meet: each other, others' locks, and their own end."""

import asyncio
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from multidb import ConflictError, StoreError
from multidb.ops import migrations
from multidb.ops.exclusive import LOCK_KEY
from multidb.settings import Settings
from multidb.stores.postgres.engine import connect
from multidb.testing import empty_database

from .schema_changes import ROOT, Tree, alembic, alembic_command, execute, run, second_try, until

REVISIONS = len(list((ROOT / "migrations" / "versions").glob("*.py")))

TRIED = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()"
HELD = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"


def hurried(settings: Settings, *, timeout: float = 60, lock_timeout: float = 0.05) -> Settings:
    return settings.model_copy(
        update={
            "migration_timeout": timedelta(seconds=timeout),
            "migration_lock_timeout": timedelta(seconds=lock_timeout),
        }
    )


@asynccontextmanager
async def holding(settings: Settings, sql: str, *values: object) -> Any:
    """Another session, in a transaction in which it has run this."""
    connection = await connect(settings)
    try:
        await connection.execute("BEGIN")
        await connection.fetch(sql, *values)
        yield connection
    finally:
        await connection.close()


def another_migration(settings: Settings) -> Any:
    return holding(settings, "SELECT pg_advisory_lock($1)", LOCK_KEY)


class TestMigratingAtOnce:
    @pytest.mark.parametrize("number", [3, pytest.param(10, marks=pytest.mark.torture)])
    async def test_processes_apply_each_revision_once(self, empty: Settings, number: int) -> None:
        command = alembic_command(empty, "upgrade", "head")
        async with another_migration(empty) as other:
            with ExitStack() as stack:
                processes = [
                    stack.enter_context(subprocess.Popen(**command, stderr=subprocess.PIPE))  # noqa: ASYNC220
                    for _ in range(number)
                ]
                # Let go of once all are there: else the first has often done it before the last starts.
                await until(
                    lambda: run(empty, f"SELECT 1 FROM ({TRIED}) AS tried HAVING count(*) = {number}")
                )
                other.terminate()
                said = [(await asyncio.to_thread(process.communicate))[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * number, said
        assert sum(words.count("Running upgrade") for words in said) == REVISIONS
        assert await asyncio.to_thread(migrations.check, empty) == []

    def test_threads_of_one_process_may_migrate_several_databases(self, multidb_servers: Settings) -> None:
        """Alembic has one context for the whole process."""
        with ExitStack() as stack, ThreadPoolExecutor() as pool:
            databases = [stack.enter_context(empty_database(multidb_servers)) for _ in range(4)]
            list(pool.map(migrations.upgrade, databases))
            assert {migrations.current(each) for each in databases} == {migrations.current(multidb_servers)}
            assert list(pool.map(migrations.check, databases)) == [[]] * 4

    async def test_who_waits_goes_on_when_the_other_one_is_gone(self, empty: Settings) -> None:
        async with another_migration(empty) as other:
            waiting = asyncio.create_task(asyncio.to_thread(migrations.upgrade, empty))
            await until(lambda: run(empty, TRIED))
            other.terminate()
            await waiting
        assert await asyncio.to_thread(migrations.check, empty) == []

    async def test_waiting_ends(self, empty: Settings) -> None:
        async with another_migration(empty):
            with pytest.raises(
                ConflictError, match=r"another migration .* MULTIDB_MIGRATION_TIMEOUT"
            ) as caught:
                await asyncio.to_thread(migrations.upgrade, hurried(empty, timeout=0.2))
            done = await asyncio.to_thread(alembic, empty, "upgrade", "head", MULTIDB_MIGRATION_TIMEOUT="0.2")
        assert caught.value.retryable
        assert done.returncode != 0
        assert "another migration of this database is under way" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert not await run(empty, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'")

    async def test_who_only_looks_need_not_wait(self, multidb_settings: Settings) -> None:
        async with another_migration(multidb_settings):
            for arguments in (("current",), ("check",)):
                done = await asyncio.to_thread(
                    alembic, multidb_settings, *arguments, MULTIDB_MIGRATION_TIMEOUT="0.001"
                )
                assert done.returncode == 0, done.stderr
            assert await asyncio.to_thread(migrations.check, multidb_settings) == []

    def test_a_failed_migration_lets_go(self, empty: Settings) -> None:
        execute(empty, "CREATE TABLE companies (n int)")
        with pytest.raises(StoreError, match="migrate"):
            migrations.upgrade(empty)
        execute(empty, "DROP TABLE companies")
        migrations.upgrade(hurried(empty, timeout=0.001))
        assert migrations.check(empty) == []

    async def test_a_killed_migration_lets_go(self, empty: Settings, tree: Tree) -> None:
        tree.add("one", "SELECT pg_sleep(3600)")
        command = alembic_command(empty, "-c", str(tree.file("alembic.ini")), "upgrade", "head")
        with subprocess.Popen(**command, stderr=subprocess.DEVNULL) as process:  # noqa: ASYNC220
            await until(lambda: run(empty, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
            assert await run(empty, HELD)
            process.send_signal(signal.SIGKILL)
        await until(lambda: run(empty, f"SELECT 1 WHERE NOT EXISTS ({HELD})"))

    async def test_it_does_not_stand_in_the_way_of_an_index_built_concurrently(
        self, empty: Settings, tree: Tree
    ) -> None:
        """One that waited inside a statement would, and the builder holds the lock it waits for."""
        tree.add("one", "CREATE TABLE things (n int)")
        tree.add(
            "two",
            body="with op.get_context().autocommit_block():\n"
            "    op.create_index('things_n_idx', 'things', ['n'], postgresql_concurrently=True)",
        )
        async with another_migration(empty) as other:
            waiting = [asyncio.create_task(asyncio.to_thread(migrations.upgrade, empty)) for _ in range(3)]
            await until(lambda: run(empty, TRIED))
            other.terminate()
            await asyncio.gather(*waiting)
        assert await run(empty, "SELECT 1 FROM pg_indexes WHERE indexname = 'things_n_idx'")


class TestOthersLocks:
    async def test_a_lock_is_given_up_and_tried_again(self, empty: Settings, tree: Tree) -> None:
        tree.add("one", "CREATE TABLE gate (n int)")
        migrating = hurried(empty)
        await asyncio.to_thread(migrations.upgrade, migrating)
        tree.add("two", "ALTER TABLE gate ADD COLUMN m int")
        async with holding(empty, "SELECT * FROM gate"):
            task = asyncio.create_task(asyncio.to_thread(migrations.upgrade, migrating))
            await second_try(empty)
            assert not task.done()
        await task
        assert await run(empty, "SELECT m FROM gate") == []

    async def test_a_retry_goes_on_where_it_failed_and_no_further(self, empty: Settings, tree: Tree) -> None:
        """`+2` is two revisions, also where the first was committed before the second was retried."""
        await run(empty, "CREATE TABLE gate (n int)")
        tree.add("one", "CREATE TABLE first (n int)")
        tree.add("two", "CREATE TABLE second (n int)", "ALTER TABLE gate ADD COLUMN m int")
        tree.add("three", "CREATE TABLE third (n int)")
        migrating = hurried(empty)
        async with holding(empty, "SELECT * FROM gate"):
            task = asyncio.create_task(asyncio.to_thread(migrations.upgrade, migrating, "+2"))
            await second_try(empty)
            assert await asyncio.to_thread(migrations.current, empty) == "one"
        await task
        assert await asyncio.to_thread(migrations.current, empty) == "two"

    async def test_trying_again_ends_and_leaves_nothing(self, empty: Settings, tree: Tree) -> None:
        await run(empty, "CREATE TABLE gate (n int)")
        tree.add("one", "CREATE TABLE first (n int)", "ALTER TABLE gate ADD COLUMN m int")
        async with holding(empty, "SELECT * FROM gate"):
            with pytest.raises(ConflictError, match="MULTIDB_MIGRATION_TIMEOUT") as caught:
                await asyncio.to_thread(migrations.upgrade, hurried(empty, timeout=0.3))
        assert caught.value.retryable
        tables = await run(empty, "SELECT relname FROM pg_stat_user_tables")
        assert [row[0] for row in tables] == ["gate"]

    async def test_the_table_of_revisions_may_be_locked_too(self, multidb_settings: Settings) -> None:
        async with holding(multidb_settings, "LOCK TABLE alembic_version"):
            task = asyncio.create_task(asyncio.to_thread(migrations.upgrade, hurried(multidb_settings)))
            await second_try(multidb_settings)
        await task

    async def test_a_deadlock_with_the_application_is_tried_again(self, empty: Settings, tree: Tree) -> None:
        await run(empty, "CREATE TABLE gate (n int); CREATE TABLE yard (n int)")
        tree.add("one", "ALTER TABLE gate ADD COLUMN m int", "ALTER TABLE yard ADD COLUMN m int")
        async with holding(empty, "SET LOCAL deadlock_timeout = '10min'") as other:
            await other.execute("LOCK TABLE yard")
            task = asyncio.create_task(asyncio.to_thread(migrations.upgrade, hurried(empty, lock_timeout=2)))
            await until(lambda: run(empty, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
            # Now each waits for the other, and the migration is the one that looks for deadlocks.
            await other.execute("LOCK TABLE gate")
        await task
        assert await asyncio.to_thread(migrations.current, empty) == "one"

    def test_a_migration_sets_limits_for_itself(self, empty: Settings, tree: Tree) -> None:
        tree.add(
            "one",
            "CREATE TABLE limits AS SELECT name, setting FROM pg_settings WHERE name IN"
            " ('lock_timeout', 'idle_in_transaction_session_timeout', 'client_connection_check_interval')",
        )
        migrations.upgrade(hurried(empty, lock_timeout=0.0001))
        assert dict(execute(empty, "SELECT name, setting FROM limits")) == {
            "client_connection_check_interval": "1000",
            "idle_in_transaction_session_timeout": "60000",
            "lock_timeout": "1",
        }
