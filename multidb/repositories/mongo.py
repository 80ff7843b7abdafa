"""`MongoRepository`: the calls every collection has whose documents may change."""

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, NoReturn, TypeAlias
from uuid import UUID

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typing_extensions import TypeVar

from multidb.errors import AlreadyExistsError, DataError
from multidb.models.entity import VersionedDocument
from multidb.models.fields import utc_now
from multidb.repositories.chunks import Progress
from multidb.repositories.criteria import some
from multidb.repositories.declaration import changes_of, check_fields, check_kept, new_of
from multidb.repositories.document_effects import DocumentEffects
from multidb.repositories.effects import Effects
from multidb.repositories.mongo_reader import MongoReader
from multidb.repositories.repository import (
    Resources,
    changed_values,
    check_expected,
    check_fence,
    check_version,
    checked_class,
    checked_id,
    misdeclared,
    model_arguments,
    overtaken,
)
from multidb.repositories.shared_inserts import SharedInserts
from multidb.stores.mongo.documents import Document, Encoded, decoded, encoded
from multidb.stores.mongo.errors import ID_ALONE
from multidb.stores.mongo.filtering import Filter, Query, stored_name

__all__ = ["MongoRepository"]

ModelT = TypeVar("ModelT", bound=VersionedDocument)
NewT = TypeVar("NewT", bound=BaseModel, default=BaseModel)
ChangesT = TypeVar("ChangesT", bound=BaseModel, default=BaseModel)

#: As MongoDB takes it: operators, or a pipeline.
Change: TypeAlias = Document | list[Document]

#: How often an upsert tries again that met another one of the same document.
_TRIES = 10


