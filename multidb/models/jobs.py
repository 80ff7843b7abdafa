"""Jobs: work to be done once, later, by whichever worker is free."""

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeGuard
from uuid import UUID

import pydantic
from pydantic import BaseModel, StringConstraints

from multidb.models.entity import Model, Related, Row
from multidb.models.fields import UNCHANGED, UtcDatetime, utc_now
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

if TYPE_CHECKING:
    from multidb.models.documents import Document

__all__ = [
    "Backoff",
    "Heartbeat",
    "Job",
    "JobChanges",
    "JobFields",
    "JobState",
    "NewJob",
    "QueueStats",
    "is_word",
]

#: Where a job stands. One that waits for its `run_at` is available too; a waiting one depends on
#: others; a failed one ended by an error that no further attempt would mend, a dead one has used up
#: its attempts.
JobState: TypeAlias = Literal["waiting", "available", "running", "completed", "failed", "cancelled", "dead"]

_LONGEST_WORD = 200
#: What queues, kinds and workers are called.
_Word = Annotated[str, StringConstraints(pattern=r"\S", max_length=_LONGEST_WORD)]
#: The least is served first.
_Priority = Annotated[int, pydantic.Field(ge=-(2**15), lt=2**15)]
_Attempts = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
_Count = Annotated[int, pydantic.Field(ge=0)]
_Share = Annotated[float, pydantic.Field(ge=0, le=1)]
_Span = Annotated[timedelta, pydantic.Field(gt=timedelta(0), le=timedelta(days=366))]
_Jobs = Annotated[tuple[UUID, ...], pydantic.Field(max_length=1000)]


def is_word(value: object) -> TypeGuard[str]:
    """Tell whether a queue, a kind or a worker may be called so."""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _LONGEST_WORD


def _dumped(payload: Any) -> Any:
    return payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload


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
    #: How long an attempt may take.
    timeout: timedelta | None = None
    #: One higher with each claim: what the claimant must bring to finish the job.
    lease: _Count
    worker: _Word | None = None
    lease_until: UtcDatetime | None = None
    company_id: UUID | None = None
    document_id: UUID | None = None
    idempotency_key: _Word | None = None
    idempotency_window: timedelta | None = None
    concurrency_key: _Word | None = None
    #: The jobs that must have completed before.
    depends_on: tuple[UUID, ...] = ()
    #: How much of it is done, from 0 to 1, as far as its handler tells.
    progress: float | None = None
    result: dict[str, Any] | None = None
    #: Why the last attempt failed.
    error: str | None = None
    #: When somebody wanted it to stop while it was running.
    cancel_requested_at: UtcDatetime | None = None
    #: When the last attempt began.
    started_at: UtcDatetime | None = None
    finished_at: UtcDatetime | None = None

    document: ClassVar[Related["Document | None"]] = Related()


class NewJob(Model):
    """A job to enqueue; the payload is a pydantic model, or a dict of what JSON has.

    With a `company_id`, its document must be that company's.
    """

    id: UUID = pydantic.Field(default_factory=uuid7)
    queue: _Word
    kind: _Word
    payload: Annotated[dict[str, Any], pydantic.BeforeValidator(_dumped)]
    priority: _Priority = 0
    run_at: UtcDatetime = pydantic.Field(default_factory=utc_now)
    max_attempts: _Attempts = 5
    timeout: _Span | None = None
    company_id: UUID | None = None
    document_id: UUID | None = None
    #: While a job of the queue and company has this key, no other is enqueued: until it has ended
    #: or, with a window, for so long after it was enqueued if that is later.
    idempotency_key: _Word | None = None
    idempotency_window: _Span | None = None
    #: Of the jobs of one key, no more run at a time than their queue allows.
    concurrency_key: _Word | None = None
    depends_on: _Jobs = ()


class JobChanges(Model):
    """What may change about a job by hand; fields not given stay as they are."""

    payload: Annotated[dict[str, Any], pydantic.BeforeValidator(_dumped)] = UNCHANGED
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
    timeout: Field[timedelta | None]
    lease: Field[int]
    worker: Field[str | None]
    lease_until: Field[datetime | None]
    company_id: Field[UUID | None]
    document_id: Field[UUID | None]
    idempotency_key: Field[str | None]
    idempotency_window: Field[timedelta | None]
    concurrency_key: Field[str | None]
    depends_on: Field[tuple[UUID, ...]]
    progress: Field[float | None]
    result: Field[dict[str, Any] | None]
    error: Field[str | None]
    cancel_requested_at: Field[datetime | None]
    started_at: Field[datetime | None]
    finished_at: Field[datetime | None]


class Backoff(Model):
    """How long a job that failed waits before its next attempt: longer each time, and never just as long
    as those that failed with it.
    """

    first: _Span = timedelta(seconds=1)
    factor: Annotated[float, pydantic.Field(ge=1, le=100)] = 2.0
    longest: _Span = timedelta(hours=1)
    #: By which share of itself a delay may be shorter or longer.
    jitter: _Share = 0.2

    def delay(self, attempt: int) -> timedelta:
        """Return the delay after the attempt with this number, the first being 1."""
        # Of an attempt whose delay is past the longest anyway, the power might be no number.
        growth = self.factor ** min(attempt - 1, 64)
        seconds = min(self.first.total_seconds() * growth, self.longest.total_seconds())
        spread = random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - no secret
        return min(timedelta(seconds=seconds * spread), timedelta(days=366))


class Heartbeat(NamedTuple):
    """What a heartbeat brought to light about the jobs it was for."""

    #: Those whose claim is over: another worker may have them.
    lost: frozenset[UUID]
    #: Those that somebody wants to stop.
    cancelled: frozenset[UUID]


class QueueStats(Model):
    """How a queue stands."""

    queue: str
    #: What may be claimed now.
    ready: int
    #: What has a `run_at` to come.
    scheduled: int
    waiting: int
    running: int
    #: How long the first of those that may be claimed has waited.
    lag: timedelta
    #: What ended within the last hour.
    completed: int
    failed: int
    dead: int
    cancelled: int
    #: How many may run at a time, in all and of one concurrency key.
    at_most: int | None = None
    at_most_per_key: int | None = None
