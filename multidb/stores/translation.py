"""What the three translations of driver errors share; the tables are each store's own."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import NamedTuple, Self

from multidb.errors import MultiDBError

__all__ = ["Kind", "Translating"]


class Kind(NamedTuple):
    """What an error becomes. `retryable` None: what its class says."""

    error: type[MultiDBError]
    message: str
    retryable: bool | None = None


class Translating(ABC):
    """Raises what a driver raises inside as multidb's errors, and lets all else pass.

    A class and not a generator, for every call of every store goes through one.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            translated = self._translate(error)
            if translated is not None:
                raise translated from error

    @abstractmethod
    def _translate(self, error: BaseException) -> MultiDBError | None:
        """Return what `error` is to callers of multidb, or None if it does not come from the driver."""
