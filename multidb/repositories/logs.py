"""`LogRepository`: collections that are only ever added to, and the two ways to add."""

from collections.abc import AsyncGenerator
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from multidb.errors import DataError
from multidb.models.emitted import Emitted
from multidb.models.entity import Entity
from multidb.repositories.append_only import AppendOnlyRepository
from multidb.repositories.repository import (
    Resources,
    checked_class,
    checked_id,
    known_value,
    known_values,
    misdeclared,
    plain_type,
)
from multidb.repositories.snapshots import misfit, snapshot
from multidb.repositories.windows import checked_moment
from multidb.stores.mongo.documents import Encoded, encoded
from multidb.stores.mongo.filtering import stored_name

__all__ = ["LogRepository"]

ModelT = TypeVar("ModelT", bound=Entity)


class LogRepository(AppendOnlyRepository[ModelT]):
    """Entries of one collection: `append` waits until they are stored, `emit` does not.

    What either stores has been through the redaction of the `MultiDB`, and has no field that is
    marked as SECRET; models in a context none that is marked as PERSONAL either.
    """

    #: The field that tells how grave an entry is: an Enum, from the least to the gravest. What is
    #: less grave is shed first.
    severity: ClassVar[str | None] = None

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._redact = resources.redact
        ranks = list(_levels(self.model, self.severity)) if self.severity else [None]
        self._ranks = {level.value: rank for rank, level in enumerate(ranks) if level}
        self._emitter = resources.mongo.emitter(
            self.collection,
            ranks=[str(level.value) if level else "all" for level in ranks],
            prepare=resources.redact,
            operation=self._operation("emit"),
        )

    @classmethod
    def check(cls) -> None:
        super().check()
        if problem := misfit(cls.model):
            raise misdeclared(cls, problem)
        if cls.severity is not None and not _levels(cls.model, cls.severity):
            raise misdeclared(cls, f"its `severity`, `{cls.severity}`, must be a field that is an Enum")

    def emit(self, entry: ModelT) -> None:
        """Take an entry and return; it is stored soon, with others. Never waits, and never raises.

        May be called from any thread, before the database is open and after. An entry that cannot
        be stored is counted in `emitted` and logged; one for which there is no room is shed, the
        least grave first, or written to a file (`Settings.log_overflow`). The same entry is never
        stored twice. Closing stores what waits, within `Settings.log_drain_timeout`.

        Source: MongoDB, some time after the call; a process that is killed loses what waited.
        """
        try:
            checked_class(self.model, entry, "emit")
            document, size = snapshot(entry, "emit")
            # By the value, for an Enum's own hash is slow.
            rank = self._ranks[document[self.severity]] if self.severity else 0
            self._emitter.put(document, size, rank)
        except Exception as error:  # a log must not make fail what it tells about
            self._emitter.refuse(error)

    async def tail(
        self, *, since: datetime | None = None, after: UUID | None = None, **equal: Any
    ) -> AsyncGenerator[ModelT, None]:
        """Yield every entry that is stored from now on, each once; it never ends by itself.

        `since` a moment, or `after` the entry of this id, it first yields those that are stored
        already, in the order of their time; then in the order they come. `equal` names fields and
        the values they must have: `tail(level="error")`. Lost connections and elections are waited
        out, and nothing is missed or repeated. What has begun it ends with
        `contextlib.aclosing(...)`, a cancellation, or the iterator itself.

        Raises: NotFoundError if there is no entry `after`. InvalidCursorError if MongoDB's oplog no
        longer reaches back to where it must go on, for it was away or not asked for too long.
        NotOpenError once the database is closed.
        Source: MongoDB, a change stream, and for those before an index; the ids of these are kept
        in memory.
        """
        operation = self._operation("tail")
        values = known_values(self.model, equal, operation)
        if since is not None:
            if after is not None:
                raise DataError("give `after` or `since`, not both", operation=operation)
            moment = checked_moment(since, "since", operation)
            since = known_value(self.model, self._moment, moment, operation)
        if after is not None:
            checked_id(after, operation, "after")
        company = self._company(operation)
        if company is not None and self.tenant is not None:
            values[self.tenant] = company
        match = {f"fullDocument.{stored_name(name)}": {"$eq": value} for name, value in values.items()}
        match["operationType"] = {"$eq": "insert"}
        # Opened before the others are read: what comes meanwhile is in it.
        async with self._resources.mongo.watch(self.collection, match=match, operation=operation) as changes:
            given: set[UUID] = set()
            if since is not None or after is not None:
                earlier = await self._from(since, after)
                async for entry in self.stream(earlier, order_by=(self._moment, "id"), **equal):
                    given.add(entry.id)
                    yield entry
            async for change in changes:
                if change.document is not None and change.id not in given:
                    yield self._read(change.document)

    async def _from(self, since: datetime | None, after: UUID | None) -> dict[str, Any]:
        """Return the query of those that come after a moment, or after an entry."""
        if after is None:
            # Cut to the millisecond, as the moments of entries are: what came after it is among them.
            return {self._moment: {"$gte": since}}
        at, moment = getattr(await self.fetch(after), self._moment), stored_name(self._moment)
        return {"$or": [{moment: {"$gt": at}}, {moment: at, "_id": {"$gt": after}}]}

    @property
    def _moment(self) -> str:
        return self.order_by.removeprefix("-")

    @property
    def emitted(self) -> Emitted:
        """What became of the entries that this process emitted."""
        return self._emitter.counts

    def _encoded(self, model: BaseModel, operation: str) -> Encoded:
        checked_class(self.model, model, operation)
        return encoded(self._redact(snapshot(model, operation).document), operation=operation)


def _levels(model: type[Entity], field: str) -> Any:
    """Return the values of an Enum field, in their order; nothing if it is none."""
    declared = model.model_fields.get(field)
    kind, _ = plain_type(declared.annotation, nullable=False) if declared else (None, ())
    return kind if isinstance(kind, type) and issubclass(kind, Enum) else ()
