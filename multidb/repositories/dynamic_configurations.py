"""Dynamic configurations: values by key, each version kept. MongoDB `dynamic_configurations`.

A company's value stands before everybody's: inside `db.tenant(...)` a key is set for that company,
and where it has no value of its own, everybody's is read.
"""

from typing import Any, ClassVar, TypeVar, overload
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from multidb.errors import AlreadyExistsError, ConflictError, DataError, NotFoundError
from multidb.models.dynamic_configurations import (
    ConfigurationKey,
    ConfigurationVersion,
    DynamicConfiguration,
    DynamicConfigurationFields,
)
from multidb.models.fields import utc_now
from multidb.models.ids import uuid7
from multidb.repositories.collection_effects import ConfigurationEffects
from multidb.repositories.configuration_watch import MISSING, ConfigurationWatch, decoded_value
from multidb.repositories.mongo_reader import MongoReader
from multidb.repositories.repository import check_expected, checked_id
from multidb.stores.mongo.documents import Document, decoded, encoded
from multidb.stores.mongo.errors import ID_ALONE, Unique

__all__ = ["MAX_HISTORY", "MAX_VALUE", "DynamicConfigurationRepository"]

T = TypeVar("T")
D = TypeVar("D")

#: The versions a key keeps, and the bytes one value may take: together they fit into a document.
MAX_HISTORY = 100
MAX_VALUE = 100_000

_KEY = TypeAdapter[str](ConfigurationKey)
#: How often a value is set again that met another one of its key.
_TRIES = 10


