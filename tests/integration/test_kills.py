"""SIGKILL each server while it is at work: nothing acknowledged is lost, and all heals by itself."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from multidb import MultiDB, NewUser, SystemLog, UnavailableError, uuid7
from multidb.ops.embedded import initialise
from multidb.settings import Settings
from multidb.stack import EmbeddedStack, ServerName

pytestmark = pytest.mark.mongo

WRITERS = 16
#: So many that appends meet and share their messages.
APPENDERS = 64


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Servers of this module's own, for it kills them."""
    directory: Path = tmp_path_factory.mktemp("stack")
    servers = EmbeddedStack(directory, durable=False)
    servers.start()
    try:
        asyncio.run(initialise(servers.settings()))
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def settings(stack: EmbeddedStack) -> Settings:
    return stack.settings().model_copy(update={"mongo_driver": Settings(**urls(stack)).mongo_driver})


def urls(stack: EmbeddedStack) -> dict[str, Any]:
    return {name: stack.env[f"MULTIDB_{name.upper()}"] for name in ("postgres_url", "mongo_url", "redis_url")}


class Load:
    """Writers that never stop, and what was acknowledged to them."""

    def __init__(self, write: Callable[[], Any]) -> None:
        self.write = write
        self.acknowledged: list[Any] = []
        self.errors: list[Exception] = []
        self.stopped = False

    async def run(self) -> None:
        while not self.stopped:
            try:
                self.acknowledged.append(await self.write())
            except Exception as error:
                self.errors.append(error)
                # A call that fails at once must not keep the others from the loop.
                await asyncio.sleep(0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - one turn of the loop at a time
                await asyncio.sleep(0)

    async def more(self, count: int) -> None:
        """Wait until as many writes more have been acknowledged."""
        goal = len(self.acknowledged) + count
        await self.until(lambda: len(self.acknowledged) >= goal)


async def kill_during(
    stack: EmbeddedStack, server: ServerName, load: Load, *, writers: int = WRITERS
) -> None:
    """Run the load, kill the server in the midst of it, start it again, and wait for the load to go on."""
    tasks = [asyncio.create_task(load.run()) for _ in range(writers)]
    try:
        await load.more(200)
        await asyncio.to_thread(stack.kill, server)
        await load.until(lambda: bool(load.errors))
        await asyncio.to_thread(stack.start)
        await load.more(200)
    finally:
        load.stopped = True
        await asyncio.gather(*tasks)
    assert {type(error) for error in load.errors} <= {UnavailableError}
    assert all(error.retryable for error in load.errors if isinstance(error, UnavailableError))


def nobody_at_work(db: MultiDB) -> bool:
    return all(
        usage is not None and usage.in_use == 0
        for usage in (db.postgres.pool_usage(), db.redis.pool_usage(), db.mongo.pool_usage())
    )


async def test_postgresql_killed_under_load(stack: EmbeddedStack, settings: Settings):
    async with MultiDB(settings) as db:

        async def write() -> tuple[UUID, UUID]:
            async with db.transaction():
                first = await db.users.add(NewUser(email=f"{uuid7()}@example.com", name="first"))
                second = await db.users.add(NewUser(email=f"{first.id}@example.org", name="second"))
            return first.id, second.id

        before = await db.users.count()
        load = Load(write)
        await kill_during(stack, "postgres", load)

        ids = [id for pair in load.acknowledged for id in pair]
        found: set[UUID] = set()
        for start in range(0, len(ids), 1000):
            found |= set(await db.users.get_many(ids[start : start + 1000]))
        assert found == set(ids)
        # No half transaction: each that is there is there whole, acknowledged or not.
        firsts = await db.users.count(name="first")
        assert firsts == await db.users.count(name="second")
        assert before + 2 * firsts >= len(ids)
        assert nobody_at_work(db)
        assert (await db.health()).ok


async def test_mongodb_killed_under_load(stack: EmbeddedStack, settings: Settings):
    async with MultiDB(settings) as db:

        async def write() -> UUID:
            return await db.system_logs.append(SystemLog(level="info", service="kill", message="m"))

        load = Load(write)
        await kill_during(stack, "mongodb", load, writers=APPENDERS)

        stored = [entry.id async for entry in db.system_logs.stream(service="kill")]
        assert set(load.acknowledged) <= set(stored)
        assert len(set(load.acknowledged)) == len(load.acknowledged)
        assert len(set(stored)) == len(stored)
        # One that was not acknowledged is there once, or not at all.
        assert len(stored) <= len(load.acknowledged) + len(load.errors)
        assert nobody_at_work(db)
        assert (await db.health()).ok


async def test_redis_killed_under_load(stack: EmbeddedStack, settings: Settings):
    async with MultiDB(settings) as db:
        user = await db.users.add(NewUser(email=f"{uuid7()}@example.com", name="A"))

        async def write() -> str:
            token, _ = await db.sessions.create(user.id)
            return token

        async def read() -> bool:
            return (await db.users.fetch(user.id)) == user

        sessions, reads = Load(write), Load(read)
        readers = [asyncio.create_task(reads.run()) for _ in range(4)]
        await kill_during(stack, "redis", sessions)
        reads.stopped = True
        await asyncio.gather(*readers)

        # Reads go on from PostgreSQL: not one of them noticed.
        assert reads.errors == []
        assert all(reads.acknowledged)
        for token in sessions.acknowledged:
            assert await db.sessions.get(token) is not None
        assert nobody_at_work(db)
        assert (await db.health()).ok
