"""What may follow a commit on collections: entries appended, documents changed."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from multidb.errors import AlreadyExistsError
from multidb.models.entity import Entity
from multidb.repositories.effects import Delivery, Done, Effect, Effects, Payload
from multidb.repositories.repository import check_version, checked_id
from multidb.repositories.stream_fence import once
from multidb.stores.mongo.documents import Document, Encoded, decoded, encoded
from multidb.stores.mongo.filtering import stored_name

if TYPE_CHECKING:
    from multidb.repositories.append_only import AppendOnlyRepository
    from multidb.repositories.mongo import MongoRepository
    from multidb.repositories.mongo_reader import MongoReader

__all__ = ["DELETE", "AppendEffects", "DocumentEffects", "Nothing", "Whose"]

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
    try:
        await repository._inserts.insert(delivery.encoded)
    except AlreadyExistsError as error:
        if error.columns != ("id",):
            raise


class AppendEffects(Effects["AppendOnlyRepository[Any]"], Generic[EntityT]):
    """Entries that are stored once the transaction has committed, each once. They keep no order."""

    kinds = {"append": Effect(Nothing, _append)}

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


async def _add(repository: Documents, delivery: Delivery[Nothing]) -> None:
    await once(repository._resources.mongo, delivery, lambda: repository._inserts.insert(delivery.encoded))


async def _put(repository: Documents, delivery: Delivery[At]) -> None:
    version = delivery.payload.version
    await once(
        repository._resources.mongo,
        delivery,
        lambda: repository._put(delivery.document, version, *_asked(repository, "put")),
    )


async def _upsert(repository: Documents, delivery: Delivery[By]) -> None:
    by = delivery.payload
    await once(
        repository._resources.mongo,
        delivery,
        lambda: repository._upsert(delivery.document, by.on, by.given, *_asked(repository, "upsert")),
    )


async def _update(repository: Documents, delivery: Delivery[Whose]) -> None:
    id = delivery.payload.id
    await once(
        repository._resources.mongo,
        delivery,
        lambda: repository._update(id, delivery.document, *_asked(repository, "update")),
    )


async def _delete(repository: "MongoReader[Any]", delivery: Delivery[Whose]) -> None:
    query = repository._scoped({"_id": delivery.payload.id}, repository._company("outbox"))
    operation = repository._operation("delete")
    mongo = repository._resources.mongo
    await once(mongo, delivery, lambda: mongo.delete_one(repository.collection, query, operation=operation))


def _asked(repository: Documents, name: str) -> tuple[str, UUID | None]:
    operation = repository._operation(name)
    return operation, repository._company(operation)


#: Documents deleted after a commit: what every collection of them offers.
DELETE = Effect(Whose, _delete)


class DocumentEffects(Effects[Documents], Generic[NewT, ChangesT]):
    """Changes of documents that are made once the transaction has committed.

    Of one document each is made once, in the order of the commits. A call that finds its document by
    other fields than `id` keeps that order with calls that do by the same, and not with those by id.
    """

    kinds = {
        "add": Effect(Nothing, _add),
        "put": Effect(At, _put),
        "upsert": Effect(By, _upsert),
        "update": Effect(Whose, _update),
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
