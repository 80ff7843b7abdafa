"""`MongoReader`: the calls every collection has that change nothing."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Generic, cast
from uuid import UUID

from pydantic import AwareDatetime
from typing_extensions import TypeVar

from multidb.errors import DataError, StoreName
from multidb.models.entity import Entity
from multidb.models.page import Page
from multidb.repositories.repository import (
    Repository,
    Resources,
    checked_class,
    checked_id,
    known_fields,
    known_values,
    misdeclared,
    model_arguments,
    page_size,
    plain_type,
    validated,
)
from multidb.repositories.shared_gets import SharedGets
from multidb.stores.mongo.documents import Encoded, encoded
from multidb.stores.mongo.keyset import Keyset

__all__ = ["MongoReader"]

ModelT = TypeVar("ModelT", bound=Entity)

_ORDERED = {UUID, str, int, bool, float, datetime, AwareDatetime}

#: A query in MongoDB's own language: `{"level": {"$in": ["error", "critical"]}}`.
Filter = Mapping[str, Any]


class MongoReader(Repository, Generic[ModelT]):
    """Documents of one collection, as `ModelT`. The model's `id` is the document's `_id`.

    All methods raise UnavailableError if MongoDB cannot be reached, and DataError for a value or
    a field name that does not fit. They take no part in `db.transaction()`.
    """

    store: ClassVar[StoreName] = "mongo"
    collection: ClassVar[str]
    #: The order of `find` where the caller names none.
    order_by: ClassVar[str] = "id"

    model: ClassVar[type[Entity]]
    #: The fields that a document lacks where they are None.
    _absent: ClassVar[set[str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        models = model_arguments(cls, MongoReader)
        if models and isinstance(models[0], type):
            cls.model = models[0]
            cls._absent = {name for name, field in cls.model.model_fields.items() if field.default is None}

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._gets = SharedGets(resources.mongo, self.collection, self._operation("get"), self._model_of)

    @classmethod
    def target(cls) -> str:
        return cls.collection

    @classmethod
    def check(cls) -> None:
        if not hasattr(cls, "model") or not hasattr(cls, "collection"):
            raise misdeclared(cls, "declare `class Name(MongoRepository[Model])` and its `collection`")
        if cls.order_by.removeprefix("-") not in cls.model.model_fields:
            raise misdeclared(cls, f"`{cls.order_by}` is not a field of {cls.model.__name__} to order by")

    async def get(self, id: UUID) -> ModelT | None:
        """Return the document with this id, or None. Calls that meet share one query.

        Source: MongoDB; not cached.
        """
        operation = self._operation("get")
        checked_id(id, operation)
        return await self._gets.load(id)

    async def find(
        self,
        *filters: Filter,
        order_by: str | Sequence[str] | None = None,
        limit: int = 50,
        after: str | None = None,
        **equal: Any,
    ) -> Page[ModelT]:
        """Return one page of the documents that match every filter.

        `filters` are MongoDB queries; `equal` names fields and the values they must have (None
        for absent). `order_by` names fields, `-name` for descending; ties are broken by `id`.
        `limit` is 1 to 1000. Give a page's `next` as `after` for the page that follows it:
        documents added meanwhile make it neither repeat nor skip one that was there throughout.

        Raises: InvalidCursorError if `after` comes from another query.
        Source: MongoDB; the cost grows with `limit` where an index serves the order.
        """
        operation = self._operation("find")
        size = page_size(limit, operation)
        keyset = Keyset(self._order(order_by, operation))
        query = self._matching(filters, equal, operation)
        binding = repr((self.collection, query, keyset.sort)).encode()
        if after is not None:
            query = [*query, keyset.after(self._resources.cursors.decode(after, query=binding))]
        documents = await self._resources.mongo.find(
            self.collection,
            {"$and": query} if query else {},
            sort=keyset.sort,
            limit=size + 1,
            operation=operation,
        )
        following = None
        if len(documents) > size:
            position = keyset.position(documents[size - 1])
            following = self._resources.cursors.encode(position, query=binding)
        return Page(tuple(map(self._model_of, documents[:size])), following)

    def _encoded(self, model: ModelT, operation: str) -> Encoded:
        """Return a model as the document that is stored. Raises: DataError, as `encoded` does."""
        checked_class(self.model, model, operation)
        # What a model was made to hold unchecked, the validator is told to tell.
        return encoded(self._document(model.model_dump(warnings=False)), operation=operation)

    def _document(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return values by field as the document keeps them: None is left out where reading gives it back."""
        document = {"_id": values.pop("id")}
        absent = self._absent
        document |= {name: value for name, value in values.items() if value is not None or name not in absent}
        return document

    def _model_of(self, document: Mapping[str, Any]) -> ModelT:
        values = {"id" if name == "_id" else name: value for name, value in document.items()}
        return cast(ModelT, validated(self.model, values, self._operation("read")))

    def _matching(self, filters: Sequence[Filter], equal: Mapping[str, Any], operation: str) -> list[Filter]:
        values = known_values(self.model, equal, operation)
        for each in filters:
            if not isinstance(each, Mapping):
                raise DataError(
                    "a filter must be a MongoDB query, such as {'level': 'error'}", operation=operation
                )
        # $eq, or a mapping that came from outside would be taken for an operator.
        named = [{_stored_name(name): {"$eq": value}} for name, value in values.items()]
        return [*filters, *named]

    def _order(self, order_by: str | Sequence[str] | None, operation: str) -> list[tuple[str, int]]:
        given: Any = order_by or self.order_by if isinstance(order_by, str | None) else order_by
        # What is no sequence has no order of its own, or a meaning that the names alone would lose.
        names = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        for name in names:
            if not isinstance(name, str):
                raise DataError(
                    f"`order_by` takes names of fields, `-name` for descending, not {type(name).__name__}",
                    operation=operation,
                )
        known_fields([name.removeprefix("-") for name in names], self.model, operation)
        for name in names:
            kind, _ = plain_type(self.model.model_fields[name.removeprefix("-")].annotation, nullable=True)
            if kind not in _ORDERED and not (isinstance(kind, type) and issubclass(kind, Enum)):
                # MongoDB orders lists by one item and kinds apart, and a page could not go on there.
                raise DataError(f"`{name}` has no order: it holds no single plain value", operation=operation)
        return [(_stored_name(name.removeprefix("-")), -1 if name.startswith("-") else 1) for name in names]


def _stored_name(field: str) -> str:
    return "_id" if field == "id" else field
