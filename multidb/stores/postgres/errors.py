"""What asyncpg raises, told as multidb's errors: by SQLSTATE and by class, never by message text.

SQLAlchemy's wrappers are opened first; what counts is asyncpg's error inside. Of what the
server tells, only names and the SQLSTATE are repeated: its `message` and `detail` hold values.
"""

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped, unused-ignore]
from sqlalchemy import exc as sqlalchemy_errors

from multidb.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    ConstraintError,
    DataError,
    MultiDBError,
    NotOpenError,
    StoreError,
    StoreTimeoutError,
    TransactionError,
    UnavailableError,
)
from multidb.stores.translation import Kind, Translating

__all__ = ["heedless", "translate", "translating"]


_UNREACHED = Kind(UnavailableError, "PostgreSQL could not be reached, or the connection broke")
_TIMED_OUT = Kind(StoreTimeoutError, "PostgreSQL did not answer in time; a write may have happened")
_UNKNOWN_OUTCOME = Kind(UnavailableError, "the connection broke and the outcome is unknown")
_ROLLED_BACK = Kind(ConflictError, "PostgreSQL rolled back for a concurrent transaction", retryable=True)
_REFUSED_LOGIN = Kind(
    ConfigurationError, "PostgreSQL refused the login; check the user and password in MULTIDB_POSTGRES_URL"
)
_NO_DATABASE = Kind(ConfigurationError, "the database does not exist; check MULTIDB_POSTGRES_URL")
_UNBOUND = Kind(DataError, "a value is missing or does not have the type its column takes")
_UNPREPARED = Kind(
    ConfigurationError,
    "a prepared statement got lost, or another session's was met: behind a pooler that shares connections "
    "set MULTIDB_POSTGRES_PREPARED_STATEMENTS=false",
)
_REFUSED = Kind(StoreError, "PostgreSQL refused the statement or failed at it")

#: By SQLSTATE, or by its first two characters where the whole class is one kind.
#: https://www.postgresql.org/docs/18/errcodes-appendix.html
_BY_SQLSTATE: dict[str, Kind] = {
    "08": _UNREACHED,
    "08007": _UNKNOWN_OUTCOME,
    "0B": Kind(TransactionError, "the transaction cannot be started here"),
    "22": Kind(DataError, "a value does not fit its column, or a function cannot work with it"),
    "22000": _UNBOUND,  # asyncpg's own, of an argument it cannot encode
    "23": Kind(ConstraintError, "a value breaks a constraint"),
    "23001": Kind(ConstraintError, "other rows still refer to this row"),
    "23502": Kind(ConstraintError, "a required value is missing"),
    "23503": Kind(ConstraintError, "the row referred to does not exist, or rows still refer to this one"),
    "23505": Kind(AlreadyExistsError, "another row already has this value"),
    "23514": Kind(ConstraintError, "a value does not pass a check"),
    "23P01": Kind(ConstraintError, "the row overlaps another one that excludes it"),
    "25": Kind(TransactionError, "the statement is not allowed in this state of the transaction"),
    "25006": Kind(TransactionError, "the transaction or the server is read-only"),
    "25P02": Kind(
        TransactionError,
        "the transaction has failed already; roll it back and start again, with what may fail in a "
        "savepoint of its own, `async with db.transaction()`",
    ),
    "25P03": Kind(TransactionError, "the transaction stood idle for too long and was rolled back"),
    "25P04": Kind(StoreTimeoutError, "the transaction took too long and was rolled back"),
    "26": _UNPREPARED,
    "28": _REFUSED_LOGIN,
    "2D": Kind(TransactionError, "the transaction cannot be ended here"),
    "3B": Kind(TransactionError, "the savepoint does not exist"),
    "3D": _NO_DATABASE,
    "3F": Kind(StoreError, "the schema does not exist; has `multidb migrate` run?"),
    "40": _ROLLED_BACK,
    "40001": Kind(ConflictError, "a concurrent transaction changed the same rows", retryable=True),
    "40002": Kind(ConstraintError, "the transaction breaks a constraint"),
    "40003": _UNKNOWN_OUTCOME,
    "40P01": Kind(ConflictError, "a deadlock with a concurrent transaction", retryable=True),
    "42501": Kind(StoreError, "the database role has no permission for this"),
    "42703": Kind(StoreError, "a column does not exist; has `multidb migrate` run?"),
    "42704": Kind(StoreError, "a type or another object does not exist; has `multidb migrate` run?"),
    "42883": Kind(StoreError, "a function or operator does not exist; has `multidb migrate` run?"),
    "42P05": _UNPREPARED,
    "42P01": Kind(StoreError, "the table does not exist; has `multidb migrate` run?"),
    "44": Kind(ConstraintError, "the row does not pass the view's check option"),
    "53": Kind(UnavailableError, "PostgreSQL is out of a resource"),
    "53100": Kind(UnavailableError, "PostgreSQL has no disk space left"),
    "53300": Kind(UnavailableError, "PostgreSQL has no connection left"),
    "54000": Kind(DataError, "a value is larger than PostgreSQL allows here"),
    "55P03": Kind(ConflictError, "another transaction holds the lock", retryable=True),
    "57": Kind(UnavailableError, "PostgreSQL is stopping, starting, or closed the connection"),
    "57014": Kind(StoreTimeoutError, "PostgreSQL cancelled the statement: it took too long"),
    "57P04": _NO_DATABASE,
    "72000": Kind(ConflictError, "the snapshot is too old", retryable=True),
}

