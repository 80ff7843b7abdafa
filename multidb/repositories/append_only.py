"""`AppendOnlyRepository`: documents that never change, such as logs and events."""

from collections.abc import AsyncIterable, Iterable
from typing import Any, ClassVar, Generic
from uuid import UUID

from typing_extensions import TypeVar

from multidb.models.entity import Entity
from multidb.repositories.chunks import Progress
from multidb.repositories.document_effects import AppendEffects
from multidb.repositories.effects import Effects
from multidb.repositories.mongo_reader import MongoReader
from multidb.repositories.repository import Resources
from multidb.repositories.shared_inserts import SharedInserts

__all__ = ["AppendOnlyRepository"]

ModelT = TypeVar("ModelT", bound=Entity)


class AppendOnlyRepository(MongoReader[ModelT], Generic[ModelT]):
    """Documents of one collection that are added, read, and never changed.

    The caller makes them whole, `id` included, so that one which is appended again after a lost
    answer is known.
    """

    effects: ClassVar[type[Effects[Any]] | None] = AppendEffects

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._inserts = SharedInserts(resources.mongo, self.collection, self._operation("append"))

    async def append(self, entry: ModelT) -> UUID:
        """Store an entry and return its id once a majority has journalled it.

        Calls that meet share one message; each has its own error.

        Raises: AlreadyExistsError if an entry with this id is stored: appending the same entry
        again after a lost answer never stores it twice. ConstraintError. DataError that names the
        field MongoDB cannot hold.
        """
        await self._inserts.insert(self._encoded(entry, self._operation("append")))
        return entry.id

    async def append_many(
        self, entries: Iterable[ModelT] | AsyncIterable[ModelT], *, progress: Progress | None = None
    ) -> int:
        """Store entries and return how many.

        Takes any number, also from an iterator or an async iterator, 1,000 a message; `progress` is
        called after each with how many there are so far. Not atomic outside a transaction: where
        some of a message are refused its others are stored, and what follows it is not.

        Raises: AlreadyExistsError, whose `keys` are the ids that are stored already;
        ConstraintError; DataError.
        """
        operation = self._operation("append_many")
        return await self._inserts.insert_all(
            entries, lambda entry: self._encoded(entry, operation), operation, progress
        )
