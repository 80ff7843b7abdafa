"""The connection manager: opening, closing, loops, health."""

import asyncio
import contextvars
import random
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from multidb import (
    ConfigurationError,
    MultiDB,
    MultiDBError,
    NewCompany,
    NewUser,
    NotOpenError,
    SystemLog,
    UnavailableError,
    uuid7,
)
from multidb.connections import check
from multidb.repositories.session_history import Ended
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


async def test_a_second_open_changes_nothing_even_cancelled_or_elsewhere(db: MultiDB):
    second = asyncio.create_task(db.open())
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await use_all(db)

    refused: list[BaseException] = []

    def elsewhere(call) -> None:
        try:
            asyncio.run(call())
        except NotOpenError as error:
            refused.append(error)

    for call in (db.open, db.close):
        await asyncio.to_thread(elsewhere, call)
    assert len(refused) == 2
    assert all("another event loop" in str(error) for error in refused)
    await use_all(db)


def test_it_can_be_opened_anew_after_its_loop_ended_without_closing_it(multidb_servers: Settings):
    db = MultiDB(multidb_servers)

    async def abandon() -> None:
        await db.redis.open()
        db._connections._loop = asyncio.get_running_loop()
        db.redis.forget()

    asyncio.run(abandon())

    async def use() -> None:
        async with db:
            assert (await db.health()).ok

    asyncio.run(use())


def test_work_behind_the_callers_backs_goes_on_after_its_loop_ended(multidb_servers: Settings):
    db = MultiDB(multidb_servers)
    counting, history = db.counters._counting, db.sessions._history
    works = db.presence._sweeping, counting._storing, history._writing

    async def work() -> None:
        db.presence._arrived(uuid7())
        counting.note("GET /", date(2026, 11, 26))
        counting._run()
        history.note([Ended(uuid7(), datetime.now(UTC), "expired")])
        await asyncio.sleep(0.01)  # they fail, for it is not open, and wait until they try again
        assert [each._task is not None and each._task.done() for each in works] == [False] * 3

    for _ in range(2):
        asyncio.run(work())


async def test_what_is_begun_while_it_closes_ends_with_it(
    multidb_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    before = asyncio.all_tasks()
    db = MultiDB(multidb_settings)
    await db.open()
    close = db.postgres.close

    async def late() -> None:
        await db.presence.beat(uuid7(), device="phone")
        db.counters._note("GET /", date(2026, 11, 26))
        db.sessions._history.note([Ended(uuid7(), datetime.now(UTC), "expired")])
        await close()

    monkeypatch.setattr(db.postgres, "close", late)
    await db.close()
    assert asyncio.all_tasks() == before
    assert db.counters._counting._later is None


@pytest.mark.mongo
async def test_closing_finishes_those_who_wait_for_a_batch(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    await db.open()
    company = await db.companies.add(NewCompany(name="C", slug="c"))
    calls = [
        asyncio.create_task(call)
        for _ in range(20)
        for call in (
            db.companies.get(company.id),
            db.companies.get(uuid7()),
            db.system_logs.append(SystemLog(level="info", service="t", message="m")),
            db.sessions.get("no token of ours"),
        )
    ]
    await asyncio.sleep(0)
    await db.close()
    assert [call.exception() for call in calls if not call.done() or call.exception()] == []


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_closing_finishes_the_calls_under_way(multidb_settings: Settings, driver: str):
    settings = multidb_settings.model_copy(update={"mongo_driver": driver})
    db = MultiDB(settings)
    await db.open()
    user = await db.users.add(NewUser(email="a@example.com", name="Old"))
    assert await db.users.get(user.id) == user

    async def rename() -> None:
        async with db.transaction():
            await db.users.update(user.id, name="New")

    calls: list[asyncio.Task[Any]] = [
        asyncio.create_task(call)
        for call in (
            rename(),
            *(db.system_logs.append(SystemLog(level="info", service="t", message="m")) for _ in range(40)),
            *(db.sessions.create(user.id) for _ in range(40)),
        )
    ]
    while (usage := db.postgres.pool_usage()) is None or not usage.in_use:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await db.close()
    assert [call.exception() for call in calls if call.done() and call.exception()] == []
    await asyncio.gather(*calls)
    async with MultiDB(settings) as again:
        # Not the entry that was there before the rename.
        assert (await again.users.fetch(user.id)).name == "New"


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_closing_waits_for_mongodb_and_redis_too(multidb_settings: Settings, driver: str):
    db = MultiDB(multidb_settings.model_copy(update={"mongo_driver": driver}))
    await db.open()
    await use_all(db)
    log = SystemLog(level="info", service="closing", message="m")
    calls = [
        *(
            asyncio.create_task(db.system_logs.append(log.model_copy(update={"id": uuid7()})))
            for _ in range(20)
        ),
        *(asyncio.create_task(db.sessions.create(uuid7())) for _ in range(20)),
    ]
    await asyncio.sleep(0)  # each has begun; none can have been answered
    assert not any(call.done() for call in calls)
    await db.close()
    await asyncio.gather(*calls)


# A connection that PyMongo was making when it was cancelled closes only when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_cancelled_calls_leave_mongodb_usable(multidb_settings: Settings, driver: str):
    """PyMongo's own queue for connections can lose those who wait in it when others are cancelled."""
    settings = multidb_settings.model_copy(update={"mongo_driver": driver, "mongo_pool_size": 4})
    chance = random.Random(5)
    async with MultiDB(settings) as db:
        await db.system_logs.append(SystemLog(level="info", service="t", message="m"))
        async with asyncio.timeout(20):
            for _ in range(150):
                calls = [asyncio.create_task(db.system_logs.find(limit=1)) for _ in range(20)]
                for _ in range(15):
                    # A moment at random, for what is cancelled at the same step each time tells little.
                    await asyncio.sleep(chance.random() * 0.001)
                    chance.choice(calls).cancel()
                for call in calls:
                    if chance.random() < 0.5:
                        call.cancel()
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert all(
                    isinstance(each, asyncio.CancelledError) or len(each) == 1  # type: ignore[arg-type]
                    for each in outcomes
                )
        usage = db.mongo.pool_usage()
        assert usage is not None
        assert usage.in_use == 0


async def test_an_option_no_driver_knows_is_a_setting(multidb_settings: Settings):
    for option in ("foo=1", "decode_responses=True"):
        url = SecretStr(f"{multidb_settings.redis_url.get_secret_value()}?{option}")
        with pytest.raises(ConfigurationError, match="MULTIDB_REDIS_URL"):
            await MultiDB(multidb_settings.model_copy(update={"redis_url": url})).open()


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


# As above.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
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


# As above.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
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