class DynamicConfigurationRepository(MongoReader[DynamicConfiguration]):
    """The calls on configurations. `get` and `fetch` are by id, as everywhere; `value` is by key."""

    c: ClassVar[DynamicConfigurationFields]
    collection = "dynamic_configurations"
    order_by = "key"
    tenant = "company_id"
    effects = ConfigurationEffects

    _unique: ClassVar[Unique] = {**ID_ALONE, "key_company_id": ("key", "company_id")}

    @overload
    async def value(self, key: str, kind: type[T]) -> T: ...
    @overload
    async def value(self, key: str, kind: type[T], *, default: D) -> T | D: ...
    async def value(self, key: str, kind: Any, *, default: Any = MISSING) -> Any:
        """Return the value of a key as a `kind`, or `default` if it has none.

        `kind` is any type that pydantic reads: `int`, `list[str]`, a model.

        Raises: NotFoundError if it has none and no default is given; DataError that names the key if
        the stored value does not fit.
        Source: MongoDB, index `key_company_id`; not cached. `watch` keeps a copy at hand.
        """
        operation = self._operation("value")
        company = self._company(operation)
        query = {"key": _checked_key(key, operation), "company_id": {"$in": [company, None]}}
        # Null comes before every id.
        documents = await self._documents(query, [("company_id", -1)], 1, operation)
        if documents:
            return decoded_value(key, documents[0]["value"], kind, operation)
        if default is MISSING:
            raise NotFoundError(f"no value is set for `{key}`", store="mongo", operation=operation)
        return default

    async def by_key(self, key: str) -> DynamicConfiguration | None:
        """Return a key's entry, with its history: the company's inside `db.tenant(...)`, else everybody's.

        Source: MongoDB, index `key_company_id`; not cached.
        """
        operation = self._operation("by_key")
        documents = await self._documents(self._own(key, operation), (), 1, operation)
        return self._read(documents[0]) if documents else None

    async def set(
        self, key: str, value: Any, *, version: int | None = None, by: str | None = None
    ) -> DynamicConfiguration:
        """Give a key a value, a version higher, and return the entry.

        The value is stored as JSON has it; models and dataclasses are dumped. With `version`, only if
        the key still has that one, 0 for none at all. `by` says in the history who did it. Value and
        history change together; the history keeps the last 100 versions.

        Raises: ConflictError if the key has another version by now, which it tells; DataError if the
        value has no JSON, or takes more than 100,000 bytes.
        """
        operation = self._operation("set")
        check_expected(version, operation)
        query = self._own(key, operation)
        if version is not None:
            query["version"] = version
        change = self._setting(_stored(key, value, by, operation))
        for attempt in range(1, _TRIES + 1):
            try:
                document = await self._resources.mongo.change_one(
                    self.collection,
                    query,
                    change,
                    upsert=not version,
                    operation=operation,
                    unique=self._unique,
                )
            except AlreadyExistsError as error:
                # Another call made it meanwhile; or it is there, in another version.
                in_transaction = self._resources.mongo.transactions.current() is not None
                if version == 0 and in_transaction:
                    # The server has ended it, and nothing more can be asked there.
                    raise ConflictError(
                        f"`{key}` has a version by now", store="mongo", operation=operation
                    ) from error
                if version == 0:
                    raise await self._overtaken(key, operation) from error
                if in_transaction or attempt == _TRIES:
                    raise
            else:
                if document is None:
                    raise await self._overtaken(key, operation)
                return self._read(document)
        raise AssertionError("unreachable")

    async def rollback(
        self, key: str, *, to: int, version: int | None = None, by: str | None = None
    ) -> DynamicConfiguration:
        """Give a key the value again that it had in the version `to`, as a new version; return the entry.

        `version` and `by` are as for `set`.

        Raises: NotFoundError if the history has no such version; ConflictError.
        """
        operation = self._operation("rollback")
        if type(to) is not int:
            raise DataError("`to` must be the number of a version", operation=operation)
        entry = await self.by_key(key)
        for past in () if entry is None else entry.history:
            if past.version == to:
                return await self.set(key, past.value, version=version, by=by)
        raise NotFoundError(f"`{key}` has no version {to} in its history", store="mongo", operation=operation)

    async def history(self, key: str) -> tuple[ConfigurationVersion, ...]:
        """Return the versions of a key that are kept, the newest first: when they were set, and by whom."""
        entry = await self.by_key(key)
        return () if entry is None else entry.history[::-1]

    async def remove(self, key: str, *, version: int | None = None) -> bool:
        """Remove a key and its history; return whether it was there. Idempotent.

        Raises: ConflictError if `version` is given and the key has another by now.
        """
        operation = self._operation("remove")
        check_expected(version, operation)
        query = self._own(key, operation)
        if version is not None:
            query["version"] = version
        removed = await self._resources.mongo.delete_one(self.collection, query, operation=operation)
        if not removed and version is not None and await self.by_key(key) is not None:
            raise await self._overtaken(key, operation)
        return removed

    async def delete(self, id: UUID) -> bool:
        """Remove the key of the entry with this id, as `remove` does."""
        operation = self._operation("delete")
        checked_id(id, operation)
        query = self._scoped({"_id": id}, self._company(operation))
        return await self._resources.mongo.delete_one(self.collection, query, operation=operation)

    def watch(self) -> ConfigurationWatch:
        """Return a local copy of all values, kept up to date while the block lasts.

        ::

            async with db.dynamic_configurations.watch() as configs:
                limit = configs.value("limits.uploads", int, default=10)

        It is complete when the block is entered. Changes arrive in moments; while MongoDB is away the
        copy stays as it is, and none is missed. Inside `db.tenant(...)` it is of that company's values
        and everybody's.

        Raises: UnavailableError when entering, if MongoDB cannot be reached.
        """
        operation = self._operation("watch")
        return ConfigurationWatch(
            self._resources.mongo, self.collection, self._company(operation), operation=operation
        )

    def _own(self, key: str, operation: str) -> dict[str, Any]:
        return {
            "key": {"$eq": _checked_key(key, operation)},
            "company_id": {"$eq": self._company(operation)},
        }

    def _entry(self, key: str, value: Any, by: str | None, operation: str) -> Document:
        """Return a version to be, without its number. Raises: DataError."""
        self._own(key, operation)  # which checks the key
        return _stored(key, value, by, operation)

    @staticmethod
    def _setting(entry: Document) -> list[Document]:
        """Return what makes `entry` the present: a pipeline, for its number follows the last one."""
        version: Document = {"$add": [{"$ifNull": ["$version", 0]}, 1]}
        now = entry["set_at"]
        return [
            {
                "$set": {
                    "_id": {"$ifNull": ["$_id", uuid7()]},
                    "version": version,
                    "value": {"$literal": entry["value"]},
                    "created_at": {"$ifNull": ["$created_at", now]},
                    "updated_at": {"$max": ["$updated_at", now]},
                    "history": {
                        "$slice": [
                            {
                                "$concatArrays": [
                                    {"$ifNull": ["$history", []]},
                                    [{"$mergeObjects": [{"$literal": entry}, {"version": version}]}],
                                ]
                            },
                            -MAX_HISTORY,
                        ]
                    },
                }
            },
            # An upsert has it from the query, and everybody's entries have none.
            {"$set": {"company_id": {"$ifNull": ["$company_id", "$$REMOVE"]}}},
        ]

    async def _overtaken(self, key: str, operation: str) -> ConflictError:
        entry = await self.by_key(key)
        version = 0 if entry is None else entry.version
        return ConflictError(
            f"`{key}` has the version {version} by now", version=version, store="mongo", operation=operation
        )


def _checked_key(key: str, operation: str) -> str:
    try:
        return _KEY.validate_python(key, strict=True)
    except ValidationError as error:
        raise DataError(
            "a key is words of letters, digits, `_` and `-`, joined by dots, 200 characters at most",
            operation=operation,
        ) from error


def _stored(key: str, value: Any, by: str | None, operation: str) -> Document:
    """Return a version to be, without its number. Raises: DataError."""
    try:
        plain = to_jsonable_python(value, inf_nan_mode="constants")
    except (
        ValueError
    ) as error:  # as pydantic's own is, that of bytes which are no text, and of what is endless
        raise DataError(f"the value of `{key}` has no JSON", operation=operation) from error
    try:
        version = ConfigurationVersion(version=1, value=plain, set_at=utc_now(), set_by=by)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise DataError(f"`{key}`: {first['loc'][0]}: {first['msg']}", operation=operation) from error
    document = encoded(version.model_dump(), operation=operation)
    if len(document.raw) > MAX_VALUE:
        raise DataError(
            f"the value of `{key}` takes {len(document.raw):,} bytes, more than {MAX_VALUE:,}",
            operation=operation,
        )
    return decoded(document)
