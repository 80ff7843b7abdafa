"""What may follow a commit on collections: entries appended, documents changed."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from multidb.errors import MultiDBError
from multidb.models.entity import Entity
from multidb.repositories.effects import (
    Delivery,
    DocumentWrite,
    Done,
    Effect,
    Effects,
    FencedEffect,
    Payload,
)
from multidb.repositories.repository import check_version, checked_id
from multidb.stores.mongo.documents import Document, Encoded, decoded, encoded
from multidb.stores.mongo.errors import ID_ALONE, is_about_id
from multidb.stores.mongo.filtering import Query, stored_name
from multidb.stores.mongo.writes import Change, Delete, Insert, Write

if TYPE_CHECKING:
    from multidb.repositories.append_only import AppendOnlyRepository
    from multidb.repositories.mongo import MongoRepository
    from multidb.repositories.mongo_reader import MongoReader

__all__ = ["DELETE", "AppendEffects", "DocumentEffects", "Nothing", "Whose", "changed", "deleted"]

Documents: TypeAlias = "MongoRepository[Any, Any, Any]"

EntityT = TypeVar("EntityT", bound=Entity)
NewT = TypeVar("NewT", bound=BaseModel, default=BaseModel)
ChangesT = TypeVar("ChangesT", bound=BaseModel, default=BaseModel)


class Nothing(Payload):
    """The document says it all."""


class Whose(Payload):
    id: UUID


class At(Payload):
    """The version that a document is put at."""

    version: int


class By(Payload):
    """How a document is found, and which of its fields were given."""

    on: tuple[str, ...]
    given: tuple[str, ...]


async def _append(repository: "AppendOnlyRepository[Any]", delivery: Delivery[Nothing]) -> None:
    for error in (await _append_all(repository, [delivery])).values():
        raise error


async def _append_all(
    repository: "AppendOnlyRepository[Any]", deliveries: Sequence[Delivery[Nothing]]
) -> dict[int, MultiDBError]:
    refused = await repository._resources.mongo.insert_many(
        repository.collection,
        [delivery.encoded for delivery in deliveries],
        operation=repository._operation("append"),
    )
    return {place: error for place, error in refused.items() if not is_about_id(error)}


class AppendEffects(Effects["AppendOnlyRepository[Any]"], Generic[EntityT]):
    """Entries that are stored once the transaction has committed, each once. They keep no order."""

    kinds = {"append": Effect(Nothing, _append, _append_all)}

    def append(self, entry: EntityT) -> Done[UUID]:
        """Store an entry after the commit; its id comes back."""
        return self._told("append", entry)

    def append_many(self, entries: Iterable[EntityT]) -> Done[int]:
        """Store entries after the commit; how many comes back."""
        operation = self._operation("append_many")
        documents = [self._repository._encoded(entry, operation) for entry in entries]
        for document in documents:
            self._tell("append", Nothing(), document=document)
        return Done(len(documents))

    def _told(self, name: str, entry: EntityT, stream: str | None = None) -> Done[UUID]:
        document = self._repository._encoded(entry, self._operation(name))
        self._tell("append", Nothing(), document=document, stream=stream)
        return Done(entry.id)


def _add(repository: Documents, delivery: Delivery[Nothing]) -> DocumentWrite:
    return _written(repository, "add", Insert(delivery.encoded))


def _put(repository: Documents, delivery: Delivery[At]) -> DocumentWrite:
    query, change = repository._putting(delivery.encoded, delivery.payload.version)
    return changed(repository, "put", query, change, upsert=True)


def _upsert(repository: Documents, delivery: Delivery[By]) -> DocumentWrite:
    by = delivery.payload
    query, change = repository._upserting(delivery.document, by.on, by.given)
    return changed(repository, "upsert", query, change, upsert=True)


def _update(repository: Documents, delivery: Delivery[Whose]) -> DocumentWrite:
    id = delivery.payload.id
    change = repository._change(delivery.document, repository._operation("update"))
    return changed(repository, "update", {"_id": id}, change, missing=repository._not_found(id, "update"))


def _delete(repository: "MongoReader[Any]", delivery: Delivery[Whose]) -> DocumentWrite:
    return deleted(repository, "delete", {"_id": delivery.payload.id})


def changed(
    repository: Documents,
    name: str,
    query: Query,
    change: Document | list[Document],
    *,
    upsert: bool = False,
    missing: MultiDBError | None = None,
) -> DocumentWrite:
    """Return the change of a document that the company of the call may see."""
    scoped = repository._scoped(query, repository._company(repository._operation(name)))
    return _written(repository, name, Change(scoped, change, upsert), missing)


def deleted(repository: "MongoReader[Any]", name: str, query: Query) -> DocumentWrite:
    """Return the deletion of a document that the company of the call may see."""
    operation = repository._operation(name)
    scoped = repository._scoped(query, repository._company(operation))
    return DocumentWrite(repository.collection, Delete(scoped), operation, ID_ALONE)


def _written(
    repository: Documents, name: str, write: Write, missing: MultiDBError | None = None
) -> DocumentWrite:
    operation = repository._operation(name)
    return DocumentWrite(repository.collection, write, operation, repository._unique, missing)


#: Documents deleted after a commit: what every collection of them offers.
DELETE = FencedEffect(Whose, _delete)


class DocumentEffects(Effects[Documents], Generic[NewT, ChangesT]):
    """Changes of documents that are made once the transaction has committed.

    Of one document each is made once, in the order of the commits. A call that finds its document by
    other fields than `id` keeps that order with calls that do by the same, and not with those by id.
    """

    kinds = {
        "add": FencedEffect(Nothing, _add),
        "put": FencedEffect(At, _put),
        "upsert": FencedEffect(By, _upsert),
        "update": FencedEffect(Whose, _update),
        "delete": DELETE,
    }

    def add(self, new: NewT) -> Done[UUID]:
        """Store a new document after the commit; its id comes back."""
        document, values = self._new(new, "add")
        self._about(values["_id"], "add", Nothing(), document)
        return Done(values["_id"])

    def put(self, new: NewT, *, version: int) -> Done[None]:
        """Store a document at this version after the commit, unless it has that one or a later one."""
        check_version(version, self._operation("put"))
        document, values = self._new(new, "put")
        return self._about(values["_id"], "put", At(version=version), document)

    def upsert(self, new: NewT, *, on: str | Sequence[str] = "id") -> Done[None]:
        """Store a new document after the commit, or change the one that has the same `on`."""
        names = self._repository._index(on, self._operation("upsert"))
        document, stored = self._new(new, "upsert")
        by = By(on=names, given=tuple(sorted(new.model_fields_set - {*names, "id"})))
        values = [str(stored.get(stored_name(name))) for name in names]
        return self._about("/".join(values), "upsert", by, document)

    def update(self, id: UUID, changes: ChangesT | None = None, **fields: Any) -> Done[None]:
        """Change fields of a document after the commit. If it is not there then, that is a dead letter."""
        operation = self._operation("update")
        checked_id(id, operation)
        values = self._repository._changed(changes, fields, operation, self._repository._company(operation))
        document = encoded(values, operation=operation)
        return self._about(id, "update", Whose(id=id), document)

    def delete(self, id: UUID) -> Done[None]:
        """Delete a document after the commit, if it is there then."""
        checked_id(id, self._operation("delete"))
        return self._about(id, "delete", Whose(id=id))

    def _new(self, new: NewT, name: str) -> tuple[Encoded, Document]:
        operation = self._operation(name)
        document = self._repository._new(new, operation, self._repository._company(operation))
        return document, decoded(document)

    def _about(
        self, what: object, name: str, payload: Payload, document: Encoded | None = None
    ) -> Done[None]:
        tenant = self._repository._company(self._operation(name))
        self._tell(name, payload, document=document, stream=str(what), tenant=tenant)
        return Done(None)
