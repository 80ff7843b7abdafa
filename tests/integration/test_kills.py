"""SIGKILL each server while it is at work: nothing acknowledged is lost, and all heals by itself."""

import asyncio
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from multidb import (
    Company,
    MultiDB,
    NewCompany,
    NewDocument,
    NewUser,
    SystemLog,
    UnavailableError,
    User,
    uuid7,
)
from multidb.ops.embedded import initialise
from multidb.repositories import bulk
from multidb.settings import Settings
from multidb.stack import EmbeddedStack, ServerName

from .outbox_load import Relays, Transactions

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


class Writes:
    """Writes of every kind, each of as many rows as its label says, which all of them bear."""

    def __init__(self, db: MultiDB, companies: Sequence[Company], owner: User) -> None:
        self.db = db
        self.companies = companies
        self.owner = owner
        kinds = (self.transaction, self.scoped, self.copied, self.upserted, self.scoped_bulk, self.replaced)
        self.turns = itertools.cycle(itertools.product(kinds, companies))

    async def write(self) -> str:
        kind, company = next(self.turns)
        label = f"{kind.__name__} {SIZES[kind.__name__]} {company.slug} {uuid7().hex}"
        await kind(label, company)
        return label

    def users(self, label: str) -> list[NewUser]:
        return [NewUser(email=f"{uuid7()}@example.com", name=label) for _ in range(int(label.split()[1]))]

    def documents(self, label: str, company: Company) -> list[NewDocument]:
        new = NewDocument(company_id=company.id, owner_id=self.owner.id, title=label)
        return [new.model_copy(update={"id": uuid7()}) for _ in range(int(label.split()[1]))]

    async def transaction(self, label: str, _: Company) -> None:
        async with self.db.transaction():
            for user in self.users(label):
                await self.db.users.add(user)

    async def scoped(self, label: str, company: Company) -> None:
        async with self.db.tenant(company.id):
            for document in self.documents(label, company):
                await self.db.documents.add(document)
                await self.db.documents.update(document.id, status="ready")

    async def copied(self, label: str, _: Company) -> None:
        await self.db.users.add_many(self.users(label))

    async def upserted(self, label: str, _: Company) -> None:
        await self.db.users.upsert_many(self.users(label), on="email")

    async def scoped_bulk(self, label: str, company: Company) -> None:
        async with self.db.tenant(company.id), self.db.transaction():
            first, *others = self.documents(label, company)
            await self.db.documents.upsert(first)
            async with self.db.transaction():
                await self.db.documents.add_many(others)

    async def replaced(self, label: str, company: Company) -> None:
        """Rows that no other write has, changed all at once by what each of these writes gives them."""
        async with self.db.transaction(), self.db.tenant(company.id):
            new = self.documents("replaced 3 not yet", company)
            await self.db.documents.add_many(new)
            again = [each.model_copy(update={"title": label}) for each in new]
            await self.db.documents.upsert_many(again)


#: How many rows each kind of write has, by its name. More than a chunk are several round trips.
SIZES = {"transaction": 2, "scoped": 1, "copied": 60, "upserted": 60, "scoped_bulk": 60, "replaced": 3}


