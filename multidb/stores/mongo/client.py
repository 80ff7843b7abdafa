"""MongoDB's one way in: a client of either driver, and the calls the repositories make."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo import errors as driver
from pymongo.read_concern import ReadConcern

from multidb.errors import MultiDBError, UnavailableError
from multidb.models.health import PoolUsage, Role
from multidb.settings import Settings
from multidb.stores.mongo.calls import Call, Turns
from multidb.stores.mongo.documents import Document, Encoded, messages
from multidb.stores.mongo.driver import Client, Database, Driver, load
from multidb.stores.mongo.emitting import Emitter
from multidb.stores.mongo.errors import (
    ID_ALONE,
    Unique,
    is_about_id,
    may_have_happened,
    refusals,
    translating,
)
from multidb.stores.mongo.pool import PoolCounter
from multidb.stores.mongo.tallies import Tallies
from multidb.stores.store import Answer, Store

__all__ = ["MongoStore"]

#: Field and direction, 1 or -1, in order of weight.
Sort = Sequence[tuple[str, int]]

#: Gives documents as the bytes they are stored as.
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


class MongoStore(Store[Client]):
    """Reads and writes documents. Writes are acknowledged by a majority, and journalled."""

    name = "mongo"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._pool = PoolCounter()
        self._turns = Turns(settings.mongo_pool_size)
        self._version = ""
        #: What waits in memory to be stored.
        self._waiting: list[Emitter | Tallies] = []

    async def open(self) -> None:
        """Make the client on the running event loop, and store what waited for it. Idempotent."""
        if self._client is None:
            await super().open()
            for each in self._waiting:
                each.start()

    async def close(self) -> None:
        """Bring what waits in memory to MongoDB, in time, then close as every store does. Idempotent."""
        try:
            await asyncio.gather(*(each.close() for each in self._waiting))
        finally:
            await super().close()

    def forget(self) -> None:
        super().forget()
        for each in self._waiting:
            each.forget()

    def emitter(
        self,
        collection: str,
        *,
        ranks: Sequence[str],
        prepare: Callable[[Document], Document],
        operation: str,
    ) -> Emitter:
        """Return what stores documents behind the caller's back, for as long as this store is open."""
        directory = self.settings.log_spill_directory if self.settings.log_overflow == "spill" else None
        if directory is not None:
            # Nobody else's: another database's processes must not replay them into theirs.
            directory = directory / _database_name(self.settings.mongo_url.get_secret_value()) / collection
        emitter = Emitter(
            operation,
            partial(self._insert_again, collection, operation=operation),
            ranks=ranks,
            prepare=prepare,
            directory=directory,
            settings=self.settings,
        )
        self._waiting.append(emitter)
        return emitter

    def tallies(self, collection: str, *, operation: str) -> Tallies:
        """Return what counts in memory and stores it in this collection, while this store is open."""
        made = Tallies(
            partial(self.advance, collection, by="count", operation=operation),
            operation=operation,
            most=self.settings.usage_tallies,
            interval=self.settings.usage_flush_interval,
            drain=self.settings.log_drain_timeout,
        )
        self._waiting.append(made)
        return made

    @property
    def database(self) -> Database:
        """The driver's own database object, Motor's or PyMongo's, for what the repositories do not offer."""
        return self.opened[_database_name(self.settings.mongo_url.get_secret_value())]

    async def insert_many(
        self, collection: str, documents: Sequence[Encoded], *, operation: str, unique: Unique = ID_ALONE
    ) -> dict[int, MultiDBError]:
        """Store documents, each whatever becomes of the others; return by place what is not stored, and why.

        They bring their `_id`. It takes as many round trips as their size asks for, one after
        another: once MongoDB is away, those that were not sent yet have that error too. Where an
        answer is lost the same is sent once more, and what is there by then is compared: a document
        that is stored as it was given counts as stored by this call.
        """
        refused: dict[int, MultiDBError] = {}
        for start, message in messages(documents):
            try:
                outcome = await self._insert_surely(collection, message, operation, unique)
            except MultiDBError as error:
                return refused | dict.fromkeys(range(start, len(documents)), error)
            refused |= {start + place: error for place, error in outcome.items()}
        return refused

    async def _insert_again(
        self, collection: str, documents: Sequence[Encoded], *, operation: str
    ) -> dict[int, MultiDBError]:
        """Store documents as `insert_many` does; those whose `_id` is there already were stored before."""
        refused = await self.insert_many(collection, documents, operation=operation)
        return {place: error for place, error in refused.items() if not is_about_id(error)}

    async def _insert_surely(
        self, collection: str, documents: Sequence[Encoded], operation: str, unique: Unique
    ) -> dict[int, MultiDBError]:
        try:
            return await self._insert(collection, documents, operation, unique)
        except UnavailableError as error:
            if not may_have_happened(error):
                raise
        refused = await self._insert(collection, documents, operation, unique)
        there = [place for place, error in refused.items() if is_about_id(error)]
        if there:
            stored = await self._stored(collection, [documents[place] for place in there], operation)
            for place in sorted(there):
                if (raw := bytes(documents[place].raw)) in stored:
                    stored.remove(raw)  # of two that are the same, one alone was stored by this call
                    del refused[place]
        return refused

    async def _insert(
        self, collection: str, documents: Sequence[Encoded], operation: str, unique: Unique
    ) -> dict[int, MultiDBError]:
        async with self._call(operation, unique):
            target = self.database[collection]
            try:
                if len(documents) == 1:  # for less than a bulk of one
                    await target.insert_one(documents[0])
                else:
                    await target.insert_many(documents, ordered=False)
            except (driver.BulkWriteError, driver.WriteError, driver.WriteConcernError) as error:
                return refusals(error, len(documents), operation, unique)
        return {}

    async def _stored(self, collection: str, documents: Sequence[Encoded], operation: str) -> set[bytes]:
        """Return what a majority has stored under the ids of these documents, byte for byte."""
        ids = [document["_id"] for document in documents]
        async with self._call(operation):
            target = self.database[collection].with_options(_RAW, read_concern=ReadConcern("majority"))
            return {
                bytes(document.raw) for document in await target.find({"_id": {"$in": ids}}).to_list(None)
            }

    async def find_one(self, collection: str, query: Mapping[str, Any], *, operation: str) -> Document | None:
        """Return the first document that matches, or None."""
        async with self._call(operation):
            document: Document | None = await self.database[collection].find_one(query)
        return document

    async def find(
        self, collection: str, query: Mapping[str, Any], *, sort: Sort = (), limit: int, operation: str
    ) -> list[Document]:
        """Return the first `limit` documents that match, in order."""
        async with self._call(operation):
            cursor = self.database[collection].find(query, sort=list(sort), limit=limit, batch_size=limit)
            documents: list[Document] = await cursor.to_list(limit)
        return documents

    async def aggregate(
        self, collection: str, pipeline: Sequence[Mapping[str, Any]], *, operation: str
    ) -> list[Document]:
        """Return what a pipeline gives, all of it: it must end in few. The server may use its disk."""
        async with self._call(operation):
            cursor = await self._driver.aggregate(self.database[collection], pipeline, allowDiskUse=True)
            documents: list[Document] = await cursor.to_list(None)
        return documents

    async def update_many(
        self, collection: str, query: Mapping[str, Any], update: Mapping[str, Any], *, operation: str
    ) -> int:
        """Change every document that matches, each for itself, and return how many matched."""
        async with self._call(operation):
            return int((await self.database[collection].update_many(query, update)).matched_count)

    async def advance(
        self, collection: str, documents: Sequence[Document], *, by: str, operation: str
    ) -> dict[int, MultiDBError]:
        """Set documents to states, each unless a later one is stored; return by place those refused, and why.

        `by` names the field that grows from state to state. Of the same state or an older one
        nothing is written, so the same call may be made again.
        """
        updates: list[UpdateOne] = []
        for document in documents:
            later = {"$cond": [{"$lt": [f"${by}", document[by]]}, {"$literal": document}, "$$ROOT"]}
            updates.append(UpdateOne({"_id": document["_id"]}, [{"$replaceWith": later}], upsert=True))
        if not updates:
            return {}
        async with self._call(operation):
            try:
                await self.database[collection].bulk_write(updates, ordered=False)
            except driver.BulkWriteError as error:
                return refusals(error, len(documents), operation)
        return {}

    async def command(self, command: Mapping[str, Any], *, operation: str) -> Document:
        """Run one database command and return its answer."""
        async with self._call(operation):
            answer: Document = await self.database.command(dict(command))
        return answer

    @property
    def _driver(self) -> Driver:
        return load(self.settings.mongo_driver)

    def _call(self, operation: str, unique: Unique = ID_ALONE) -> Call:
        return Call(self._turns, self.settings.mongo_timeout, self.under_way, operation, unique)

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
        return PoolUsage(size=self._pool.size, in_use=self._turns.taken, limit=self.settings.mongo_pool_size)

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
        self._turns = Turns(settings.mongo_pool_size)
        self._version = ""
        with translating("open"):
            return self._driver.connect(
                settings.mongo_url.get_secret_value(),
                {
                    "appname": "multidb",
                    "event_listeners": [self._pool],
                    "maxPoolSize": settings.mongo_pool_size,
                    # What Python has no datetime for must not fail those found with it.
                    "datetime_conversion": "DATETIME_AUTO",
                    "tz_aware": True,
                    "uuidRepresentation": "standard",
                    "w": "majority",
                    **{name: int(value.total_seconds() * 1000) for name, value in milliseconds.items()},
                },
            )

    async def _disconnect(self, client: Client) -> None:
        await self._driver.close(client)


def _database_name(url: str) -> str:
    return urlsplit(url).path.strip("/")
