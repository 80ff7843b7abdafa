"""What redis-py raises, told as multidb's errors: by class and by the reply's code, never by its text.

redis-py's `ConnectionError` and `TimeoutError` are not Python's: both kinds are translated.
"""

from typing import Any

from redis import exceptions as driver

from multidb.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    DataError,
    LockError,
    LockLostError,
    MultiDBError,
    StoreError,
    StoreTimeoutError,
    UnavailableError,
)
from multidb.stores.translation import Kind, Translating

__all__ = ["Refused", "told", "translate", "translating"]


class Refused(driver.ConnectionError):
    """Nothing was sent, for the server has not answered lately."""


_UNREACHED = Kind(UnavailableError, "Redis could not be reached, or the connection broke")
_TIMED_OUT = Kind(StoreTimeoutError, "Redis did not answer in time; a write may have happened")
_UNCOVERED = Kind(UnavailableError, "the Redis cluster cannot serve this key now")
_NO_MASTER = Kind(UnavailableError, "the Redis server is a replica, or has lost its master")
_ELSEWHERE = Kind(StoreError, "the key lives on another node of the Redis cluster", retryable=True)
_REFUSED_LOGIN = Kind(
    ConfigurationError, "Redis refused the login; check the user and password in MULTIDB_REDIS_URL"
)
_NO_PERMISSION = Kind(StoreError, "the Redis user has no permission for this")
_UNREADABLE = Kind(StoreError, "the driver could not understand Redis")
_REFUSED = Kind(StoreError, "Redis refused the command or failed at it")

#: By class, the nearest first.
_BY_CLASS: dict[type, Kind] = {
    driver.RedisError: _REFUSED,
    driver.ConnectionError: _UNREACHED,
    Refused: Kind(
        UnavailableError, "Redis has not answered lately; nothing was sent, and another call will try"
    ),
    driver.MaxConnectionsError: Kind(UnavailableError, "every connection of the Redis pool is in use"),
    driver.BusyLoadingError: Kind(UnavailableError, "Redis is still loading its data"),
    driver.AuthenticationError: _REFUSED_LOGIN,
    driver.AuthorizationError: _REFUSED_LOGIN,
    driver.AuthenticationWrongNumberOfArgsError: _REFUSED_LOGIN,
    driver.NoPermissionError: _NO_PERMISSION,
    driver.TimeoutError: _TIMED_OUT,
    driver.ReadOnlyError: _NO_MASTER,
    driver.MasterDownError: _NO_MASTER,
    driver.ClusterError: _UNCOVERED,
    driver.TryAgainError: _UNCOVERED,
    driver.SlotNotCoveredError: _UNCOVERED,
    driver.AskError: _ELSEWHERE,
    driver.ClusterCrossSlotError: Kind(StoreError, "the keys of one command lie in several slots"),
    driver.CrossSlotTransactionError: Kind(StoreError, "the keys of one transaction lie in several slots"),
    driver.RedisClusterException: Kind(StoreError, "the Redis cluster cannot run this command"),
    driver.OutOfMemoryError: Kind(StoreError, "Redis is full and refuses writes", retryable=True),
    driver.NoScriptError: Kind(StoreError, "Redis does not have the script; it has to be loaded again"),
    driver.WatchError: Kind(ConflictError, "someone else changed a watched key", retryable=True),
    driver.DataError: Kind(DataError, "a value cannot be sent to Redis: encode it first"),
    driver.InvalidResponse: _UNREADABLE,
    driver.InvalidPipelineStack: _UNREADABLE,
    driver.LockError: Kind(LockError, "the lock could not be taken, extended or released"),
    driver.LockNotOwnedError: Kind(LockLostError, "the lock is no longer held"),
    driver.ChildDeadlockedError: Kind(StoreError, "the connection pool is locked in this forked process"),
    driver.IncorrectPolicyType: _UNREADABLE,
    UnicodeEncodeError: Kind(DataError, "a text holds code points that UTF-8 cannot write"),
    TimeoutError: _TIMED_OUT,
    OSError: _UNREACHED,
}

#: By the error code, for which redis-py has no class. The code is the first word of an error reply:
#: https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
_BY_CODE: dict[str, Kind] = {
    "BUSY": Kind(UnavailableError, "Redis is busy running a script"),
    "BUSYGROUP": Kind(AlreadyExistsError, "the consumer group already exists"),
    "BUSYKEY": Kind(AlreadyExistsError, "the key already exists"),
    "DENIED": Kind(ConfigurationError, "Redis runs in protected mode; give MULTIDB_REDIS_URL a password"),
    "MISCONF": Kind(StoreError, "Redis cannot save to disk and refuses writes", retryable=True),
    "NOGROUP": Kind(StoreError, "the stream or the consumer group does not exist"),
    "NOMASTERLINK": _NO_MASTER,
    "NOREPLICAS": Kind(StoreError, "too few replicas are connected for a write", retryable=True),
    "UNBLOCKED": Kind(StoreError, "the server ended the wait", retryable=True),
    "WRONGTYPE": Kind(DataError, "the key holds a value of another type"),
}


class translating(Translating):  # noqa: N801  reads as what it does: `with translating("sessions.get"): ...`
    """Raise what Redis' driver raises inside as multidb's errors, and let all else pass."""

    __slots__ = ()

    def _translate(self, error: BaseException) -> MultiDBError | None:
        return translate(error, self._operation)


def told(reply: Any, operation: str) -> Any:
    """Return a reply, or raise the error that stands in its place: to each caller one of its own."""
    if isinstance(reply, Exception):
        raise translate(reply, operation) or reply from reply
    return reply


def translate(error: BaseException, operation: str) -> MultiDBError | None:
    """Return what `error` is to callers of multidb, or None if it does not come from the driver."""
    if type(error) is driver.RedisClusterException and error.__cause__ is not None:
        # One class for a cluster out of reach and for a wrong call; the first has a cause.
        translated = translate(error.__cause__, operation)
        if translated is not None:
            return translated
    kind = next((_BY_CLASS[cls] for cls in type(error).__mro__ if cls in _BY_CLASS), None)
    if kind is None:
        return None
    if type(error) is driver.ResponseError and error.args:
        code, _, _ = str(error.args[0]).partition(" ")
        kind = _BY_CODE.get(code, kind)
    return kind.error(kind.message, store="redis", operation=operation, retryable=kind.retryable)
