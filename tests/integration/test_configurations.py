"""Dynamic configurations: typed values, versions, and a local copy that misses no change."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from multidb import (
    ConflictError,
    DataError,
    InvalidCursorError,
    MultiDB,
    NotFoundError,
    NotOpenError,
    uuid7,
)
from multidb.repositories.dynamic_configurations import MAX_HISTORY
from multidb.settings import Settings
from multidb.stores.mongo.changes import Changes

from .relay import mongo_relay

pytestmark = pytest.mark.mongo


ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)


class Limits(BaseModel):
    uploads: int
    kinds: list[str] = []


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.01)


async def test_a_value_is_of_the_type_asked_for_or_refused_by_its_key(db: MultiDB):
    configs = db.dynamic_configurations
    await configs.set("limits", Limits(uploads=3, kinds=["pdf"]))
    await configs.set("beta", value=False)
    assert await configs.value("limits", Limits) == Limits(uploads=3, kinds=["pdf"])
    assert await configs.value("limits", dict[str, Any]) == {"uploads": 3, "kinds": ["pdf"]}
    assert await configs.value("beta", bool, default=True) is False
    assert await configs.value("nothing", int, default=None) is None
    with pytest.raises(NotFoundError, match="nothing"):
        await configs.value("nothing", int)
    await configs.set("limits", {"uploads": "hunter2"})
    with pytest.raises(DataError, match=r"`limits\.uploads`") as caught:
        await configs.value("limits", Limits)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("", 1, "a key is"),
        ("$where", 1, "a key is"),
        ("a..b", 1, "a key is"),
        ("a", None, "null"),
        ("a", object(), "JSON"),
        ("a", b"\xff", "JSON"),
        ("a", ENDLESS, "JSON"),
        ("a", "x" * 200_000, "bytes"),
        ("a", {"$set": 1}, "value"),
    ],
)
async def test_what_cannot_be_set_is_refused(db: MultiDB, key: str, value: object, match: str):
    with pytest.raises(DataError, match=match):
        await db.dynamic_configurations.set(key, value)
    assert await db.dynamic_configurations.count() == 0


async def test_a_value_that_looks_like_an_operator_is_a_value(db: MultiDB):
    await db.dynamic_configurations.set("a", "$version")
    entry = await db.dynamic_configurations.set("a", ["$$ROOT"])
    assert entry.value == ["$$ROOT"]
    assert [past.value for past in entry.history] == ["$version", ["$$ROOT"]]


async def test_of_those_who_set_at_once_by_version_one_succeeds(db: MultiDB):
    configs = db.dynamic_configurations
    for version in (0, 1, 2):
        outcomes = await asyncio.gather(
            *(configs.set("a", n, version=version) for n in range(10)), return_exceptions=True
        )
        conflicts = [each for each in outcomes if isinstance(each, ConflictError)]
        assert len(conflicts) == 9
        assert {each.version for each in conflicts} == {version + 1}
    with pytest.raises(ConflictError):
        await configs.remove("a", version=1)
    with pytest.raises(DataError, match="version"):
        await configs.set("a", 1, version=-1)


async def test_every_version_is_in_the_history_however_many_set_at_once(db: MultiDB):
    configs = db.dynamic_configurations
    entries = await asyncio.gather(*(configs.set("a", n, by=f"task {n}") for n in range(30)))
    assert sorted(entry.version for entry in entries) == list(range(1, 31))
    history = await configs.history("a")
    assert [past.version for past in history] == list(range(30, 0, -1))
    values = {entry.version: entry.value for entry in entries}
    assert all(values[past.version] == past.value for past in history)
    assert all(past.set_by == f"task {past.value}" for past in history)
    assert await configs.count() == 1


async def test_a_rollback_is_a_version_of_its_own(db: MultiDB):
    configs = db.dynamic_configurations
    for n in range(1, MAX_HISTORY + 3):
        await configs.set("a", n)
    entry = await configs.rollback("a", to=50, by="ada")
    assert (entry.version, entry.value) == (MAX_HISTORY + 3, 50)
    assert entry.history[-1].set_by == "ada"
    assert len(entry.history) == MAX_HISTORY
    with pytest.raises(NotFoundError, match="version 1 "):
        await configs.rollback("a", to=1)
    with pytest.raises(ConflictError):
        await configs.rollback("a", to=50, version=7)
    wrong: Any
    for wrong in ("1", True, 1.0):
        with pytest.raises(DataError, match="`to`"):
            await configs.rollback("a", to=wrong)
        with pytest.raises(DataError, match="`version`"):
            await configs.remove("a", version=wrong)
    for wrong in ([], 5):
        with pytest.raises(DataError, match="`kind`"):
            await configs.value("a", wrong)
    with pytest.raises(ConflictError):
        async with db.mongo_transaction():
            await configs.set("a", 1, version=0)
    assert await configs.remove("a")
    assert not await configs.remove("a")
    assert await configs.history("a") == ()


async def test_a_companys_value_stands_before_everybodys(db: MultiDB):
    configs, ours, theirs = db.dynamic_configurations, uuid7(), uuid7()
    await configs.set("a", "everybody's")
    async with db.tenant(ours):
        assert await configs.value("a", str) == "everybody's"
        await configs.set("a", "ours", version=0)
        assert await configs.value("a", str) == "ours"
        async with configs.watch() as watch:
            assert watch.value("a", str) == "ours"
            await configs.remove("a")
            await until(lambda: watch.value("a", str) == "everybody's")
            await configs.set("a", "ours")
    async with db.tenant(theirs):
        assert await configs.value("a", str) == "everybody's"
        assert (await configs.find()).items == ()
        assert not await configs.remove("a")
    assert await configs.value("a", str) == "everybody's"


async def test_the_local_copy_follows(db: MultiDB):
    configs = db.dynamic_configurations
    await configs.set("before", 1)
    async with configs.watch() as watch:
        assert watch.value("before", int) == 1
        assert watch.value("a", int, default=0) == 0
        with pytest.raises(NotFoundError):
            watch.value("a", int)
        waiting = asyncio.create_task(watch.changed())
        await asyncio.sleep(0)
        await configs.set("a", "7")
        await waiting
        assert watch.value("a", int) == 7
        await configs.remove("a")
        await configs.set("a", 8)
        await until(lambda: watch.value("a", int, default=0) == 8)
        await db.mongo.database.drop_collection("dynamic_configurations")
        await until(lambda: watch.value("before", int, default=None) is None)


@pytest.fixture
async def remote(multidb_settings: Settings) -> AsyncIterator[tuple[Any, MultiDB]]:
    with mongo_relay(multidb_settings) as (relay, settings):
        impatient = settings.model_copy(update={"connect_timeout": settings.connect_timeout / 10})
        async with MultiDB(impatient) as db:
            yield relay, db


async def test_the_copy_misses_nothing_while_connections_break(db: MultiDB, remote: tuple[Any, MultiDB]):
    relay, far = remote
    configs = db.dynamic_configurations
    async with far.dynamic_configurations.watch() as watch:
        for n in range(6):
            relay.refuse() if n % 3 == 2 else relay.cut()
            for key in ("a", "b", "c"):
                await configs.set(key, n)
            await configs.remove("c")
            assert n % 3 != 2 or watch.value("a", int) == n - 1  # as it was
            relay.allow()
            await until(lambda n=n: [watch.value(key, int, default=None) for key in "abc"] == [n, n, None])


async def test_a_copy_of_what_the_oplog_has_lost_is_loaded_anew(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    configs = db.dynamic_configurations
    step, written = Changes._step, asyncio.Event()

    async def losing(self: Changes) -> Any:
        """Lose changes until they are written, and then say so, once."""
        if not written.is_set():
            _, position, alive = await step(self)
            return None, position, alive
        monkeypatch.setattr(Changes, "_step", step)
        raise InvalidCursorError("the oplog does not reach back so far")

    await configs.set("a", 1)
    async with configs.watch() as watch:
        monkeypatch.setattr(Changes, "_step", losing)
        await configs.set("a", 2)
        await configs.set("b", 2)
        written.set()
        await until(lambda: watch.value("b", int, default=0) == 2 and watch.value("a", int) == 2)
        await configs.set("a", 3)
        await until(lambda: watch.value("a", int) == 3)


async def open_cursors(db: MultiDB) -> int:
    """Return how many cursors on the configurations the server keeps."""
    namespace = f"{db.mongo.database.name}.dynamic_configurations"
    pipeline = [{"$currentOp": {"idleCursors": True}}, {"$match": {"ns": namespace}}]
    answer = await db.mongo.opened.admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
    return len(answer["cursor"]["firstBatch"])


async def test_watching_leaves_nothing_behind_and_ends_with_the_database(multidb_settings: Settings):
    async with MultiDB(multidb_settings) as db:
        before, cursors = asyncio.all_tasks(), await open_cursors(db)
        async with db.dynamic_configurations.watch():
            pass
        assert asyncio.all_tasks() == before
        # Left before its task had a turn, the cursor is closed too.
        assert await open_cursors(db) == cursors
        watch = db.dynamic_configurations.watch()
        with pytest.raises(NotOpenError, match="inside its block"):
            await watch.changed()
        async with watch:
            waiting = asyncio.create_task(watch.changed())
            await asyncio.sleep(0)
        with pytest.raises(NotOpenError, match="inside its block"):
            await waiting
        with pytest.raises(NotOpenError, match="inside its block"):
            watch.value("a", int, default=1)
        await watch.__aenter__()
        waiting = asyncio.create_task(watch.changed())
        await asyncio.sleep(0)
    with pytest.raises(NotOpenError):
        await waiting
    with pytest.raises(NotOpenError):
        watch.value("a", int, default=1)
    await watch.__aexit__(None, None, None)
