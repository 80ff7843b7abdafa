"""The connection manager: opening, closing, loops, health."""

import asyncio
import contextvars
import socket
import threading
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from multidb import (
    ConfigurationError,
    MultiDB,
    MultiDBError,
    NewUser,
    NotOpenError,
    SystemLog,
    UnavailableError,
    uuid7,
)
from multidb.connections import check
from multidb.settings import Settings

pytestmark = pytest.mark.mongo

STORES = {
    "postgres": "postgresql://u:p@127.0.0.1:{}/d",
    "mongo": "mongodb://127.0.0.1:{}/d",
    "redis": "redis://127.0.0.1:{}/0",
}


def moved(settings: Settings, store: str, port: int, **update) -> Settings:
    """Return settings whose one store is where nothing listens."""
    return settings.model_copy(
        update={
            f"{store}_url": SecretStr(STORES[store].format(port)),
            "connect_timeout": settings.connect_timeout / 10,
            **update,
        }
    )


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are accepted and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


async def use_all(db: MultiDB) -> None:
    user = await db.users.add(NewUser(email=f"{uuid7()}@example.com", name="A"))
    await db.users.get(user.id)
    await db.system_logs.append(SystemLog(level="info", service="test", message="m"))
    await db.sessions.create(user.id)


async def test_nothing_works_before_open_or_after_close(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    calls = (
        lambda: db.users.get(uuid7()),
        db.users.count,
        lambda: db.system_logs.get(uuid7()),
        lambda: db.sessions.create(uuid7()),
    )
    for call in calls:
        with pytest.raises(NotOpenError, match="async with MultiDB"):
            await call()
    async with db:
        for call in calls:
            await call()
    for call in calls:
        with pytest.raises(NotOpenError):
            await call()


async def test_it_opens_again(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    for _ in range(3):
        async with db:
            await use_all(db)


async def test_open_and_close_are_idempotent(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    await db.open()
    await db.open()
    await use_all(db)
    await db.close()
    await db.close()


async def test_another_event_loop_is_told_so(db: MultiDB):
    outcome: list[MultiDBError] = []

    async def use() -> None:
        for call in (db.users.get(uuid7()), db.system_logs.get(uuid7()), db.sessions.create(uuid7())):
            try:
                await call
            except MultiDBError as error:
                outcome.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(use()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [type(error) for error in outcome] == [NotOpenError] * 3
    assert all("another event loop" in str(error) for error in outcome)


async def test_no_task_is_left_after_close(multidb_settings: Settings):
    before = asyncio.all_tasks()
    async with MultiDB(multidb_settings) as db:
        await asyncio.gather(*(use_all(db) for _ in range(20)))
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("store", STORES)
async def test_a_required_store_that_is_away_stops_the_opening(
    multidb_settings: Settings, store: str, unused_tcp_port: int
):
    db = MultiDB(moved(multidb_settings, store, unused_tcp_port))
    with pytest.raises(UnavailableError) as caught:
        await db.open()
    assert caught.value.store == store
    with pytest.raises(NotOpenError):
        await db.users.count()


async def test_several_stores_that_are_away_are_all_named(multidb_settings: Settings, unused_tcp_port: int):
    settings = multidb_settings
    for store in STORES:
        settings = moved(settings, store, unused_tcp_port)
    with pytest.raises(UnavailableError, match=r"postgres: .*; mongo: .*; redis: "):
        await MultiDB(settings).open()


@pytest.mark.parametrize("store", STORES)
async def test_a_degradable_store_that_is_away_does_not(
    multidb_settings: Settings, store: str, unused_tcp_port: int
):
    settings = moved(multidb_settings, store, unused_tcp_port, degradable_stores=frozenset({store}))
    async with MultiDB(settings) as db:
        health = await db.health()
        assert health.ok
        away = getattr(health, store)
        assert not away.ok
        assert not away.required
        assert away.detail
        assert sum(each.ok for each in (health.postgres, health.mongo, health.redis)) == 2


async def test_a_wrong_password_is_a_setting_even_for_a_degradable_store(multidb_settings: Settings):
    url = multidb_settings.redis_url.get_secret_value()
    scheme, _, rest = url.partition("://")
    wrong = SecretStr(f"{scheme}://:wrong-password@{rest.rpartition('@')[2]}")
    settings = multidb_settings.model_copy(
        update={"redis_url": wrong, "degradable_stores": frozenset({"redis"})}
    )
    with pytest.raises(ConfigurationError, match="MULTIDB_REDIS_URL") as caught:
        await MultiDB(settings).open()
    assert "wrong-password" not in str(caught.value)


@pytest.mark.parametrize("store", STORES)
async def test_a_server_that_never_answers_ends_at_the_deadline(
    multidb_settings: Settings, store: str, silent_port: int
):
    deadline = multidb_settings.health_timeout / 4
    # Every other timeout is longer, but for Motor's: its threads cannot be cancelled, only outlast.
    longer = dict.fromkeys(("redis_timeout", "postgres_timeout"), 30 * deadline)
    if store != "mongo":
        longer["connect_timeout"] = 30 * deadline
    settings = moved(
        multidb_settings, store, silent_port, open_timeout=deadline, health_timeout=deadline, **longer
    )
    async with asyncio.timeout(20 * deadline.total_seconds()):
        with pytest.raises(UnavailableError):
            await MultiDB(settings).open()
        health = await check(settings)
    assert not health.ok
    assert not getattr(health, store).ok
    assert getattr(health, store).detail


async def test_a_cancelled_open_leaves_nothing_open(multidb_settings: Settings, silent_port: int):
    db = MultiDB(moved(multidb_settings, "redis", silent_port))
    before = asyncio.all_tasks()
    opening = asyncio.create_task(db.open())
    while db.postgres.pool_usage() is None or db.mongo.pool_usage() is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert asyncio.all_tasks() == before
    assert db.postgres.pool_usage() is None


async def test_health_tells_what_answers(db: MultiDB):
    health = await db.health()
    assert health.ok
    for store in (health.postgres, health.mongo, health.redis):
        assert store.ok
        assert store.required
        assert store.role == "primary"
        assert store.latency is not None
        assert store.version
        assert store.version[0].isdigit()
        assert store.pool is not None
        assert 1 <= store.pool.size <= store.pool.limit
        assert store.detail is None


async def test_health_before_open_says_so(multidb_settings: Settings):
    health = await MultiDB(multidb_settings).health()
    assert not health.ok
    assert "not open" in (health.postgres.detail or "")


async def test_health_counts_connections_in_use(db: MultiDB):
    async with db.transaction():
        health = await db.health()
        assert health.postgres.pool is not None
        assert health.postgres.pool.in_use == 1


async def test_a_busy_pool_makes_callers_wait_not_fail(multidb_settings: Settings):
    settings = multidb_settings.model_copy(update={"postgres_pool_size": 2, "redis_pool_size": 2})
    async with MultiDB(settings) as db:
        await asyncio.gather(*(use_all(db) for _ in range(100)))
        assert await db.users.count() == 100


async def test_a_pool_that_stays_busy_is_a_timeout(multidb_settings: Settings):
    settings = multidb_settings.model_copy(
        update={"postgres_pool_size": 1, "postgres_timeout": multidb_settings.health_timeout / 10}
    )
    async with MultiDB(settings) as db, db.transaction():
        await db.users.count()
        async with MultiDB(settings) as other:
            assert await other.users.count() == 0
        with pytest.raises(UnavailableError):
            await asyncio.create_task(db.users.count(), context=contextvars.Context())
