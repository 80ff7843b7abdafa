"""What is said of a claimed job: how far it is, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel

from multidb.errors import ConflictError, DataError
from multidb.models.jobs import Job, is_word
from multidb.repositories.repository import checked_class

__all__ = [
    "LOST",
    "Ending",
    "Told",
    "arrays",
    "check_claimed",
    "checked_delay",
    "checked_error",
    "checked_lease",
    "checked_result",
    "checked_share",
    "checked_word",
    "claim_over",
    "error_text",
]

#: Why an attempt failed whose worker no longer kept its lease up.
LOST = "the worker was lost: its lease ended"

_SHORTEST, _LONGEST = timedelta(milliseconds=100), timedelta(days=1)
_LONGEST_ERROR = 10_000


@dataclass(slots=True, eq=False)  # not frozen, for that takes four times as long to make
class Ending:
    """What became of a claimed job: it is like no other, whatever it says."""

    job: Job
    #: "retried" is dead after the last attempt, "put back" counts as none.
    outcome: Literal["completed", "retried", "failed", "put back", "cancelled"]
    error: str | None = None
    result: dict[str, Any] | None = None
    #: After how long it may be claimed again; None for when it was due.
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """How far a claimed job is."""

    job: Job
    share: float


def arrays(endings: Sequence[Ending]) -> dict[str, list[Any]]:
    """Return what endings say, by parameter of the statement that stores them."""
    return {
        "outcomes": [ending.outcome for ending in endings],
        "errors": _unless_all_none([ending.error for ending in endings]),
        "results": _unless_all_none([ending.result for ending in endings]),
        "delays": _unless_all_none([ending.delay for ending in endings]),
    }


def _unless_all_none(values: list[Any]) -> list[Any]:
    """Return the values, or none where they say nothing: of what is shorter, `unnest` makes NULLs."""
    return [] if all(value is None for value in values) else values


def check_claimed(job: Job, operation: str) -> None:
    """Raise: DataError if it is no job that somebody claimed."""
    checked_class(Job, job, operation)
    if job.state != "running" or job.lease_until is None or job.started_at is None:
        raise DataError("`job` must be one that `claim` gave", operation=operation)


def claim_over(job: Job, now: Mapping[str, Any] | None, operation: str) -> ConflictError:
    """Return the error of a claim that is over; `now` tells how the job stands, if it is there."""
    return ConflictError(
        f"the claim on Job {job.id} is over: its lease was {job.lease}, and "
        + (f"it is {now['state']} under lease {now['lease']}" if now else "the job is gone"),
        store="postgres",
        operation=operation,
    )


def checked_word(word: object, name: str, operation: str) -> str:
    """Return what a queue or a worker is called. Raises: DataError."""
    if not is_word(word):
        raise DataError(f"`{name}` must be a text of 1 to 200 characters, and not blank", operation=operation)
    return word


def checked_lease(lease: object, operation: str) -> timedelta:
    """Return for how long a claim is to stand. Raises: DataError."""
    if not isinstance(lease, timedelta) or not _SHORTEST <= lease <= _LONGEST:
        raise DataError("`lease` must be a timedelta from 100 milliseconds to a day", operation=operation)
    return lease


def checked_share(share: object, operation: str) -> float:
    """Return how much of a job is done. Raises: DataError."""
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
        raise DataError("`share` must be a number from 0 to 1", operation=operation)
    return float(share)


def checked_result(result: object, operation: str) -> dict[str, Any] | None:
    """Return what is stored of a result. Raises: DataError."""
    stored = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
    if stored is not None and not isinstance(stored, Mapping):
        raise DataError(f"`result` must be a mapping, not {type(stored).__name__}", operation=operation)
    return None if stored is None else dict(stored)


def checked_delay(delay: object, operation: str, name: str = "delay") -> timedelta:
    """Return how long a job is to wait. Raises: DataError."""
    if not isinstance(delay, timedelta) or not timedelta(0) <= delay <= timedelta(days=366):
        raise DataError(f"`{name}` must be a timedelta from zero to 366 days", operation=operation)
    return delay


def checked_error(error: object, operation: str) -> str:
    """Return why an attempt failed, as it is stored. Raises: DataError."""
    if not isinstance(error, str | BaseException):
        raise DataError(
            f"`error` must be a text or an exception, not {type(error).__name__}", operation=operation
        )
    return error_text(error)


def error_text(error: str | BaseException) -> str:
    """Return an error as a text that PostgreSQL and MongoDB hold: of a long one, the beginning."""
    text = _told(error) if isinstance(error, BaseException) else error
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode()[:_LONGEST_ERROR]


def _told(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # a handler's error may be anything, also one that cannot say what it is
        return name
