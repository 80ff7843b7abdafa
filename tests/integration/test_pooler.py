"""Behind PgBouncer, which gives the statements of one session to whichever connection is free.

Tests that try the library without it are run through it here; what only it can break is below.
"""
# ruff: noqa: F401 - what is imported is run

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from multidb import AlreadyExistsError, ConfigurationError, MultiDB, NewUser, UnavailableError, uuid7
from multidb.ops import migrations
from multidb.settings import Settings
from tests.contract.subjects import CALENDAR_EVENTS, USERS, RowSubject
from tests.contract.test_reading import test_items_added_between_pages_repeat_nothing
from tests.contract.test_writing import (
    test_add_many_stores_all,
    test_count_and_exists,
    test_of_many_updates_of_one_version_one_wins,
    test_restore_brings_the_row_back,
)

from .pooler import pooled
from .postgres import raw
from .test_bulk import test_cancelled_midway_leaves_nothing
from .test_shared_adds import (
    test_a_duplicate_fails_only_its_caller,
    test_a_rolled_back_transaction_takes_nobodys_adds_along,
)
from .test_tenancy import (
    ours,
    test_batches_of_two_companies_never_mix,
    test_no_connection_keeps_a_scope,
    test_nothing_leaks,
    theirs,
)
from .test_transactions import (
    test_a_cancellation_inside_rolls_back_and_gives_the_connection_back,
    test_a_cancelled_statement_gives_the_connection_back,
    test_a_connection_killed_inside_is_unavailable_and_replaced,
    test_a_failure_caught_inside_a_savepoint_leaves_the_outer_one_usable,
    test_a_savepoint_rolls_back_alone,
    test_a_serialization_failure_is_replayed_from_the_start,
    test_a_transaction_that_takes_too_long_is_rolled_back,
    test_read_only_refuses_writes,
    test_repeatable_read_sees_one_moment,
    user,
)
from .test_upsert import test_of_a_new_key_many_upserts_make_one_row

pytestmark = pytest.mark.pgbouncer

BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'multidb' AND datname = current_database()"
)


@pytest.fixture
async def multidb_settings(multidb_settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    with pooled(multidb_settings, tmp_path) as settings:
        yield settings


@pytest.fixture(params=(USERS, CALENDAR_EVENTS), ids=lambda subject: subject.name)
async def subject(request: pytest.FixtureRequest, db: MultiDB) -> RowSubject:
    chosen: RowSubject = request.param
    await chosen.prepare(db)
    return chosen


def new_user(n: int) -> NewUser:
    return NewUser(email=f"user{n}@example.com", name="Ada")


async def test_many_sessions_share_few_connections(db: MultiDB, multidb_settings: Settings):
    users = await asyncio.gather(*(db.users.add(new_user(n)) for n in range(100)))

    async def read(n: int) -> None:
        with db.uncached():
            assert await db.users.get(users[n].id) == users[n]
        assert len((await db.users.find(name="Ada", limit=10)).items) == 10
        async with db.transaction():
            await db.users.update(users[n].id, name=f"Ada {n}")
            assert (await db.users.fetch(users[n].id)).name == f"Ada {n}"

    await asyncio.gather(*map(read, range(100)))
    usage = db.postgres.pool_usage()
    async with raw(multidb_settings) as outside:
        backends = await outside.fetch(BACKENDS)
    assert usage is not None
    assert 0 < len(backends) < usage.size


async def test_many_rows_are_copied_through_it(db: MultiDB):
    async with db.transaction():
        assert await db.users.add_many(map(new_user, range(5_001))) == 5_001
        with pytest.raises(AlreadyExistsError):
            await db.users.add_many([new_user(5_001), new_user(5_000)])
    assert await db.users.count() == 5_001


async def test_without_the_setting_it_is_said_which_one_is_missing(multidb_settings: Settings):
    settings = multidb_settings.model_copy(
        update={"postgres_prepared_statements": True, "postgres_pool_size": 1}
    )
    async with MultiDB(settings) as db, MultiDB(settings) as other:
        await db.users.count()
        async with other.transaction():  # has the connection on which that was prepared
            with pytest.raises(ConfigurationError, match="MULTIDB_POSTGRES_PREPARED_STATEMENTS=false"):
                await asyncio.create_task(db.users.count(), context=Context())


async def test_killed_connections_are_replaced_and_nothing_is_lost(db: MultiDB, multidb_settings: Settings):
    added: list[UUID] = []
    errors: list[Exception] = []

    async def write() -> None:
        while len(errors) < 16 or len(added) < 200:
            new = [NewUser(email=f"{uuid7()}@example.com", name=name) for name in ("first", "second")]
            try:
                async with db.transaction():
                    for each in new:
                        await db.users.add(each)
            except Exception as error:
                errors.append(error)
            else:
                added.extend(each.id for each in new)

    async with raw(multidb_settings) as outside, asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(write())
        while len(errors) < 16:
            await outside.fetch(f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS})")
    assert {type(error) for error in errors} == {UnavailableError}
    assert set(added) == set(await db.users.get_many(added))
    assert await db.users.count(name="first") == await db.users.count(name="second")
    usage = db.postgres.pool_usage()
    assert usage is not None
    assert usage.in_use == 0


async def test_the_engine_keeps_no_statements_either(multidb_settings: Settings):
    settings = multidb_settings.model_copy(update={"postgres_pool_size": 1})
    async with (
        MultiDB(settings) as db,
        MultiDB(settings) as other,
        db.postgres.engine.connect() as connection,
    ):
        for _ in range(2):
            assert await connection.scalar(text("SELECT 1")) == 1
            await connection.commit()
            async with other.transaction():  # has the connection on which that was prepared
                assert await connection.scalar(text("SELECT 1")) == 1
                await connection.commit()


async def test_migrations_go_past_it(multidb_settings: Settings):
    await asyncio.to_thread(migrations.upgrade, multidb_settings)
    async with raw(multidb_settings) as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == connection.get_server_pid()


async def test_migrations_do_not_go_through_it_unless_told_to(multidb_settings: Settings):
    through = multidb_settings.model_copy(update={"migration_url": None})
    with pytest.raises(ConfigurationError, match="MULTIDB_MIGRATION_URL"):
        await asyncio.to_thread(migrations.upgrade, through)
    told = through.model_copy(update={"migration_url": through.postgres_url})
    await asyncio.to_thread(migrations.upgrade, told)