async def test_postgresql_killed_under_load(
    stack: EmbeddedStack, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "_CHUNK", 25)
    monkeypatch.setattr(bulk, "_COPIED", 20)
    async with MultiDB(settings) as db:
        owner = await db.users.add(NewUser(email="owner@example.com", name="owner 1"))
        companies = [await db.companies.add(NewCompany(name=n, slug=n)) for n in ("ours", "theirs")]
        load = Load(Writes(db, companies, owner).write)
        await kill_during(stack, "postgres", load)

        rows = Counter([user.name async for user in db.users.stream()])
        for company in companies:
            async with db.tenant(company.id):
                documents = [each async for each in db.documents.stream()]
            titles = Counter(each.title for each in documents)
            ready = {each.title for each in documents if each.status == "ready"}
            updated = {label for label in load.acknowledged if label.startswith("scoped 1 " + company.slug)}
            assert updated
            assert updated <= ready
            # Nobody's rows went to another company.
            assert {title.split()[2] for title in titles} == {company.slug}
            rows += titles
        assert set(load.acknowledged) <= set(rows)
        # No half transaction, and no half bulk: each is there whole, acknowledged or not.
        assert {label: int(label.split()[1]) for label in rows} == rows
        assert {label.split()[0] for label in load.acknowledged} == set(SIZES)

        assert nobody_at_work(db)
        usage = db.postgres.pool_usage()
        async with AsyncExitStack() as every:
            for _ in range(usage.limit if usage else 0):
                connection = await every.enter_async_context(db.postgres.engine.connect())
                scope = (
                    "current_user = session_user, coalesce(current_setting('multidb.company_id', true), '')"
                )
                assert (await connection.exec_driver_sql(f"SELECT {scope}")).one() == (True, "")
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
    # Or the later ones would take the place of the earlier.
    async with MultiDB(settings.model_copy(update={"session_limit": 1_000_000})) as db:
        user = await db.users.add(NewUser(email=f"{uuid7()}@example.com", name="reader 1"))

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


async def test_redis_killed_in_the_midst_of_an_upload(stack: EmbeddedStack, settings: Settings):
    content = os.urandom(200_000)
    starts = list(range(0, len(content), 10_000))
    async with MultiDB(settings) as db:
        user = await db.users.add(NewUser(email=f"{uuid7()}@example.com", name="uploader 1"))
        company = await db.companies.add(NewCompany(name="A", slug=f"a-{user.id}"))
        document = NewDocument(
            company_id=company.id,
            owner_id=user.id,
            title="Notes",
            content_hash=hashlib.sha256(content).hexdigest(),
        )
        upload = await db.uploads.begin(document, size=len(content))

        async def send(begin: int) -> None:
            await db.uploads.append(upload.id, content[begin : begin + 10_000], offset=begin)

        for start in starts[::-2]:
            await send(start)
        await asyncio.to_thread(stack.kill, "redis")
        with pytest.raises(UnavailableError):
            await send(0)
        await asyncio.to_thread(stack.start)
        async with asyncio.timeout(30):
            while not await answers(lambda: db.uploads.gaps(upload.id)):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        # What was acknowledged is there, and the client learns what is not.
        gaps = await db.uploads.gaps(upload.id)
        assert gaps == [(start, start + 10_000) for start in starts[::2]]
        for begin, _ in gaps:
            await send(begin)
        assert (await db.uploads.complete(upload.id)).content_hash == document.content_hash


async def answers(call: Callable[[], Any]) -> bool:
    try:
        await call()
    except UnavailableError:
        return False
    return True


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("total", "count", "kills", "outage"),
    [(100, 1, 1, 0.1), pytest.param(20_000, 2, 50, 10, marks=pytest.mark.torture)],
    ids=["short", "long"],
)
async def test_relays_killed_while_mongodb_and_redis_go_away(
    stack: EmbeddedStack, settings: Settings, total: int, count: int, kills: int, outage: float
):
    environment = {f"MULTIDB_{name.upper()}": value for name, value in urls(stack).items()}
    environment |= {"MULTIDB_MONGO_DRIVER": settings.mongo_driver, "MULTIDB_OPEN_TIMEOUT": "60"}

    async def interrupt(server: ServerName) -> None:
        await asyncio.to_thread(stack.kill, server)
        await asyncio.sleep(outage)
        await asyncio.to_thread(stack.start)

    async with MultiDB(settings) as db, Relays(environment, count) as relays:
        load = Transactions(db)
        await load.prepare(8)
        numbers = itertools.count()
        running = [asyncio.create_task(load.run(numbers, total)) for _ in range(8)]
        killing = asyncio.create_task(relays.kill(kills))
        for server in ("mongodb", "redis"):
            await interrupt(server)
        await asyncio.gather(*running, killing)
        async with asyncio.timeout(600):
            while any(each.depth for each in await db.outbox.stats()):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert relays.killed == kills
        await load.check()
