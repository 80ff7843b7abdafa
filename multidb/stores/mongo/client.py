"""MongoDB's one way in: a client of either driver, and the calls the repositories make."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument
from pymongo import errors as driver
from pymongo.read_concern import ReadConcern

from multidb.errors import MultiDBError, UnavailableError
from multidb.models.health import PoolUsage, Role
from multidb.settings import Settings
from multidb.stores.mongo.calls import Call, Turns, unbroken
from multidb.stores.mongo.changes import Changes, Position
from multidb.stores.mongo.documents import Document, Encoded, messages
from multidb.stores.mongo.driver import ChangeStream, Client, Database, Session, load, options
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
from multidb.stores.mongo.tallies import Tallies, advances
from multidb.stores.mongo.transactions import Transactions
from multidb.stores.mongo.writes import Change, Write, requests
from multidb.stores.store import Answer, Store

__all__ = ["MongoStore"]

#: Field and direction, 1 or -1, in order of weight.
Sort = Sequence[tuple[str, int]]

#: Gives documents as the bytes they are stored as.
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)

#: How long the server waits for a change before it answers that there is none.
_PATIENCE = timedelta(milliseconds=500)


class MongoStore(Store[Client]):
    """Reads and writes documents. Writes are acknowledged by a majority, and journalled."""

    name = "mongo"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._pool = PoolCounter()
        self._turns = Turns(settings.mongo_pool_size)
        self._waits: asyncio.Semaphore
        self._version = ""
        self.transactions = Transactions(self._began, self._call, lambda: self.under_way, settings)
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
        advance = partial(self.advance, collection, by="count", operation=operation)
        made = Tallies(advance, operation=operation, settings=self.settings)
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
            if not may_have_happened(error) or self.transactions.current() is not None:
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
        async with self._call(operation, unique) as session:
            target = self.database[collection]
            try:
                if len(documents) == 1:  # for less than a bulk of one
                    await unbroken(session, target.insert_one(documents[0], session=session))
                else:
                    await unbroken(session, target.insert_many(documents, ordered=False, session=session))
            except (driver.BulkWriteError, driver.WriteError, driver.WriteConcernError) as error:
                if session is not None:
                    raise  # nothing of the transaction stands
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
        async with self._call(operation) as session:
            found = self.database[collection].find_one(query, session=session)
            return cast(Document | None, await unbroken(session, found))

    async def find(
        self, collection: str, query: Mapping[str, Any], *, sort: Sort = (), limit: int, operation: str
    ) -> list[Document]:
        """Return the first `limit` documents that match, in order."""
        async with self._call(operation) as session:
            cursor = self.database[collection].find(
                query, sort=list(sort), limit=limit, batch_size=limit, session=session
            )
            return cast(list[Document], await unbroken(session, cursor.to_list(None)))

    async def aggregate(
        self, collection: str, pipeline: Sequence[Mapping[str, Any]], *, operation: str
    ) -> list[Document]:
        """Return what a pipeline gives, all of it: it must end in few. The server may use its disk."""
        async with self._call(operation) as session:
            opened = load(self.settings.mongo_driver).aggregate(
                self.database[collection], pipeline, {"allowDiskUse": True, "session": session}
            )
            cursor = await unbroken(session, opened)
            return cast(list[Document], await unbroken(session, cursor.to_list(None)))

    async def advance(
        self, collection: str, documents: Sequence[Document], *, by: str, operation: str
    ) -> dict[int, MultiDBError]:
        """Set documents to states, each unless a later one is stored; return by place those refused, and why.

        `by` names the field that grows from state to state. Of the same state or an older one
        nothing is written, so the same call may be made again. It takes no part in a transaction:
        what one rolls back must not count as stored.
        """
        if not documents:
            return {}
        async with Call(self._turns, self.settings.mongo_timeout, self.under_way, operation):
            try:
                await self.database[collection].bulk_write(advances(documents, by), ordered=False)
            except driver.BulkWriteError as error:
                return refusals(error, len(documents), operation)
        return {}

    async def count(self, collection: str, query: Mapping[str, Any], *, operation: str) -> int:
        """Return how many documents match."""
        async with self._call(operation) as session:
            counted = self.database[collection].count_documents(query, session=session)
            return int(await unbroken(session, counted))

    async def exists(self, collection: str, query: Mapping[str, Any], *, operation: str) -> bool:
        """Return whether a document matches."""
        async with self._call(operation) as session:
            found = self.database[collection].find_one(query, {"_id": 1}, session=session)
            return await unbroken(session, found) is not None

    async def change_one(
        self,
        collection: str,
        query: Mapping[str, Any],
        change: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        upsert: bool = False,
        operation: str,
        unique: Unique = ID_ALONE,
    ) -> Document | None:
        """Change the document that matches and return it as it is then; None if there is none.

        With `upsert` one is made then. One call, atomic.
        """
        async with self._call(operation, unique) as session:
            changed = self.database[collection].find_one_and_update(
                query, change, upsert=upsert, return_document=ReturnDocument.AFTER, session=session
            )
            return cast(Document | None, await unbroken(session, changed))

    async def change_many(
        self,
        collection: str,
        query: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        operation: str,
        unique: Unique = ID_ALONE,
    ) -> int:
        """Change the documents that match, each by itself, and return how many there were."""
        async with self._call(operation, unique) as session:
            changed = self.database[collection].update_many(query, change, session=session)
            return int((await unbroken(session, changed)).matched_count)

    async def write(
        self, collection: str, writes: Sequence[Write], *, operation: str, unique: Unique = ID_ALONE
    ) -> int:
        """Make writes in this order, up to the first that fails; return how many changes found nothing."""
        async with self._call(operation, unique) as session:
            written = self.database[collection].bulk_write(requests(writes), session=session)
            result = await unbroken(session, written)
        changes = sum(isinstance(each, Change) for each in writes)
        return int(changes - result.matched_count - result.upserted_count)

    async def delete_one(self, collection: str, query: Mapping[str, Any], *, operation: str) -> bool:
        """Delete the document that matches; return whether there was one."""
        async with self._call(operation) as session:
            deleted = self.database[collection].delete_one(query, session=session)
            return bool((await unbroken(session, deleted)).deleted_count)

    async def delete_many(self, collection: str, query: Mapping[str, Any], *, operation: str) -> int:
        """Delete the documents that match, each by itself, and return how many there were."""
        async with self._call(operation) as session:
            deleted = self.database[collection].delete_many(query, session=session)
            return int((await unbroken(session, deleted)).deleted_count)

    async def command(self, command: Mapping[str, Any], *, operation: str) -> Document:
        """Run one database command and return its answer. It takes no part in a transaction."""
        async with self._call(operation):
            database = self.database
            answer: Document = await database.command(dict(command), codec_options=database.codec_options)
        return answer

    def watch(
        self,
        collection: str,
        *,
        match: Mapping[str, Any] | None = None,
        after: Position | None = None,
        operation: str,
    ) -> Changes:
        """Return the changes of a collection from when the block is entered, or from a position on.

        `match` is a query on the server's events, such as `{"operationType": "insert",
        "fullDocument.level": "error"}`. Each that is open takes a connection most of the time; where
        that is more than half of them, they take turns, so that calls still find one.
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
        _ = self.opened
        async with self._waits, self._call(operation):
            _ = self.opened  # what was closed meanwhile must not go on
            yield

    def _call(self, operation: str, unique: Unique = ID_ALONE) -> Call:
        """Return what one call of the driver is made in; it gives the ambient transaction's session."""
        return Call(
            self._turns,
            self.settings.mongo_timeout,
            self.under_way,
            operation,
            unique,
            self.transactions.current(),
        )

    async def _began(self) -> Session:
        """Return a session with a transaction begun; it has not been at the server yet."""
        return await load(self.settings.mongo_driver).begin(self.opened)

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
        self._pool = PoolCounter()
        self._turns = Turns(settings.mongo_pool_size)
        self._waits = asyncio.Semaphore(max(1, settings.mongo_pool_size // 2))
        self._version = ""
        with translating("open"):
            return load(settings.mongo_driver).connect(
                settings.mongo_url.get_secret_value(),
                {"event_listeners": [self._pool], **options(settings)},
            )

    async def _disconnect(self, client: Client) -> None:
        await load(self.settings.mongo_driver).close(client)


def _database_name(url: str) -> str:
    return urlsplit(url).path.strip("/")
