"""A local copy of the configurations, kept up to date by the collection's changes."""

import asyncio
from contextlib import suppress
from contextvars import Context
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar, overload
from uuid import UUID

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from multidb.errors import DataError, InvalidCursorError, NotFoundError, NotOpenError
from multidb.stores.mongo.changes import Change, Changes
from multidb.stores.mongo.client import MongoStore
from multidb.stores.mongo.documents import Document

__all__ = ["MISSING", "ConfigurationWatch", "decoded_value"]

T = TypeVar("T")
D = TypeVar("D")

#: Stands for a default that is not given.
MISSING: Final = object()

#: Documents a round trip.
_LOADED = 1000


class _Entry(NamedTuple):
    key: str
    company_id: UUID | None
    version: int
    value: Any


class ConfigurationWatch:
    """The values as they are, read without waiting. Made by `DynamicConfigurationRepository.watch`."""

    def __init__(self, mongo: MongoStore, collection: str, company: UUID | None, *, operation: str) -> None:
        self._mongo = mongo
        self._collection = collection
        self._company = company
        self._operation = operation
        self._entries: dict[UUID, _Entry] = {}
        #: By key, each company's; everybody's is None's.
        self._values: dict[tuple[str, UUID | None], Any] = {}
        self._news = asyncio.Event()
        self._changes: Changes
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._changes = self._mongo.watch(self._collection, operation=self._operation)
        await self._changes.__aenter__()
        try:
            await self._load()
        except BaseException:
            await self._changes.__aexit__(None, None, None)
            raise
        # In a context of its own: whoever enters may be in a transaction.
        self._keeping = asyncio.get_running_loop().create_task(self._keep(self._changes), context=Context())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._keeping is not None
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        # A task that had no turn before it was cancelled has closed nothing.
        await self._changes.__aexit__(None, None, None)
        self._failure()  # seen, so that it is not reported as never retrieved

    @overload
    def value(self, key: str, kind: type[T]) -> T: ...
    @overload
    def value(self, key: str, kind: type[T], *, default: D) -> T | D: ...
    def value(self, key: str, kind: Any, *, default: Any = MISSING) -> Any:
        """Return the value of a key as a `kind`, or `default` if it has none, as the repository's does.

        Raises: NotFoundError; DataError; NotOpenError outside the block; what ended the watching.
        """
        self._check()
        for company in dict.fromkeys((self._company, None)):
            if (key, company) in self._values:
                return decoded_value(key, self._values[key, company], kind, self._operation)
        if default is MISSING:
            raise NotFoundError(f"no value is set for `{key}`", store="mongo", operation=self._operation)
        return default

    async def changed(self) -> None:
        """Wait until a value has changed since this was called.

        Raises: NotOpenError outside the block, also once it is left; what ended the watching.
        """
        self._check()
        news = self._news
        await news.wait()
        self._check()

    def _failure(self) -> BaseException | None:
        keeping = self._keeping
        return None if keeping is None or not keeping.done() or keeping.cancelled() else keeping.exception()

    def _check(self) -> None:
        if self._keeping is None or self._keeping.cancelled():
            raise NotOpenError(
                "this copy is kept inside its block alone: `async with ...watch() as configs`",
                store="mongo",
                operation=self._operation,
            )
        if (error := self._failure()) is not None:
            raise error

    async def _keep(self, changes: Changes) -> None:
        """Follow the changes, and load all anew where that does not do."""
        try:
            while True:
                # Ends where changes were missed, or the collection was dropped with all there was.
                with suppress(InvalidCursorError):
                    async for change in changes:
                        if change.id is None:
                            break
                        if self._apply(change):
                            self._tell()
                await changes.anew(self._load)
                self._tell()
        finally:
            await changes.__aexit__(None, None, None)
            self._tell()

    async def _load(self) -> None:
        found: dict[UUID, _Entry] = {}
        last: Document = {}
        while True:
            query = {"_id": {"$gt": last["_id"]}} if last else {}
            documents = await self._mongo.find(
                self._collection, query, sort=[("_id", 1)], limit=_LOADED, operation=self._operation
            )
            for document in documents:
                found[document["_id"]] = _entry(document)
            if len(documents) < _LOADED:
                break
            last = documents[-1]
        self._entries = found
        self._arrange()

    def _apply(self, change: Change) -> bool:
        """Make a change here too; return whether it was news: what was loaded may be ahead of it."""
        old = self._entries.get(change.id)
        if change.kind == "delete":
            if old is None:
                return False
            del self._entries[change.id]
            self._arrange()
            return True
        # Without a document it is gone by now, which will be told.
        if change.document is None or (old is not None and old.version >= change.document["version"]):
            return False
        self._entries[change.id] = _entry(change.document)
        self._arrange()
        return True

    def _arrange(self) -> None:
        """Find the values by key. One that was removed and set again has two entries until that is told."""
        entries = (self._entries[id] for id in sorted(self._entries))
        self._values = {(entry.key, entry.company_id): entry.value for entry in entries}

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _entry(document: Document) -> _Entry:
    return _Entry(document["key"], document.get("company_id"), document["version"], document["value"])


def decoded_value(key: str, value: Any, kind: Any, operation: str) -> Any:
    """Return a stored value as a `kind`. Raises: DataError that names the key, or what is no kind."""
    try:
        adapter = _adapter(kind)
    except (PydanticUserError, TypeError) as error:
        raise DataError(f"`kind`: {kind!r} is no type that pydantic reads", operation=operation) from error
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in (key, *first["loc"]))
        raise DataError(f"the value of `{place}`: {first['msg']}", operation=operation) from error


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
