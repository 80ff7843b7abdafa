"""Jobs: work to be done once, later, by whichever worker is free."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, Related, Row
from multidb.models.fields import UNCHANGED, UtcDatetime, utc_now
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

if TYPE_CHECKING:
    from multidb.models.documents import Document

__all__ = ["Job", "JobChanges", "JobFields", "JobState", "NewJob"]

#: Where a job stands. One that waits for its `run_at` is available too; a dead one has used up its
#: attempts.
JobState: TypeAlias = Literal["available", "running", "completed", "failed", "cancelled", "dead"]

#: What queues, kinds and workers are called.
_Word = Annotated[str, StringConstraints(pattern=r"\S", max_length=200)]
#: The least is served first.
_Priority = Annotated[int, pydantic.Field(ge=-(2**15), lt=2**15)]
_Attempts = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
_Count = Annotated[int, pydantic.Field(ge=0)]


class Job(Row):
    """A job as it is stored."""

    queue: _Word
    kind: _Word
    payload: dict[str, Any]
    state: JobState
    priority: _Priority
    run_at: UtcDatetime
    attempt: _Count
    max_attempts: _Attempts
    #: One higher with each claim: what the claimant must bring to finish the job.
    lease: _Count
    worker: _Word | None = None
    lease_until: UtcDatetime | None = None
    company_id: UUID | None = None
    document_id: UUID | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    started_at: UtcDatetime | None = None
    finished_at: UtcDatetime | None = None

    document: ClassVar[Related["Document | None"]] = Related()


class NewJob(Model):
    """A job to add. With a `company_id`, its document must be that company's."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    queue: _Word
    kind: _Word
    payload: dict[str, Any]
    priority: _Priority = 0
    run_at: UtcDatetime = pydantic.Field(default_factory=utc_now)
    max_attempts: _Attempts = 5
    company_id: UUID | None = None
    document_id: UUID | None = None


class JobChanges(Model):
    """What may change about a job by hand; fields not given stay as they are."""

    payload: dict[str, Any] = UNCHANGED
    priority: _Priority = UNCHANGED
    run_at: UtcDatetime = UNCHANGED
    max_attempts: _Attempts = UNCHANGED


class JobFields(RowFields):
    """The fields of a job, for filters and orders."""

    queue: Field[str]
    kind: Field[str]
    payload: Field[dict[str, Any]]
    state: Field[JobState]
    priority: Field[int]
    run_at: Field[datetime]
    attempt: Field[int]
    max_attempts: Field[int]
    lease: Field[int]
    worker: Field[str | None]
    lease_until: Field[datetime | None]
    company_id: Field[UUID | None]
    document_id: Field[UUID | None]
    result: Field[dict[str, Any] | None]
    error: Field[str | None]
    started_at: Field[datetime | None]
    finished_at: Field[datetime | None]
