"""Gets that meet share a query: documents by id."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Generic, TypeVar
from uuid import UUID

from multidb.errors import DataError
from multidb.models.entity import Entity
from multidb.stores.mongo.client import MongoStore
from multidb.stores.mongo.documents import Document
from multidb.stores.mongo.filtering import Query

__all__ = ["SharedGets"]

ModelT = TypeVar("ModelT", bound=Entity)


class SharedGets(Generic[ModelT]):
    """The gets of one repository; inside a transaction each goes alone.

    What several are told of one document is an object for each.
    """

    def __init__(
        self,
        mongo: MongoStore,
        collection: str,
        operation: str,
        scoped: Callable[[Query, UUID | None], Query],
        read: Callable[[Document], ModelT],
    ) -> None:
        """`scoped` returns a query for one company's documents only."""
        self._mongo = mongo
        self._collection = collection
        self._operation = operation
        self._scoped = scoped
        self._read = read
        self._gets = mongo.batcher(self._load_one, self._load_many, own=deepcopy)

    async def load(self, id: UUID, company: UUID | None) -> ModelT | None:
        """Return the document with this id, or None."""
        if self._mongo.transactions.current() is not None:
            return await self._load_one(id, company)
        return await self._gets.get(id, company)

    async def _load_one(self, id: UUID, company: UUID | None) -> ModelT | None:
        query = self._scoped({"_id": id}, company)
        document = await self._mongo.find_one(self._collection, query, operation=self._operation)
        return None if document is None else self._read(document)

    async def _load_many(self, ids: Sequence[UUID], company: UUID | None) -> dict[UUID, ModelT | Exception]:
        query = self._scoped({"_id": {"$in": list(ids)}}, company)
        loaded: dict[UUID, ModelT | Exception] = {}
        for document in await self._mongo.find(
            self._collection, query, limit=len(ids), operation=self._operation
        ):
            id = document["_id"]
            try:
                loaded[id] = self._read(document)
            except DataError as error:
                # One that does not fit its model must not fail those who asked for others.
                loaded[id] = error
        return loaded
