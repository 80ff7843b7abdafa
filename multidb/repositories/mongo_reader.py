"""`MongoReader`: the calls every collection has that change nothing."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, cast, get_type_hints
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from multidb.errors import NotFoundError, StoreName
from multidb.models.entity import Entity
from multidb.models.page import Page
from multidb.repositories.collection_criteria import keyset_of, matching
from multidb.repositories.criteria import OrderBy, fields_class
from multidb.repositories.declaration import check_documents, check_fields
from multidb.repositories.paging import Asked, Place, page_of
from multidb.repositories.repository import (
    Repository,
    Resources,
    checked_class,
    checked_id,
    checked_ids,
    misdeclared,
    model_arguments,
    page_size,
)
from multidb.repositories.shared_gets import SharedGets
from multidb.repositories.stored_documents import document_reader
from multidb.stores.mongo.documents import Document, Encoded, encoded
from multidb.stores.mongo.filtering import Filter, Query, conjunction, stored_name
from multidb.stores.mongo.keyset import Keyset

__all__ = ["MongoReader"]

ModelT = TypeVar("ModelT", bound=Entity)

#: Documents a round trip of `stream`, and ids one of `get_many`.
_STREAMED = 1000


class MongoReader(Repository, Generic[ModelT]):
    """Documents of one collection, as `ModelT`, to be read. The model's `id` is the document's `_id`.

    Filters are conditions over the fields, `db.system_logs.c.level == "error"`, or MongoDB's own
    queries over what is stored; what is given by name, `level="error"`, must be equal (None for
    null, which a field that is not there is too).

    With `tenant`, the field that names the company a document belongs to, every call inside
    `db.tenant(...)` sees that company's documents only.

    Every method takes part in the ambient `db.mongo_transaction()`, and none in `db.transaction()`.
    All raise UnavailableError if MongoDB cannot be reached, and DataError for a value or a field
    name that does not fit.
    """

    store: ClassVar[StoreName] = "mongo"
    collection: ClassVar[str]
    #: The order of `find` where the caller names none.
    order_by: ClassVar[str] = "id"
    #: The field that holds the id of the company a document belongs to; None where they belong to nobody.
    tenant: ClassVar[str | None] = None
    #: The fields, to make conditions and orders of. A subclass annotates its own class of them.
    c: ClassVar[Any]

    model: ClassVar[type[Entity]]
    #: The fields that a document lacks where they are None, for reading gives that back.
    _absent: ClassVar[frozenset[str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        models = model_arguments(cls, MongoReader)
        if models and isinstance(models[0], type):
            cls.model = models[0]
            cls.c = fields_class(cls)(cls.model.__name__, cls.model.model_fields)
            cls._absent = frozenset(
                name for name, field in cls.model.model_fields.items() if field.default is None
            )

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        #: Returns a document that came from MongoDB as a model.
        self._read = document_reader(cast(type[ModelT], self.model), self._operation("read"))
        self._shared = SharedGets(
            resources.mongo, self.collection, self._operation("get"), self._scoped, self._read
        )

    @classmethod
    def target(cls) -> str:
        return cls.collection

    @classmethod
    def check(cls) -> None:
        if not hasattr(cls, "model") or not hasattr(cls, "collection"):
            raise misdeclared(cls, "declare `class Name(MongoRepository[Model, New])` and its `collection`")
        check_fields(cls, cls.model, {"order_by": [cls.order_by.removeprefix("-")]})
        check_fields(cls, cls.model, {"tenant": [] if cls.tenant is None else [cls.tenant]})
        check_fields(cls, cls.model, {f"c: {type(cls.c).__name__}": get_type_hints(type(cls.c))})
        check_documents(cls, cls.model)

    # --- reading

    async def get(self, id: UUID) -> ModelT | None:
        """Return the document with this id, or None.

        Calls that meet share one query.

        Source: MongoDB; not cached.
        """
        operation = self._operation("get")
        checked_id(id, operation)
        return await self._shared.load(id, self._company(operation))

    async def fetch(self, id: UUID) -> ModelT:
        """Return the document with this id, as `get` does.

        Raises: NotFoundError if there is none.
        """
        document = await self.get(id)
        if document is None:
            raise self._not_found(id, "fetch")
        return document

    async def get_many(self, ids: Iterable[UUID]) -> dict[UUID, ModelT]:
        """Return the documents with these ids by their id, in the order asked; ids without one are left out.

        Source: MongoDB, a round trip for each 1,000.
        """
        operation = self._operation("get_many")
        wanted = checked_ids(ids, operation)
        company = self._company(operation)
        found: dict[UUID, ModelT] = {}
        for start in range(0, len(wanted), _STREAMED):
            query = self._scoped({"_id": {"$in": wanted[start : start + _STREAMED]}}, company)
            for document in await self._documents(query, (), _STREAMED, operation):
                read = self._read(document)
                found[read.id] = read
        return {id: found[id] for id in wanted if id in found}

    async def find(
        self,
        *filters: Filter,
        order_by: OrderBy | None = None,
        limit: int = 50,
        after: str | None = None,
        before: str | None = None,
        total: bool = False,
        **equal: Any,
    ) -> Page[ModelT]:
        """Return one page of the documents that match every filter.

        `order_by` names fields, `-name` for descending; null counts as less than every value, as it
        does to MongoDB's indexes, and ties are broken by `id`. `limit` is 1 to 1000. Give a page's
        `next` as `after` for the page that follows it, or its `previous` as `before` for the one it
        follows: documents added or removed meanwhile make it neither repeat nor skip one that was
        there throughout. With `total` a second query counts all that match.

        Raises: InvalidCursorError if a cursor comes from another query.
        Source: MongoDB; the cost grows with `limit`, not with the depth of the page, where an index
        has the fields of the filter by equality, and then those of the order, `_id` last.
        """
        operation = self._operation("find")
        asked = Asked(after, before, operation)
        size = page_size(limit, operation)
        query = self._query(filters, equal, operation)
        keyset = self._keyset(order_by, operation)
        # What a cursor is good for: this query, with these values, for this company.
        bound = repr((self.collection, query, keyset.sort())).encode()
        place = asked.place(self._resources.cursors, bound)
        documents, more = await self._found(query, keyset, size, place, operation, backwards=asked.backwards)
        return page_of(
            list(map(self._read, documents)),
            documents,
            keyset.position,
            asked=asked,
            place=place,
            more=more,
            cursors=self._resources.cursors,
            query=bound,
            total=await self._count(query, operation) if total else None,
        )

    def stream(
        self, *filters: Filter, order_by: OrderBy | None = None, **equal: Any
    ) -> AsyncIterator[ModelT]:
        """Yield every document that matches, in order; filters and order as for `find`.

        Documents come 1,000 a round trip, each found by where the last one ended, and nothing is
        held between them: the consumer may be slow, and stop at any. One that is there throughout
        comes exactly once; one added, changed or removed meanwhile may come or not. Whose documents
        they are is decided by the call, wherever they are consumed.

        Source: MongoDB.
        """
        operation = self._operation("stream")
        query = self._query(filters, equal, operation)
        return self._stream(query, self._keyset(order_by, operation), operation)

    async def _stream(self, query: Query, keyset: Keyset, operation: str) -> AsyncIterator[ModelT]:
        place: Place | None = None
        while True:
            documents, more = await self._found(query, keyset, _STREAMED, place, operation)
            if documents:
                place = Place(keyset.position(documents[-1]))
            for document in documents:
                yield self._read(document)
            if not more:
                return

    async def find_one(self, *filters: Filter, **equal: Any) -> ModelT | None:
        """Return the one document that matches, or None; of several, the first by id."""
        operation = self._operation("find_one")
        query = self._query(filters, equal, operation)
        documents = await self._documents(query, [("_id", 1)], 1, operation)
        return self._read(documents[0]) if documents else None

    async def count(self, *filters: Filter, **equal: Any) -> int:
        """Return how many documents match; filters as for `find`. The cost grows with that number."""
        operation = self._operation("count")
        return await self._count(self._query(filters, equal, operation), operation)

    async def exists(self, *filters: Filter, **equal: Any) -> bool:
        """Return whether any document matches; filters as for `find`."""
        operation = self._operation("exists")
        query = self._query(filters, equal, operation)
        return await self._resources.mongo.exists(self.collection, query, operation=operation)

    # --- how

    def _company(self, operation: str) -> UUID | None:
        """Return the company whose documents the call is about, or None for everybody's."""
        return None if self.tenant is None else self._resources.tenant(operation)

    def _scoped(self, query: Query, company: UUID | None) -> Query:
        """Return the query, for one company's documents only."""
        if company is None or self.tenant is None:
            return query
        return conjunction([{stored_name(self.tenant): {"$eq": company}}, query])

    def _query(self, filters: Sequence[Filter], equal: Mapping[str, Any], operation: str) -> Query:
        """Return what documents must fulfil. Raises: DataError, as `matching` does."""
        return self._scoped(matching(self.model, filters, equal, operation), self._company(operation))

    def _keyset(self, order_by: OrderBy | None, operation: str) -> Keyset:
        return keyset_of(self.model, self.order_by if order_by is None else order_by, operation)

    async def _found(
        self,
        query: Query,
        keyset: Keyset,
        size: int,
        place: Place | None,
        operation: str,
        *,
        backwards: bool = False,
    ) -> tuple[list[Document], bool]:
        """Return up to `size` documents from a place on, in order, and whether there are more."""
        if place is not None:
            beyond = keyset.beyond(place.position, backwards=backwards, inclusive=place.inclusive)
            query = conjunction([query, beyond])
        documents = await self._documents(query, keyset.sort(backwards=backwards), size + 1, operation)
        more = len(documents) > size
        documents = documents[:size]
        return documents[::-1] if backwards else documents, more

    async def _documents(
        self, query: Query, sort: Sequence[tuple[str, int]], limit: int, operation: str
    ) -> list[Document]:
        return await self._resources.mongo.find(
            self.collection, query, sort=sort, limit=limit, operation=operation
        )

    async def _count(self, query: Query, operation: str) -> int:
        return await self._resources.mongo.count(self.collection, query, operation=operation)

    def _document(self, values: dict[str, Any]) -> Document:
        """Return values by field as the document keeps them."""
        absent = self._absent
        document = {"_id": values.pop("id")}
        document |= {name: value for name, value in values.items() if value is not None or name not in absent}
        return document

    def _encoded(self, model: BaseModel, operation: str) -> Encoded:
        """Return a model as the document that is stored. Raises: DataError, as `encoded` does."""
        checked_class(self.model, model, operation)
        # What a model was made to hold unchecked is told by the validator.
        return encoded(self._document(model.model_dump(warnings=False)), operation=operation)

    def _not_found(self, id: UUID, name: str) -> NotFoundError:
        return NotFoundError(
            f"no {self.model.__name__} has the id {id}", store="mongo", operation=self._operation(name)
        )
