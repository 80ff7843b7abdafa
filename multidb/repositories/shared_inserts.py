"""Documents that are stored together: inserts that meet share a message, and each has its own error."""

from collections.abc import Sequence

from multidb.errors import MultiDBError
from multidb.stores.mongo.client import MongoStore
from multidb.stores.mongo.documents import Encoded
from multidb.stores.mongo.errors import ID_ALONE, Unique

__all__ = ["SharedInserts"]


class SharedInserts:
    """The inserts into one collection under one name."""

    def __init__(self, mongo: MongoStore, collection: str, operation: str, unique: Unique = ID_ALONE) -> None:
        self._mongo = mongo
        self._collection = collection
        self._operation = operation
        self._unique = unique
        self._insertions = mongo.batcher(self._insert_one, self._insert_several)

    async def insert(self, document: Encoded) -> None:
        """Store a document, which brings its `_id`.

        Raises: AlreadyExistsError, ConstraintError.
        """
        await self._insertions.get(_Insertion(document))

    async def _insert_one(self, insertion: "_Insertion", _: object) -> None:
        for error in (await self._insert([insertion])).values():
            raise error

    async def _insert_several(
        self, insertions: Sequence["_Insertion"], _: object
    ) -> dict["_Insertion", Exception | None]:
        return {**await self._insert(insertions)}

    async def _insert(self, insertions: Sequence["_Insertion"]) -> dict["_Insertion", MultiDBError]:
        """Store documents and return what became of those that were not."""
        refused = await self._mongo.insert_many(
            self._collection,
            [insertion.document for insertion in insertions],
            operation=self._operation,
            unique=self._unique,
        )
        return {insertions[place]: error for place, error in refused.items()}


class _Insertion:
    """One call: like no other, whatever it stores."""

    __slots__ = ("document",)

    def __init__(self, document: Encoded) -> None:
        self.document = document
