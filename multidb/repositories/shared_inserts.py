"""Documents that are stored together: inserts that meet share a message, and each has its own error."""

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar

from multidb.errors import AlreadyExistsError, MultiDBError
from multidb.repositories.chunks import Progress, chunks
from multidb.stores.mongo.client import MongoStore
from multidb.stores.mongo.documents import Encoded, decoded
from multidb.stores.mongo.errors import ID_ALONE, Unique
from multidb.stores.mongo.filtering import stored_name

__all__ = ["SharedInserts"]

T = TypeVar("T")

#: Documents a message, and in memory.
_CHUNK = 1000


class SharedInserts:
    """The inserts into one collection under one name; inside a transaction each goes alone."""

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
        if self._mongo.transactions.current() is not None:
            await self._insert_one(_Insertion(document), None)
        else:
            await self._insertions.get(_Insertion(document))

    async def insert_all(
        self,
        items: Iterable[T] | AsyncIterable[T],
        encode: Callable[[T], Encoded],
        operation: str,
        progress: Progress | None,
    ) -> int:
        """Store many, a chunk at a time, and return how many; a chunk that is not stored whole ends it.

        Raises: the error of the first that was refused; of those whose value is taken, with all `keys`.
        """
        count = 0
        async with aclosing(chunks(items, _CHUNK)) as taken:
            async for chunk in taken:
                documents = [encode(each) for each in chunk]
                refused = await self._mongo.insert_many(
                    self._collection, documents, operation=operation, unique=self._unique
                )
                if refused:
                    raise _first(refused, documents)
                count += len(chunk)
                if progress is not None:
                    progress(count)
        return count

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


def _first(refused: Mapping[int, MultiDBError], documents: Sequence[Encoded]) -> MultiDBError:
    """Return the first error; if a unique value is taken, with all that are."""
    first = refused[min(refused)]
    if not isinstance(first, AlreadyExistsError):
        return first
    taken = [
        decoded(documents[place])
        for place, error in sorted(refused.items())
        if isinstance(error, AlreadyExistsError) and error.columns == first.columns
    ]
    names = list(map(stored_name, first.columns))
    keys = [tuple(document.get(name) for name in names) for document in taken]
    error = AlreadyExistsError(
        first.args[0],
        constraint=first.constraint,
        columns=first.columns,
        keys=tuple(dict.fromkeys(keys)),
        store="mongo",
        operation=first.operation,
    )
    error.__cause__ = first.__cause__
    return error


class _Insertion:
    """One call: like no other, whatever it stores."""

    __slots__ = ("document",)

    def __init__(self, document: Encoded) -> None:
        self.document = document
