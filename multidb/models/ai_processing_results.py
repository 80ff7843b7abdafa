"""AI processing results: what a job of PostgreSQL brought, and what its workers said on the way."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, VersionedDocument
from multidb.models.fields import UNCHANGED, UtcMilliseconds, utc_now
from multidb.models.filters import Field, VersionedFields
from multidb.models.ids import uuid7
from multidb.models.system_logs import LogLevel

__all__ = [
    "AiProcessingLog",
    "AiProcessingResult",
    "AiProcessingResultChanges",
    "AiProcessingResultFields",
    "NewAiProcessingResult",
]

#: The number of a claim: one higher with each.
_Lease = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
_Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
_AiModel = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Error = Annotated[str, StringConstraints(max_length=10_000)]


class AiProcessingLog(Model):
    """A line of a worker's log, and the claim under which it was written."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    lease: _Lease
    timestamp: UtcMilliseconds = pydantic.Field(default_factory=utc_now)
    level: LogLevel = LogLevel.INFO
    message: Annotated[str, StringConstraints(max_length=2000)]


class AiProcessingResult(VersionedDocument):
    """The result of the job that has the same id.

    Its `version` is the lease of the claim that wrote it, 0 while there are only logs.
    """

    company_id: UUID | None = None
    #: The claim that brought the result. Lines of a lower lease are of workers that had lost the job.
    lease: _Lease = 0
    result: dict[str, Any] | None = None
    error: _Error | None = None
    #: The AI model that was asked.
    ai_model: _AiModel | None = None
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    #: In millionths of a US dollar: whole numbers, whose sums are exact.
    cost_micros: _Count = 0
    started_at: UtcMilliseconds | None = None
    finished_at: UtcMilliseconds | None = None
    #: The last thousand lines, of all claims, by the time they were written.
    logs: tuple[AiProcessingLog, ...] = ()


class NewAiProcessingResult(Model):
    """A result to store, under the id of its job and the lease of the claim."""

    id: UUID
    company_id: UUID | None = None
    lease: _Lease
    result: dict[str, Any] | None = None
    error: _Error | None = None
    ai_model: _AiModel | None = None
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    cost_micros: _Count = 0
    started_at: UtcMilliseconds | None = None
    finished_at: UtcMilliseconds | None = None


class AiProcessingResultChanges(Model):
    """What may change about a result by hand; fields not given stay as they are."""

    result: dict[str, Any] | None = UNCHANGED
    error: _Error | None = UNCHANGED
    ai_model: _AiModel | None = UNCHANGED
    input_tokens: _Count = UNCHANGED
    output_tokens: _Count = UNCHANGED
    cost_micros: _Count = UNCHANGED


class AiProcessingResultFields(VersionedFields):
    """The fields of a result, for filters and orders."""

    company_id: Field[UUID | None]
    lease: Field[int]
    result: Field[dict[str, Any] | None]
    error: Field[str | None]
    ai_model: Field[str | None]
    input_tokens: Field[int]
    output_tokens: Field[int]
    cost_micros: Field[int]
    started_at: Field[datetime | None]
    finished_at: Field[datetime | None]