#: By class, the nearest first: asyncpg's own errors, SQLAlchemy's, and the sockets'.
_BY_CLASS: dict[type, Kind] = {
    asyncpg.InvalidCachedStatementError: Kind(
        StoreError, "the schema changed under a prepared statement", retryable=True
    ),
    asyncpg.OutdatedSchemaCacheError: Kind(
        StoreError, "the schema changed before the rows were read", retryable=True
    ),
    asyncpg.TargetServerAttributeNotMatched: Kind(
        UnavailableError, "no PostgreSQL server has the role MULTIDB_POSTGRES_URL asks for"
    ),
    # As a rule the server's word of ending the connection was read, and the end itself not yet.
    asyncpg.InternalClientError: Kind(UnavailableError, "the connection fell out of step with PostgreSQL"),
    asyncpg.ClientConfigurationError: Kind(ConfigurationError, "the driver cannot use MULTIDB_POSTGRES_URL"),
    asyncpg.InterfaceError: Kind(StoreError, "the driver refused the call: it is not valid now"),
    sqlalchemy_errors.TimeoutError: Kind(StoreTimeoutError, "no connection of the pool was free in time"),
    sqlalchemy_errors.PendingRollbackError: Kind(
        TransactionError, "the transaction has failed already; roll it back and start again"
    ),
    sqlalchemy_errors.DisconnectionError: _UNREACHED,
    sqlalchemy_errors.EmulatedDBAPIException: _REFUSED,
    sqlalchemy_errors.DBAPIError: _REFUSED,
    sqlalchemy_errors.StatementError: _UNBOUND,
    TimeoutError: _TIMED_OUT,
    OSError: _UNREACHED,
}


class translating(Translating):  # noqa: N801  reads as what it does: `with translating("users.get"): ...`
    """Raise what PostgreSQL's driver raises inside as multidb's errors, and let all else pass."""

    __slots__ = ("_columns_of",)

    def __init__(self, operation: str, columns_of: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(operation)
        self._columns_of = columns_of

    def _translate(self, error: BaseException) -> MultiDBError | None:
        return translate(error, self._operation, columns_of=self._columns_of)


def translate(
    error: BaseException, operation: str, *, columns_of: Mapping[str, Sequence[str]] | None = None
) -> MultiDBError | None:
    """Return what `error` is to callers of multidb, or None if it does not come from the driver.

    `columns_of` gives the columns of a constraint by its name: the server tells only the name.
    """
    found = _find(error)
    if found is None:
        return None
    (raised, message, retryable), origin = found
    constraint: str | None = getattr(origin, "constraint_name", None)
    column: str | None = getattr(origin, "column_name", None)
    columns = tuple((columns_of or {}).get(constraint or "", ())) or ((column,) if column else ())
    told = {
        "table": getattr(origin, "table_name", None),
        "constraint": constraint,
        "column" if len(columns) == 1 else "columns": ", ".join(columns),
        "SQLSTATE": getattr(origin, "sqlstate", None),
    }
    if names := ", ".join(f"{what} {name}" for what, name in told.items() if name):
        message = f"{message} ({names})"
    if issubclass(raised, ConstraintError):
        return raised(
            message,
            constraint=constraint,
            columns=columns,
            store="postgres",
            operation=operation,
            retryable=retryable,
        )
    return raised(message, store="postgres", operation=operation, retryable=retryable)


def _find(error: BaseException) -> tuple[Kind, BaseException] | None:
    """Return the kind of an error, and the driver's error it was read from."""
    if isinstance(error, sqlalchemy_errors.StatementError | sqlalchemy_errors.EmulatedDBAPIException):
        inner = error.orig or error.__cause__
        if inner is not None and (found := _find(inner)) is not None:
            return found
    kind = next((_BY_CLASS[cls] for cls in type(error).__mro__ if cls in _BY_CLASS), None)
    if kind is None and isinstance(error, asyncpg.PostgresError):
        state: str = error.sqlstate or ""
        kind = _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2], _REFUSED)
    elif type(error) is asyncpg.InterfaceError:
        kind = _if_closed(error) or kind
    return (kind, error) if kind is not None else None


def _if_closed(error: BaseException) -> Kind | None:
    """Return what a closed connection or pool means for an InterfaceError, or None if none is closed.

    asyncpg raises the one class both for a lost connection and for a wrong call, with nothing but
    the text to tell them apart. So the objects whose methods it passed through are asked instead.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner: Any = frame.f_locals.get("self")
        owner = getattr(owner, "_connection", owner)  # a transaction, cursor or prepared statement
        if isinstance(owner, asyncpg.Connection) and _is_lost(owner):
            return _UNREACHED
        if isinstance(owner, asyncpg.Pool) and owner.is_closing():
            return Kind(NotOpenError, "the connection pool is closed")
    return None


def _is_lost(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True  # a pool takes a connection that breaks away from its holder


async def heedless(end: Callable[[], Awaitable[Any]]) -> None:
    """Roll back or release, whatever comes of it: a connection that broke has ended by itself."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        await end()
