"""Gets that meet share a query: documents by id."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Generic, TypeVar
from uuid import UUID

from multidb.errors import DataError
from multidb.models.entity import Entity
from multidb.stores.mongo.client import MongoStore

__all__ = ["SharedGets"]

ModelT = TypeVar("ModelT", bound=Entity)


class SharedGets(Generic[ModelT]):
    """The gets of one repository. What several are told of one document is an object for each."""

    def __init__(
        self,
        mongo: MongoStore,
        collection: str,
        operation: str,
        read: Callable[[Mapping[str, Any]], ModelT],
    ) -> None:
        self._mongo = mongo
        self._collection = collection
        self._operation = operation
        self._read = read
        self._gets = mongo.batcher(self._load_one, self._load_many, own=deepcopy)

    async def load(self, id: UUID) -> ModelT | None:
        """Return the document with this id, or None."""
        return await self._gets.get(id)

    async def _load_one(self, id: UUID, _: object) -> ModelT | None:
        document = await self._mongo.find_one(self._collection, {"_id": id}, operation=self._operation)
        return None if document is None else self._read(document)

    async def _load_many(self, ids: Sequence[UUID], _: object) -> dict[UUID, ModelT | Exception]:
        loaded: dict[UUID, ModelT | Exception] = {}
        documents = await self._mongo.find(
            self._collection, {"_id": {"$in": ids}}, limit=len(ids), operation=self._operation
        )
        for document in documents:
            try:
                loaded[document["_id"]] = self._read(document)
            except DataError as error:
                # One that does not fit its model must not fail those who asked for others.
                loaded[document["_id"]] = error
        return loaded
