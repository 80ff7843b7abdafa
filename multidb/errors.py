"""Every error multidb raises.

::

    MultiDBError
    ├ ConfigurationError         bad setting, unknown entity, capability missing
    ├ NotOpenError               used before open, after close, or on another event loop
    ├ TransactionError           the ambient transaction cannot be used here
    ├ NotFoundError
    ├ ConflictError              stale version, lost fence, serialization failure
    ├ ConstraintError            .constraint .columns
    │ └ AlreadyExistsError
    ├ InvalidCursorError
    ├ DataError                  a value does not fit its model or its column
    │ └ InvalidSubmissionError   .errors: what is wrong, by field
    ├ LockError
    │ ├ LockNotAcquiredError
    │ └ LockLostError
    ├ RateLimitExceededError     .decision
    └ StoreError                 the store refused or failed
      └ UnavailableError         the store could not be reached; retryable
        └ StoreTimeoutError      no answer in time: a write may have happened

Messages name settings, entities, constraints and columns; never stored values,
addresses or secrets. Each error pickles, and keeps what it knows when it does.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

__all__ = [
    "AlreadyExistsError",
    "ConfigurationError",
    "ConflictError",
    "ConstraintError",
    "DataError",
    "InvalidCursorError",
    "InvalidSubmissionError",
    "LockError",
    "LockLostError",
    "LockNotAcquiredError",
    "MultiDBError",
    "NotFoundError",
    "NotOpenError",
    "RateLimitExceededError",
    "StoreError",
    "StoreName",
    "StoreTimeoutError",
    "TransactionError",
    "UnavailableError",
]

StoreName: TypeAlias = Literal["postgres", "mongo", "redis"]


class MultiDBError(Exception):
    """Base of every error multidb raises.

    `retryable` says whether the same call, made again, may succeed without any
    change by the caller.
    """

    #: What `retryable` is when the raiser does not say.
    _retryable_by_default = False

    def __init__(
        self,
        message: str = "",
        *,
        store: StoreName | None = None,
        operation: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        #: The store that failed, if one did.
        self.store = store
        #: What was being done, such as `users.get`.
        self.operation = operation
        self.retryable = self._retryable_by_default if retryable is None else retryable

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.operation}: {message}" if self.operation else message


class ConfigurationError(MultiDBError):
    """A setting is wrong, an entity is unknown, or a store cannot do what is asked of it."""


class NotOpenError(MultiDBError):
    """The database was used before it was opened, after it was closed, or from another event loop."""


class TransactionError(MultiDBError):
    """The ambient transaction cannot be used here: it has ended, failed, or belongs to another task."""


class NotFoundError(MultiDBError):
    """No row, document or key has this id."""


class ConflictError(MultiDBError):
    """Someone else wrote first: a stale version, a lost fence, or a serialization failure."""

    def __init__(
        self,
        message: str = "",
        *,
        version: int | None = None,
        store: StoreName | None = None,
        operation: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, store=store, operation=operation, retryable=retryable)
        #: The version that the row or document has now, where a stale one was given.
        self.version = version


class ConstraintError(MultiDBError):
    """The store refused a value by one of its constraints."""

    def __init__(
        self,
        message: str = "",
        *,
        constraint: str | None = None,
        columns: Sequence[str] = (),
        keys: Sequence[tuple[object, ...]] = (),
        store: StoreName | None = None,
        operation: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, store=store, operation=operation, retryable=retryable)
        #: The constraint's name in the store, if the store told it.
        self.constraint = constraint
        #: The columns or fields it is about; empty if not known.
        self.columns = tuple(columns)
        #: Of many things written at once, the values of `columns` in those that were refused.
        self.keys = tuple(keys)


class AlreadyExistsError(ConstraintError):
    """Another row or document already has this unique value."""


class InvalidCursorError(MultiDBError):
    """The cursor was altered, signed with another key, made for another query, or leads to what is gone."""


class DataError(MultiDBError):
    """A value does not fit its model, its column or its validator."""


class InvalidSubmissionError(DataError):
    """Answers do not fit their form."""

    def __init__(
        self,
        message: str = "",
        *,
        errors: Mapping[str, Sequence[str]] | None = None,
        store: StoreName | None = None,
        operation: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, store=store, operation=operation, retryable=retryable)
        #: What is wrong, by field: `{"address.street": ("must be answered",)}`; "" is the whole.
        self.errors = {field: tuple(messages) for field, messages in (errors or {}).items()}


class LockError(MultiDBError):
    """A lock could not be taken or kept."""


class LockNotAcquiredError(LockError):
    """Someone else held the lock for as long as the caller would wait."""

    _retryable_by_default = True


class LockLostError(LockError):
    """The lock ended before its holder was done."""


class RateLimitExceededError(MultiDBError):
    """The caller has used up its limit."""

    _retryable_by_default = True

    def __init__(
        self,
        message: str = "",
        *,
        decision: object = None,
        store: StoreName | None = None,
        operation: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, store=store, operation=operation, retryable=retryable)
        #: The decision that refused the call: what remains, and when to come back.
        self.decision = decision


class StoreError(MultiDBError):
    """The store refused the operation, or failed at it, for a reason no other error names."""


class UnavailableError(StoreError):
    """The store could not be reached, or the connection broke before it answered."""

    _retryable_by_default = True


class StoreTimeoutError(UnavailableError):
    """The store did not answer in time. A write may have happened: repeat it only if that is harmless."""
