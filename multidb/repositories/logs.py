"""`LogRepository`: collections that are only ever added to, and the two ways to add."""

from enum import Enum
from typing import Any, ClassVar

from typing_extensions import TypeVar

from multidb.models.emitted import Emitted
from multidb.models.entity import Entity
from multidb.repositories.append_only import AppendOnlyRepository
from multidb.repositories.repository import Resources, checked_class, misdeclared, plain_type
from multidb.repositories.snapshots import Snapshot, misfit, snapshot
from multidb.stores.mongo.documents import Encoded, encoded

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
        self._ranks = {level: rank for rank, level in enumerate(ranks)}
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
            document, size = self._snapshot(entry, "emit")
            rank = self._ranks[getattr(entry, self.severity)] if self.severity else 0
            self._emitter.put(document, size, rank)
        except Exception as error:  # a log must not make fail what it tells about
            self._emitter.refuse(error)

    @property
    def emitted(self) -> Emitted:
        """What became of the entries that this process emitted."""
        return self._emitter.counts

    def _encoded(self, model: ModelT, operation: str) -> Encoded:
        document = self._redact(self._snapshot(model, operation).document)
        return encoded(document, operation=operation)

    def _snapshot(self, entry: ModelT, operation: str) -> Snapshot:
        checked_class(self.model, entry, operation)
        return snapshot(entry, operation)


def _levels(model: type[Entity], field: str) -> Any:
    """Return the values of an Enum field, in their order; nothing if it is none."""
    declared = model.model_fields.get(field)
    kind, _ = plain_type(declared.annotation, nullable=False) if declared else (None, ())
    return kind if isinstance(kind, type) and issubclass(kind, Enum) else ()