class MongoRepository(MongoReader[ModelT], Generic[ModelT, NewT, ChangesT]):
    """Documents of one collection, as `ModelT`; added as `NewT`, changed by `ChangesT`.

    Where no model is declared for what is added, it is made of the fields of `ModelT`, `new_model`;
    and where none is declared for changes, of those of what is added. The repository keeps
    `version`, `created_at` and `updated_at`.

    Outside `db.mongo_transaction()` each change of one document is atomic by itself, and those of
    many are not together. Inside `db.tenant(...)` a document of another company is neither seen nor
    changed, and none can be added.
    """

    effects: ClassVar[type[Effects[Any]] | None] = DocumentEffects

    #: Which fields each unique index is about, for the errors and for `upsert`.
    unique: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    new_model: ClassVar[type[BaseModel]]
    changes_model: ClassVar[type[BaseModel]]
    #: The fields that are not given, and begin with their default.
    _initial: ClassVar[Mapping[str, FieldInfo]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        models = model_arguments(cls, MongoRepository)
        if models and all(isinstance(model, type) for model in models):
            model, new, changes = models
            # BaseModel itself is the default: none was declared.
            cls.new_model = new_of(model) if new is BaseModel else new
            cls.changes_model = changes_of(cls.new_model) if changes is BaseModel else changes
            cls._initial = {
                name: field
                for name, field in model.model_fields.items()
                if name not in cls.new_model.model_fields and not field.is_required()
            }

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._unique = {**ID_ALONE, **self.unique}
        self._inserts = SharedInserts(resources.mongo, self.collection, self._operation("add"), self._unique)

    @classmethod
    def check(cls) -> None:
        super().check()
        if not hasattr(cls, "new_model"):
            raise misdeclared(cls, "declare `class Name(MongoRepository[Model, New])` and its `collection`")
        check_kept(cls, cls.model, cls.new_model)
        check_fields(cls, cls.model, {cls.new_model.__name__: cls.new_model.model_fields})
        check_fields(cls, cls.model, {cls.changes_model.__name__: cls.changes_model.model_fields})
        check_fields(cls, cls.model, cls.unique)

    # --- one document

    async def add(self, new: NewT) -> ModelT:
        """Store a new document and return it.

        Calls that meet share one message; each has its own result and its own error.

        Raises: AlreadyExistsError naming the fields if a unique value is taken, the id included,
        so that adding the same thing again after a lost answer is refused; ConstraintError.
        """
        operation = self._operation("add")
        document = self._new(new, operation, self._company(operation))
        await self._inserts.insert(document)
        return self._read(decoded(document))

    async def update(
        self,
        id: UUID,
        changes: ChangesT | None = None,
        *,
        version: int | None = None,
        fence: int | None = None,
        **fields: Any,
    ) -> ModelT:
        """Change the given fields and return the document as it is then, its version one higher.

        With `version`, only if the document still has that one. With `fence`, the number a lock
        gave, only if no holder of a later lock has written; the model needs a field `fence`. A call
        that changes nothing returns the document as it is.

        Raises: NotFoundError; ConflictError if the document has another version by now, which it
        tells, or if the fence is passed; AlreadyExistsError; ConstraintError.
        """
        operation = self._operation("update")
        checked_id(id, operation)
        check_expected(version, operation)
        company = self._company(operation)
        values = self._changed(changes, fields, operation, company)
        query: Query = {"_id": id} if version is None else {"_id": id, "version": version}
        if fence is not None:
            check_fence(fence, operation)
            if "fence" not in self.model.model_fields:
                raise DataError(f"`fence`: {self.model.__name__} has no such field", operation=operation)
            query["fence"] = {"$not": {"$gt": fence}}
            values["fence"] = fence
        if values:
            document = await self._change_one(query, self._change(values, operation), operation, company)
            if document is not None:
                return self._read(document)
        else:
            unchanged = await self._shared.load(id, company)
            if unchanged is not None and version in (None, unchanged.version):
                return unchanged
        return await self._explain_miss(id, version, fence, "update", company)

    async def upsert(self, new: NewT, *, on: str | Sequence[str] = "id") -> ModelT:
        """Store a new document, or change the one that has the same `on`; return it as it is then.

        `on` names the fields of a unique index. Of a document that is there, the fields that were
        given to `new` change, those that it has by default stay, and so does the id. Atomic,
        however many do it at once.

        Raises: AlreadyExistsError if another unique value is taken, or a document of another
        company has `on`; ConstraintError.
        """
        operation = self._operation("upsert")
        company = self._company(operation)
        names = self._index(on, operation)
        document = decoded(self._new(new, operation, company))
        given = new.model_fields_set - {*names, "id"}
        return await self._upserted(*self._upserting(document, names, given), names, operation, company)

    async def put(self, new: NewT, *, version: int) -> ModelT:
        """Store a document at this version, or replace the one with its id; return what is there then.

        A document that has this version already, or a later one, stays as it is, and is what comes
        back: so what is told twice or in another order than it happened, ends as the last of it.
        The version is the caller's, such as that of the row in PostgreSQL whose id the document
        has; an `update` raises it by one, so do not mix the two. Atomic, however many do it at once.

        Raises: AlreadyExistsError if another unique value is taken, or a document of another
        company has this id; ConstraintError.
        """
        operation = self._operation("put")
        company = self._company(operation)
        check_version(version, operation)
        document = self._new(new, operation, company)
        return await self._upserted(*self._putting(document, version), ("id",), operation, company)

    async def delete(self, id: UUID, *, version: int | None = None) -> bool:
        """Delete the document; return whether it was there. Idempotent.

        Raises: ConflictError if `version` is given and the document has another by now.
        """
        operation = self._operation("delete")
        checked_id(id, operation)
        check_expected(version, operation)
        company = self._company(operation)
        query: Query = {"_id": id} if version is None else {"_id": id, "version": version}
        deleted = await self._resources.mongo.delete_one(
            self.collection, self._scoped(query, company), operation=operation
        )
        if not deleted and version is not None and await self._shared.load(id, company) is not None:
            await self._explain_miss(id, version, None, "delete", company)
        return deleted

    # --- many documents

    async def add_many(
        self, new: Iterable[NewT] | AsyncIterable[NewT], *, progress: Progress | None = None
    ) -> int:
        """Store new documents and return how many.

        Takes any number, also from an iterator or an async iterator, 1,000 a message; `progress` is
        called after each with how many there are so far. Not atomic outside a transaction: where
        some of a message are refused its others are stored, and what follows it is not.

        Raises: AlreadyExistsError, whose `keys` are the values of `columns` that were refused;
        ConstraintError.
        """
        operation = self._operation("add_many")
        company = self._company(operation)
        return await self._inserts.insert_all(
            new, lambda each: self._new(each, operation, company), operation, progress
        )

    async def update_many(self, *filters: Filter, changes: ChangesT | Mapping[str, Any], **equal: Any) -> int:
        """Change the documents that match every filter and return how many; filters as for `find`.

        Each by itself: after an error, some may have changed. At least one filter must be given.

        Raises: AlreadyExistsError; ConstraintError.
        """
        operation = self._operation("update_many")
        query = self._query(some(filters, equal, "{}", operation), equal, operation)
        by_name = changes if isinstance(changes, Mapping) else {}
        as_model = None if isinstance(changes, Mapping) else changes
        values = self._changed(as_model, by_name, operation, self._company(operation))
        if not values:
            return await self._count(query, operation)
        return await self._resources.mongo.change_many(
            self.collection,
            query,
            self._change(values, operation),
            operation=operation,
            unique=self._unique,
        )

    async def delete_many(self, *filters: Filter, **equal: Any) -> int:
        """Delete the documents that match every filter and return how many.

        Each by itself: after an error, some may be gone. At least one filter must be given.
        """
        operation = self._operation("delete_many")
        query = self._query(some(filters, equal, "{}", operation), equal, operation)
        return await self._resources.mongo.delete_many(self.collection, query, operation=operation)

    # --- how

    def _new(self, new: NewT, operation: str, company: UUID | None) -> Encoded:
        """Return what is added as the document that is stored. Raises: DataError."""
        checked_class(self.new_model, new, operation)
        values = new.model_dump(warnings=False)
        self._check_company(values, operation, company)
        initial = {
            name: field.get_default(call_default_factory=True) for name, field in self._initial.items()
        }
        now = utc_now()
        kept = {"created_at": now, "updated_at": now, "version": 1}
        return encoded(self._document({**initial, **values, **kept}), operation=operation)

    def _changed(
        self, changes: ChangesT | None, fields: Mapping[str, Any], operation: str, company: UUID | None
    ) -> dict[str, Any]:
        values = changed_values(self.changes_model, changes, fields, operation)
        self._check_company(values, operation, company)
        return values

    def _check_company(self, values: Mapping[str, Any], operation: str, company: UUID | None) -> None:
        if company is not None and values.get(self.tenant or "", company) != company:
            raise DataError(
                f"`{self.tenant}` must be the company of `db.tenant(...)`, or call it inside `db.unscoped()`",
                operation=operation,
            )

    def _change(
        self, values: Mapping[str, Any], operation: str, *, at: datetime | None = None
    ) -> dict[str, Any]:
        """Return the change to these values, by field, as MongoDB takes it. Raises: DataError."""
        absent = {name for name, value in values.items() if value is None and name in self._absent}
        given = {name: value for name, value in values.items() if name not in absent}
        return {
            "$set": encoded(given, operation=operation),
            "$unset": dict.fromkeys(absent, ""),
            "$inc": {"version": 1},
            # A process whose clock is behind does not set it back.
            "$max": {"updated_at": at or utc_now()},
        }

    def _upserting(
        self, document: Document, names: Sequence[str], given: Iterable[str]
    ) -> tuple[Query, Change]:
        """Return what finds a document by these fields, and what changes those given or makes one."""
        query = {stored_name(name): {"$eq": document.get(stored_name(name))} for name in names}
        values = {name: document.get(name) for name in given}
        # Of a new document both times are the same moment.
        change = self._change(values, self._operation("upsert"), at=document["updated_at"])
        kept = {*given, *query, "updated_at", "version"}
        change["$setOnInsert"] = {name: value for name, value in document.items() if name not in kept}
        return query, change

    def _putting(self, document: Encoded, version: int) -> tuple[Query, Change]:
        """Return what finds a document by its id, and what puts it at a version unless it has a later one."""
        is_new: Document = {"$eq": [{"$type": "$version"}, "missing"]}
        is_later: Document = {"$lt": [{"$ifNull": ["$version", 0]}, version]}
        once = [name for name in ("created_at", *self._initial) if name in document]
        first = {name: {"$cond": [is_new, {"$literal": document[name]}, f"${name}"]} for name in once}
        absent = sorted(self._absent - {*document, *self._initial})
        # Not `$unsetField`, one within the other: MongoDB takes no more than 200 levels.
        stays = {"$not": {"$in": ["$$this.k", absent]}}
        rest: Document = {
            "$arrayToObject": {"$filter": {"input": {"$objectToArray": "$$ROOT"}, "cond": stays}}
        }
        put = {"$mergeObjects": [rest, {"$literal": document}, first, {"version": version}]}
        return {"_id": document["_id"]}, [{"$replaceWith": {"$cond": [is_later, put, "$$ROOT"]}}]

    async def _change_one(
        self, query: Query, change: Change, operation: str, company: UUID | None, *, upsert: bool = False
    ) -> Document | None:
        return await self._resources.mongo.change_one(
            self.collection,
            self._scoped(query, company),
            change,
            upsert=upsert,
            operation=operation,
            unique=self._unique,
        )

    async def _upserted(
        self, query: Query, change: Change, on: Sequence[str], operation: str, company: UUID | None
    ) -> ModelT:
        """Change the document that matches or make one; again where another call made it meanwhile."""
        in_transaction = self._resources.mongo.transactions.current() is not None
        for attempt in range(1, _TRIES + 1):
            try:
                document = await self._change_one(query, change, operation, company, upsert=True)
            except AlreadyExistsError as error:
                if set(error.columns) != set(on) or in_transaction or attempt == _TRIES:
                    raise
            else:
                assert document is not None  # an upsert always has one
                return self._read(document)
        raise AssertionError("unreachable")

    def _index(self, on: str | Sequence[str], operation: str) -> tuple[str, ...]:
        """Return the fields of the unique index an upsert finds by. Raises: DataError if there is none."""
        names = (on,) if isinstance(on, str) or not isinstance(on, Sequence) else tuple(on)
        for fields in self._unique.values():
            if set(fields) == set(names):
                return fields
        raise DataError(
            f"`on`: no unique index of `{self.collection}` is about {', '.join(map(str, names))}",
            operation=operation,
        )

    async def _explain_miss(
        self, id: UUID, version: int | None, fence: int | None, name: str, company: UUID | None
    ) -> NoReturn:
        document = await self._shared.load(id, company)
        if document is None:
            raise self._not_found(id, name)
        raise overtaken(
            self.model,
            id,
            version=document.version,
            wanted=version,
            fence=fence,
            store="mongo",
            operation=self._operation(name),
        )
