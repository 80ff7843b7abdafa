"""MongoDB's one way in: a client of either driver, and the calls the repositories make."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from multidb.models.health import PoolUsage, Role
from multidb.settings import Settings
from multidb.stores.mongo.changes import Changes, Position
from multidb.stores.mongo.driver import ChangeStream, Client, Database, load
from multidb.stores.mongo.errors import translating
from multidb.stores.mongo.pool import PoolCounter
from multidb.stores.store import Answer, Store

__all__ = ["MongoStore"]

Document = dict[str, Any]
#: Field and direction, 1 or -1, in order of weight.
Sort = Sequence[tuple[str, int]]

#: How long the server waits for a change before it answers that there is none.
_PATIENCE = timedelta(milliseconds=500)


class MongoStore(Store[Client]):
    """Reads and writes documents. Writes are acknowledged by a majority, and journalled."""

    name = "mongo"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._pool = PoolCounter()
        self._free = asyncio.Semaphore(settings.mongo_pool_size)
        self._waits = asyncio.Semaphore(max(1, settings.mongo_pool_size // 2))
        self._at_work = 0
        self._version = ""

    @property
    def database(self) -> Database:
        """The driver's own database object, Motor's or PyMongo's, for what the repositories do not offer."""
        return self.opened[_database_name(self.settings.mongo_url.get_secret_value())]

    async def insert(self, collection: str, document: Document, *, operation: str) -> None:
        """Store one document, which brings its own `_id`."""
        async with self._call(operation):
            await self.database[collection].insert_one(document)

    async def find_one(self, collection: str, query: Mapping[str, Any], *, operation: str) -> Document | None:
        """Return the first document that matches, or None."""
        async with self._call(operation):
            document: Document | None = await self.database[collection].find_one(query)
        return document

    async def find(
        self, collection: str, query: Mapping[str, Any], *, sort: Sort, limit: int, operation: str
    ) -> list[Document]:
        """Return the first `limit` documents that match, in order."""
        async with self._call(operation):
            cursor = self.database[collection].find(query, sort=list(sort), limit=limit, batch_size=limit)
            documents: list[Document] = await cursor.to_list(limit)
        return documents

    async def command(self, command: Mapping[str, Any], *, operation: str) -> Document:
        """Run one database command and return its answer."""
        async with self._call(operation):
            answer: Document = await self.database.command(dict(command))
        return answer

    def watch(
        self,
        collection: str,
        *,
        match: Mapping[str, Any] | None = None,
        after: Position | None = None,
        operation: str,
    ) -> Changes:
        """Return the changes of a collection from when the block is entered, or after a position on.

        `match` is a query on the server's events, such as `{"operationType": "insert",
        "fullDocument.level": "error"}`. Each open one takes a connection most of the time; more than half
        of them wait for each other, so that calls still find one.
        """
        options = {
            "full_document": "updateLookup",
            "max_await_time_ms": int(_PATIENCE.total_seconds() * 1000),
        }

        async def connect(position: Position | None) -> ChangeStream:
            # Not `resume_after`, which goes no further where the collection was dropped.
            return await load(self.settings.mongo_driver).watch(
                self.database[collection],
                [{"$match": dict(match)}] if match else [],
                {**options, "start_after": position},
            )

        return Changes(connect, partial(self._wait, operation), after=after, operation=operation)

    @asynccontextmanager
    async def _wait(self, operation: str) -> AsyncIterator[None]:
        """Make one call that waits for something to happen; never with more than half the connections."""
        async with self._waits, self._call(operation):
            _ = self.opened  # refuses what would go on after it was closed
            yield

    @asynccontextmanager
    async def _call(self, operation: str) -> AsyncIterator[None]:
        """Make one call of the driver, and never more at a time than it has connections.

        PyMongo's own queue for a connection does not survive cancellations: callers that wait in
        it may never be woken. So nobody waits there.
        """
        with self.under_way, translating(operation):
            async with asyncio.timeout(self.settings.mongo_timeout.total_seconds()):
                await self._free.acquire()
            self._at_work += 1
            try:
                yield
            finally:
                self._at_work -= 1
                self._free.release()

    async def ask(self, *, operation: str) -> Answer:
        async with self._call(operation):
            hello = await self.opened.admin.command("hello")
            if not self._version:
                self._version = str((await self.opened.admin.command("buildInfo"))["version"])
        role: Role = (
            "primary" if hello["isWritablePrimary"] else "replica" if hello.get("secondary") else "unknown"
        )
        return Answer(self._version, role)

    def pool_usage(self) -> PoolUsage | None:
        if self._client is None:
            return None
        return PoolUsage(size=self._pool.size, in_use=self._at_work, limit=self.settings.mongo_pool_size)

    async def _connect(self) -> Client:
        settings = self.settings
        milliseconds = {
            "connectTimeoutMS": settings.connect_timeout,
            "serverSelectionTimeoutMS": settings.connect_timeout,
            # Not `timeoutMS`: it would hold calls to a server that is away for as long.
            "socketTimeoutMS": settings.mongo_timeout,
            "waitQueueTimeoutMS": settings.mongo_timeout,
        }
        self._pool = PoolCounter()
        self._free = asyncio.Semaphore(settings.mongo_pool_size)
        self._waits = asyncio.Semaphore(max(1, settings.mongo_pool_size // 2))
        self._at_work = 0
        self._version = ""
        with translating("open"):
            return load(settings.mongo_driver).connect(
                settings.mongo_url.get_secret_value(),
                {
                    "appname": "multidb",
                    "event_listeners": [self._pool],
                    "maxPoolSize": settings.mongo_pool_size,
                    "tz_aware": True,
                    "uuidRepresentation": "standard",
                    "w": "majority",
                    **{name: int(value.total_seconds() * 1000) for name, value in milliseconds.items()},
                },
            )

    async def _disconnect(self, client: Client) -> None:
        await load(self.settings.mongo_driver).close(client)


def _database_name(url: str) -> str:
    return urlsplit(url).path.strip("/")
