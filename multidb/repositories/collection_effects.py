"""What may follow a commit on collections that have calls of their own: events, results, values, answers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from multidb.models.ai_processing_results import (
    AiProcessingLog,
    AiProcessingResultChanges,
    NewAiProcessingResult,
)
from multidb.models.realtime_events import RealtimeEvent
from multidb.repositories.document_effects import DELETE, AppendEffects, DocumentEffects, Whose, changed
from multidb.repositories.effects import Delivery, DocumentWrite, Done, Effects, FencedEffect, Payload
from multidb.repositories.repository import checked_class, checked_id
from multidb.stores.mongo.documents import Document, decoded, encoded
from multidb.stores.mongo.errors import ID_ALONE
from multidb.stores.mongo.writes import Change, Delete

if TYPE_CHECKING:
    from multidb.repositories.ai_processing_results import AiProcessingResultRepository
    from multidb.repositories.dynamic_configurations import DynamicConfigurationRepository

__all__ = ["ConfigurationEffects", "EventEffects", "ResultEffects", "SubmissionEffects", "checked_lines"]


class EventEffects(AppendEffects[RealtimeEvent]):
    """Events that are published once the transaction has committed."""

    def publish(self, event: RealtimeEvent) -> Done[UUID]:
        """Publish an event after the commit, once; of one channel in the order of the commits."""
        return self._told("publish", event, stream=getattr(event, "channel", None))


def checked_lines(lines: Iterable[AiProcessingLog], operation: str) -> list[Document]:
    """Return lines of a log as they are stored, each once, in their order. Raises: DataError."""
    added: dict[UUID, AiProcessingLog] = {}
    for line in lines:
        checked_class(AiProcessingLog, line, operation)
        added.setdefault(line.id, line)
    ordered = sorted(added.values(), key=lambda line: (line.timestamp, line.id))
    return [decoded(encoded(line.model_dump(), operation=operation)) for line in ordered]


def _log(repository: "AiProcessingResultRepository", delivery: Delivery[Whose]) -> DocumentWrite:
    change = repository._logged(delivery.document["lines"])
    return changed(repository, "log", {"_id": delivery.payload.id}, change, upsert=True)


class ResultEffects(DocumentEffects[NewAiProcessingResult, AiProcessingResultChanges]):
    """Results that are stored once the transaction has committed, such as that which completes the job."""

    kinds = {**DocumentEffects.kinds, "log": FencedEffect(Whose, _log)}

    def record(self, new: NewAiProcessingResult) -> Done[None]:
        """Store the result of a claim after the commit; that of the latest claim stays."""
        checked_class(NewAiProcessingResult, new, self._operation("record"))
        return self.put(new, version=new.lease)

    def log(self, id: UUID, lines: Iterable[AiProcessingLog]) -> Done[None]:
        """Add lines to the log of a job after the commit, each once."""
        operation = self._operation("log")
        checked_id(id, operation)
        added = checked_lines(lines, operation)
        document = encoded({"lines": added}, operation=operation)
        return self._about(id, "log", Whose(id=id), document)


class Key(Payload):
    key: str


def _set(repository: "DynamicConfigurationRepository", delivery: Delivery[Key]) -> DocumentWrite:
    operation = repository._operation("set")
    query = repository._own(delivery.payload.key, operation)
    change = repository._setting(delivery.document)
    return DocumentWrite(
        repository.collection, Change(query, change, upsert=True), operation, repository._unique
    )


def _remove(repository: "DynamicConfigurationRepository", delivery: Delivery[Key]) -> DocumentWrite:
    operation = repository._operation("remove")
    query = repository._own(delivery.payload.key, operation)
    return DocumentWrite(repository.collection, Delete(query), operation, ID_ALONE)


class ConfigurationEffects(Effects["DynamicConfigurationRepository"]):
    """Values that are set once the transaction has committed; of one key in the order of the commits."""

    kinds = {"set": FencedEffect(Key, _set), "remove": FencedEffect(Key, _remove)}

    def set(self, key: str, value: Any, *, by: str | None = None) -> Done[None]:
        """Give a key a value after the commit, a version higher."""
        entry = self._repository._entry(key, value, by, self._operation("set"))
        return self._about(key, "set", entry)

    def remove(self, key: str) -> Done[None]:
        """Remove a key and its history after the commit."""
        self._repository._own(key, self._operation("remove"))  # which checks it
        return self._about(key, "remove")

    def _about(self, key: str, name: str, entry: dict[str, Any] | None = None) -> Done[None]:
        operation = self._operation(name)
        tenant = self._repository._company(operation)
        document = None if entry is None else encoded(entry, operation=operation)
        self._tell(name, Key(key=key), document=document, stream=f"{tenant or ''}/{key}", tenant=tenant)
        return Done(None)


class SubmissionEffects(Effects[Any]):
    """Submissions that are deleted once the transaction has committed."""

    kinds = {"delete": DELETE}

    def delete(self, id: UUID) -> Done[None]:
        """Delete a submission after the commit, if it is there then."""
        operation = self._operation("delete")
        checked_id(id, operation)
        self._tell("delete", Whose(id=id), stream=str(id), tenant=self._repository._company(operation))
        return Done(None)
