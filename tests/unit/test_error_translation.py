"""Every exception the three drivers define has its place in our tree, and tells no value or secret.

The maps below name each class, or the family it falls under. A class that a newer driver
adds is in no map, and fails here until someone decides what it means.
"""

import asyncio
import importlib
import pkgutil
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, NoReturn

import asyncpg  # type: ignore[import-untyped, unused-ignore]
import bson.errors
import gridfs.errors
import motor.core
import motor.motor_asyncio
import motor.motor_common
import pymongo.errors
import pymongo.helpers_shared
import pymongo.pool_shared
import pytest
import redis.asyncio.sentinel
import redis.exceptions
import sqlalchemy.exc
from asyncpg.exceptions import _base as asyncpg_base  # type: ignore[import-untyped, unused-ignore]
from asyncpg.pool import PoolConnectionProxy  # type: ignore[import-untyped, unused-ignore]
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.ext.asyncio import create_async_engine

from multidb.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    ConstraintError,
    DataError,
    InvalidCursorError,
    LockError,
    LockLostError,
    MultiDBError,
    NotOpenError,
    StoreError,
    StoreName,
    StoreTimeoutError,
    TransactionError,
    UnavailableError,
)
from multidb.stores.mongo import errors as mongo
from multidb.stores.postgres import errors as postgres
from multidb.stores.redis import errors as redis_store

Expected = tuple[type[MultiDBError], bool] | None

#: Stands for whatever must not be repeated: a stored value, a password, an address.
SECRET = "hunter2@203.0.113.9"

EXISTS = (AlreadyExistsError, False)
CONFIGURATION = (ConfigurationError, False)
CONFLICT = (ConflictError, True)
CONSTRAINT = (ConstraintError, False)
DATA = (DataError, False)
REFUSED = (StoreError, False)
REFUSED_FOR_NOW = (StoreError, True)
TIMEOUT = (StoreTimeoutError, True)
TRANSACTION = (TransactionError, False)
UNAVAILABLE = (UnavailableError, True)
POSITION_LOST = (InvalidCursorError, False)
PASSES = None

# --- What each driver's classes become ---------------------------------------------------------

#: asyncpg, by the class of the SQLSTATE: its first two characters.
SQLSTATE_FAMILIES: dict[str, Expected] = {
    "01": PASSES,  # warnings
    "02": PASSES,
    "03": REFUSED,
    "08": UNAVAILABLE,
    "09": REFUSED,
    "0A": REFUSED,
    "0B": TRANSACTION,
    "0F": REFUSED,
    "0L": REFUSED,
    "0P": REFUSED,
    "0Z": REFUSED,
    "10": REFUSED,
    "20": REFUSED,
    "21": REFUSED,
    "22": DATA,
    "23": CONSTRAINT,
    "24": REFUSED,
    "25": TRANSACTION,
    "26": CONFIGURATION,  # a prepared statement is not there
    "27": REFUSED,
    "28": CONFIGURATION,
    "2B": REFUSED,
    "2D": TRANSACTION,
    "2F": REFUSED,
    "34": REFUSED,
    "38": REFUSED,
    "39": REFUSED,
    "3B": TRANSACTION,
    "3D": CONFIGURATION,
    "3F": REFUSED,
    "40": CONFLICT,
    "42": REFUSED,
    "44": CONSTRAINT,
    "53": UNAVAILABLE,
    "54": REFUSED,
    "55": REFUSED,
    "57": UNAVAILABLE,
    "58": REFUSED,
    "72": CONFLICT,
    "F0": REFUSED,
    "HV": REFUSED,
    "P0": REFUSED,
    "XX": REFUSED,
}

#: asyncpg, where a class differs from its family or has no SQLSTATE.
ASYNCPG: dict[str, Expected] = {
    "DuplicatePreparedStatementError": CONFIGURATION,
    "InvalidCachedStatementError": REFUSED_FOR_NOW,
    "UniqueViolationError": EXISTS,
    "TransactionTimeoutError": TIMEOUT,
    "TransactionIntegrityConstraintViolationError": CONSTRAINT,
    "StatementCompletionUnknownError": UNAVAILABLE,
    "ProgramLimitExceededError": DATA,
    "LockNotAvailableError": CONFLICT,
    "QueryCanceledError": TIMEOUT,
    "DatabaseDroppedError": CONFIGURATION,
    "PostgresError": REFUSED,
    "FatalPostgresError": REFUSED,
    "UnknownPostgresError": REFUSED,
    "InterfaceError": REFUSED,  # unless its connection or pool is closed: tested below
    "ClientConfigurationError": CONFIGURATION,
    "UnsupportedClientFeatureError": REFUSED,
    "UnsupportedServerFeatureError": REFUSED,
    "_base.DataError": REFUSED,  # never raised: asyncpg raises the DataError of SQLSTATE 22000
    "InternalClientError": UNAVAILABLE,
    "ProtocolError": UNAVAILABLE,
    "TargetServerAttributeNotMatched": UNAVAILABLE,
    "OutdatedSchemaCacheError": REFUSED_FOR_NOW,
    "InterfaceWarning": PASSES,
}

#: What SQLAlchemy raises without a driver's error inside. Not named: wrong use of its API, which passes.
SQLALCHEMY: dict[str, Expected] = {
    "TimeoutError": TIMEOUT,
    "PendingRollbackError": TRANSACTION,
    "DisconnectionError": UNAVAILABLE,
    "InvalidatePoolError": UNAVAILABLE,
    "EmulatedDBAPIException": REFUSED,
    "StatementError": DATA,
    "DBAPIError": REFUSED,
    "InterfaceError": REFUSED,
    "DatabaseError": REFUSED,
    "DataError": REFUSED,
    "OperationalError": REFUSED,
    "IntegrityError": REFUSED,
    "InternalError": REFUSED,
    "ProgrammingError": REFUSED,
    "NotSupportedError": REFUSED,
}
SQLALCHEMY_PASSES = {
    "AmbiguousColumnError",
    "AmbiguousForeignKeysError",
    "ArgumentError",
    "AwaitRequired",
    "Base20DeprecationWarning",
    "CircularDependencyError",
    "CompileError",
    "ConstraintColumnNotFoundError",
    "DuplicateColumnError",
    "IdentifierError",
    "IllegalStateChangeError",
    "InvalidRequestError",
    "LegacyAPIWarning",
    "MissingGreenlet",
    "MovedIn20Warning",
    "MultipleResultsFound",
    "NoDBAPILoaded",
    "NoForeignKeysError",
    "NoInspectionAvailable",
    "NoReferenceError",
    "NoReferencedColumnError",
    "NoReferencedTableError",
    "NoResultFound",
    "NoSuchColumnError",
    "NoSuchModuleError",
    "NoSuchTableError",
    "ObjectNotExecutableError",
    "ResourceClosedError",
    "SADeprecationWarning",
    "SAPendingDeprecationWarning",
    "SATestSuiteWarning",
    "SAWarning",
    "SQLAlchemyError",
    "UnboundExecutionError",
    "UnreflectableTableError",
    "UnsupportedCompilationError",
}

#: pymongo, bson and gridfs. Motor has no exception of its own: tested below.
PYMONGO: dict[str, Expected] = {
    "PyMongoError": REFUSED,
    "ProtocolError": REFUSED,
    "ConnectionFailure": UNAVAILABLE,
    "WaitQueueTimeoutError": TIMEOUT,
    "AutoReconnect": UNAVAILABLE,
    "NetworkTimeout": TIMEOUT,
    "NotPrimaryError": UNAVAILABLE,
    "ServerSelectionTimeoutError": UNAVAILABLE,
    "ConfigurationError": CONFIGURATION,
    "OperationFailure": REFUSED,  # by its code: tested below
    "CursorNotFound": REFUSED_FOR_NOW,
    "ExecutionTimeout": TIMEOUT,
    "WriteConcernError": REFUSED,
    "WriteError": REFUSED,
    "WTimeoutError": TIMEOUT,
    "DuplicateKeyError": EXISTS,
    "BulkWriteError": REFUSED,  # by its first error: tested below
    "ClientBulkWriteException": REFUSED,
    "InvalidOperation": REFUSED,
    "InvalidName": CONFIGURATION,
    "CollectionInvalid": REFUSED,
    "InvalidURI": CONFIGURATION,
    "DocumentTooLarge": DATA,
    "EncryptionError": REFUSED,  # by its cause: tested below
    "EncryptedCollectionError": REFUSED,
    "_OperationCancelled": UNAVAILABLE,
    "_PoolClosedError": REFUSED,
    "BSONError": DATA,
    "InvalidBSON": DATA,
    "InvalidStringData": DATA,
    "InvalidDocument": DATA,
    "InvalidId": DATA,
    "GridFSError": REFUSED,  # multidb does not use GridFS
    "CorruptGridFile": REFUSED,
    "NoFile": REFUSED,
    "FileExists": REFUSED,
}

#: redis-py. Its `auth`, `http` and `multidb` packages are not used, and their exceptions pass.
REDIS: dict[str, Expected] = {
    "RedisError": REFUSED,
    "ConnectionError": UNAVAILABLE,
    "TimeoutError": TIMEOUT,
    "AuthenticationError": CONFIGURATION,
    "AuthorizationError": CONFIGURATION,
    "BusyLoadingError": UNAVAILABLE,
    "InvalidResponse": REFUSED,
    "ResponseError": REFUSED,  # by the reply's code: tested below
    "DataError": DATA,
    "PubSubError": REFUSED,
    "WatchError": CONFLICT,
    "NoScriptError": REFUSED,
    "OutOfMemoryError": REFUSED_FOR_NOW,
    "ExecAbortError": REFUSED,
    "ReadOnlyError": UNAVAILABLE,
    "NoPermissionError": REFUSED,
    "ModuleError": REFUSED,
    "NoSuchFieldsetError": REFUSED,
    "LockError": (LockError, False),
    "LockNotOwnedError": (LockLostError, False),
    "ChildDeadlockedError": REFUSED,
    "AuthenticationWrongNumberOfArgsError": CONFIGURATION,
    "RedisClusterException": REFUSED,  # or by its cause: tested below
    "ClusterError": UNAVAILABLE,
    "ClusterDownError": UNAVAILABLE,
    "AskError": REFUSED_FOR_NOW,
    "TryAgainError": UNAVAILABLE,
    "ClusterCrossSlotError": REFUSED,
    "MovedError": REFUSED_FOR_NOW,
    "MasterDownError": UNAVAILABLE,
    "SlotNotCoveredError": UNAVAILABLE,
    "MaxConnectionsError": UNAVAILABLE,
    "CrossSlotTransactionError": REFUSED,
    "InvalidPipelineStack": REFUSED,
    "ExternalAuthProviderError": UNAVAILABLE,
    "IncorrectPolicyType": REFUSED,
    "MasterNotFoundError": UNAVAILABLE,
    "SlaveNotFoundError": UNAVAILABLE,
}

#: Classes of a supported driver that an older supported one does not have yet.
NEWER = {"NoSuchFieldsetError", "TransactionTimeoutError", "DocumentTooLarge", "_PoolClosedError"}

# --- Reading the drivers -----------------------------------------------------------------------


def exceptions_of(*modules: ModuleType) -> list[type[BaseException]]:
    """Return the exceptions these modules define, not those they import."""
    found = {
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, BaseException) and cls.__module__ == module.__name__
    }
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


def submodules_of(package: ModuleType) -> list[ModuleType]:
    names = (found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))
    return [package, *(importlib.import_module(name) for name in names)]


def asyncpg_name(cls: type[BaseException]) -> str:
    return "_base.DataError" if cls is asyncpg_base.DataError else cls.__name__


ASYNCPG_CLASSES = exceptions_of(*submodules_of(asyncpg.exceptions))
SQLALCHEMY_CLASSES = exceptions_of(sqlalchemy.exc)
PYMONGO_CLASSES = exceptions_of(pymongo.errors, bson.errors, gridfs.errors, pymongo.pool_shared)
REDIS_CLASSES = exceptions_of(redis.exceptions, redis.asyncio.sentinel)

ODD_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "BulkWriteError": ({},),
    "ClientBulkWriteException": ({}, True),
    "EncryptionError": (ValueError(SECRET),),
    "EncryptedCollectionError": (ValueError(SECRET), {}),
}


def made(cls: type[BaseException]) -> BaseException:
    """Return an instance whose text holds the secret, whatever its constructor asks for."""
    try:
        return cls(*ODD_ARGUMENTS.get(cls.__name__, (SECRET,)))
    except (TypeError, ValueError):
        return cls.__new__(cls, SECRET)


def check(translated: MultiDBError | None, expected: Expected, store: StoreName) -> None:
    """Hold a translation against what the map says, and against what every translation owes."""
    if expected is None:
        assert translated is None
        return
    assert translated is not None
    assert (type(translated), translated.retryable) == expected
    assert translated.store == store
    assert translated.operation == "users.get"
    assert str(translated).startswith("users.get: ")
    assert not tells_a_secret(translated)


def tells_a_secret(error: MultiDBError) -> bool:
    return SECRET in f"{error} {error!r} {vars(error)}"


def failure(code: int, **details: object) -> pymongo.errors.OperationFailure:
    return pymongo.errors.OperationFailure(SECRET, code, {"code": code, "errmsg": SECRET, **details})


def in_postgres(error: BaseException) -> MultiDBError | None:
    return postgres.translate(error, "users.get")


def in_mongo(error: BaseException) -> MultiDBError | None:
    return mongo.translate(error, "users.get")


def in_redis(error: BaseException) -> MultiDBError | None:
    return redis_store.translate(error, "users.get")


# --- Every class -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ASYNCPG_CLASSES, ids=asyncpg_name)
def test_every_asyncpg_class(cls: type[BaseException]) -> None:
    state: str | None = getattr(cls, "sqlstate", None)
    name = asyncpg_name(cls)
    assert name in ASYNCPG or (state and state[:2] in SQLSTATE_FAMILIES), f"decide what {cls} means"
    expected = ASYNCPG[name] if name in ASYNCPG else SQLSTATE_FAMILIES[(state or "")[:2]]
    check(in_postgres(made(cls)), expected, "postgres")


@pytest.mark.parametrize("cls", SQLALCHEMY_CLASSES, ids=lambda cls: cls.__name__)
def test_every_sqlalchemy_class(cls: type[BaseException]) -> None:
    name = cls.__name__
    assert (name in SQLALCHEMY) != (name in SQLALCHEMY_PASSES), f"decide what {cls} means"
    check(in_postgres(made(cls)), SQLALCHEMY.get(name), "postgres")


@pytest.mark.parametrize("cls", PYMONGO_CLASSES, ids=lambda cls: cls.__name__)
def test_every_pymongo_class(cls: type[BaseException]) -> None:
    assert cls.__name__ in PYMONGO, f"decide what {cls} means"
    check(in_mongo(made(cls)), PYMONGO[cls.__name__], "mongo")


@pytest.mark.parametrize("cls", REDIS_CLASSES, ids=lambda cls: cls.__name__)
def test_every_redis_class(cls: type[BaseException]) -> None:
    assert cls.__name__ in REDIS, f"decide what {cls} means"
    check(in_redis(made(cls)), REDIS[cls.__name__], "redis")


@pytest.mark.parametrize(
    ("named", "classes"),
    [
        (ASYNCPG.keys(), ASYNCPG_CLASSES),
        (SQLALCHEMY.keys() | SQLALCHEMY_PASSES, SQLALCHEMY_CLASSES),
        (PYMONGO.keys(), PYMONGO_CLASSES),
        (REDIS.keys(), REDIS_CLASSES),
    ],
    ids=["asyncpg", "sqlalchemy", "pymongo", "redis"],
)
def test_the_maps_name_no_class_that_is_gone(
    named: Iterable[str], classes: list[type[BaseException]]
) -> None:
    assert set(named) - NEWER <= {asyncpg_name(cls) for cls in classes}


def test_motor_has_no_exceptions_of_its_own() -> None:
    assert exceptions_of(motor.motor_asyncio, motor.core, motor.motor_common) == []


# --- What all three share ----------------------------------------------------------------------

STORES: dict[str, tuple[Callable[[BaseException], MultiDBError | None], Callable[[str], Any]]] = {
    "postgres": (in_postgres, postgres.translating),
    "mongo": (in_mongo, mongo.translating),
    "redis": (in_redis, redis_store.translating),
}
each_store = pytest.mark.parametrize("store", STORES)


@each_store
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(SECRET), TIMEOUT),
        (OSError(SECRET), UNAVAILABLE),
        (ConnectionRefusedError(SECRET), UNAVAILABLE),
        (ConnectionResetError(SECRET), UNAVAILABLE),
        (BrokenPipeError(SECRET), UNAVAILABLE),
        (ssl.SSLError(SECRET), UNAVAILABLE),
        (ssl.SSLCertVerificationError(SECRET), UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_network_fails_alike_everywhere(
    store: StoreName, error: BaseException, expected: Expected
) -> None:
    check(STORES[store][0](error), expected, store)


@each_store
@pytest.mark.parametrize(
    "error",
    [
        TypeError("wrong call"),
        ValueError("wrong value"),
        KeyError("key"),
        RuntimeError("Event loop is closed"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        ConflictError("stale"),
        StoreTimeoutError("late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_drivers_passes_unchanged(store: str, error: BaseException) -> None:
    translate, translating = STORES[store]
    assert translate(error) is None
    with pytest.raises(type(error)) as raised, translating("users.get"):
        raise error
    assert raised.value is error
    assert raised.value.__cause__ is None


@each_store
def test_translating_raises_from_the_original(store: StoreName) -> None:
    original = ConnectionResetError(SECRET)
    with pytest.raises(UnavailableError) as raised, STORES[store][1]("users.get"):
        raise original
    check(raised.value, UNAVAILABLE, store)
    assert raised.value.__cause__ is original


@each_store
def test_translating_lets_success_through(store: str) -> None:
    context: AbstractContextManager[None] = STORES[store][1]("users.get")
    with context:
        done = True
    assert done


# --- PostgreSQL --------------------------------------------------------------------------------

#: As PostgreSQL 18 sends them.
UNIQUE_VIOLATION = {
    "S": "ERROR",
    "C": "23505",
    "M": 'duplicate key value violates unique constraint "users_email_key"',
    "D": f"Key (email)=({SECRET}) already exists.",
    "s": "public",
    "t": "users",
    "n": "users_email_key",
}
NOT_NULL_VIOLATION = {
    "S": "ERROR",
    "C": "23502",
    "M": 'null value in column "name" of relation "users" violates not-null constraint',
    "D": f"Failing row contains (1, {SECRET}, null).",
    "t": "users",
    "c": "name",
}
CHECK_VIOLATION = {
    "C": "23514",
    "M": 'new row for relation "users" violates check constraint "users_age_check"',
    "D": f"Failing row contains ({SECRET}).",
    "t": "users",
    "n": "users_age_check",
}
COLUMNS_OF = {"users_email_key": ("tenant_id", "email")}


@pytest.mark.parametrize(
    ("fields", "expected", "constraint", "columns", "message"),
    [
        (
            UNIQUE_VIOLATION,
            EXISTS,
            "users_email_key",
            ("tenant_id", "email"),
            (
                "users.get: another row already has this value"
                " (table users, constraint users_email_key, columns tenant_id, email, SQLSTATE 23505)"
            ),
        ),
        (
            NOT_NULL_VIOLATION,
            CONSTRAINT,
            None,
            ("name",),
            "users.get: a required value is missing (table users, column name, SQLSTATE 23502)",
        ),
        (
            CHECK_VIOLATION,
            CONSTRAINT,
            "users_age_check",
            (),
            (
                "users.get: a value does not pass a check"
                " (table users, constraint users_age_check, SQLSTATE 23514)"
            ),
        ),
    ],
    ids=["unique", "not null", "check"],
)
def test_a_constraint_is_named_and_its_values_are_not(
    fields: dict[str, str],
    expected: Expected,
    constraint: str | None,
    columns: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(ConstraintError) as raised, postgres.translating("users.get", COLUMNS_OF):
        raise asyncpg.PostgresError.new(fields, "INSERT ...")
    check(raised.value, expected, "postgres")
    assert raised.value.constraint == constraint
    assert raised.value.columns == columns
    assert str(raised.value) == message


def test_columns_are_empty_where_nobody_tells_them() -> None:
    translated = in_postgres(asyncpg.PostgresError.new(UNIQUE_VIOLATION))
    assert isinstance(translated, AlreadyExistsError)
    assert translated.columns == ()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("57P77", UNAVAILABLE),  # a code asyncpg has no class for, of a class we know
        ("ZZ123", REFUSED),
        ("40003", UNAVAILABLE),
        ("0A000", REFUSED),
        ("53300", UNAVAILABLE),
        ("42P01", REFUSED),
        ("25P03", TRANSACTION),
    ],
)
def test_a_sqlstate_decides_without_a_class(state: str, expected: Expected) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": SECRET, "D": SECRET, "H": SECRET, "q": SECRET})
    translated = in_postgres(error)
    check(translated, expected, "postgres")
    assert f"SQLSTATE {state}" in str(translated)


def test_a_changed_schema_is_worth_a_retry() -> None:
    fields = {"C": "0A000", "M": SECRET, "R": "RevalidateCachedQuery"}
    check(in_postgres(asyncpg.PostgresError.new(fields)), REFUSED_FOR_NOW, "postgres")


@pytest.mark.parametrize(
    ("state", "hint"),
    [("28P01", "MULTIDB_POSTGRES_URL"), ("3D000", "MULTIDB_POSTGRES_URL"), ("42P01", "multidb migrate")],
)
def test_a_message_says_what_to_do(state: str, hint: str) -> None:
    assert hint in str(in_postgres(asyncpg.PostgresError.new({"C": state, "M": SECRET})))


def test_sqlalchemy_hides_nothing_of_asyncpgs_errors() -> None:
    """Each error that comes through SQLAlchemy's engine means what it means without it."""
    raising: BaseException = ValueError()

    async def fail(*_: object, **__: object) -> NoReturn:
        raise raising

    async def through_sqlalchemy() -> BaseException:
        try:
            await engine.connect()
        except Exception as error:
            return error
        raise AssertionError

    engine = create_async_engine("postgresql+asyncpg://", connect_args={"async_creator_fn": fail})
    wrapped = 0
    for cls in ASYNCPG_CLASSES:
        if not issubclass(cls, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            continue
        raising = made(cls)
        error = asyncio.run(through_sqlalchemy())
        assert isinstance(error, sqlalchemy.exc.DBAPIError)
        direct, through = in_postgres(raising), in_postgres(error)
        assert direct is not None
        check(through, (type(direct), direct.retryable), "postgres")
        wrapped += 1
    assert wrapped > 200


def test_a_constraint_is_named_through_sqlalchemy_too() -> None:
    inside = asyncpg.PostgresError.new(UNIQUE_VIOLATION)
    adapted = AsyncAdapt_asyncpg_dbapi.UniqueViolationError(SECRET, inside)  # type: ignore[no-untyped-call]
    error = sqlalchemy.exc.IntegrityError("INSERT ...", {"email": SECRET}, adapted)
    translated = postgres.translate(error, "users.get", columns_of=COLUMNS_OF)
    check(translated, EXISTS, "postgres")
    assert isinstance(translated, AlreadyExistsError)
    assert translated.columns == ("tenant_id", "email")


def test_a_value_sqlalchemy_cannot_bind() -> None:
    error = sqlalchemy.exc.StatementError(SECRET, "INSERT ...", {"email": SECRET}, ValueError(SECRET))
    check(in_postgres(error), DATA, "postgres")


class FakeConnection(asyncpg.Connection):  # type: ignore[misc, type-arg, unused-ignore]
    """A connection to nowhere that refuses what it is asked, as asyncpg refuses."""

    __slots__ = ("_closed",)

    def __init__(self, *, closed: bool) -> None:
        self._protocol = None
        self._closed = closed

    def is_closed(self) -> bool:
        return self._closed

    async def fetch(self, *_: object, **__: object) -> NoReturn:
        raise asyncpg.InterfaceError(SECRET)


class FakeStatement:
    """A prepared statement, which holds its connection."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    async def fetch(self) -> NoReturn:
        raise asyncpg.InterfaceError(SECRET)


def released_proxy() -> PoolConnectionProxy:
    proxy = PoolConnectionProxy.__new__(PoolConnectionProxy)
    proxy._con = None  # type: ignore[attr-defined, unused-ignore]
    return proxy


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (FakeConnection(closed=True), UNAVAILABLE),
        (FakeConnection(closed=False), REFUSED),  # such as "another operation is in progress"
        (FakeStatement(FakeConnection(closed=True)), UNAVAILABLE),
        (FakeStatement(FakeConnection(closed=False)), REFUSED),
        (released_proxy(), UNAVAILABLE),  # a pool takes back a connection that breaks
        (FakeStatement(released_proxy()), UNAVAILABLE),
    ],
    ids=["closed", "open", "statement of closed", "statement of open", "taken", "statement of taken"],
)
def test_an_interface_error_of_a_lost_connection_is_unavailable(target: Any, expected: Expected) -> None:
    async def call() -> None:
        with postgres.translating("users.get"):
            await target.fetch()

    with pytest.raises(StoreError) as raised:
        asyncio.run(call())
    check(raised.value, expected, "postgres")


def test_a_closed_pool_is_not_open() -> None:
    async def call() -> None:
        pool = await asyncpg.create_pool(min_size=0)
        await pool.close()
        with postgres.translating("users.get"):
            await pool.fetch("SELECT 1")

    with pytest.raises(NotOpenError) as raised:
        asyncio.run(call())
    check(raised.value, (NotOpenError, False), "postgres")


# --- MongoDB -----------------------------------------------------------------------------------

#: Server codes, as in the server's error_codes.yml.
MONGO_CODES: dict[Expected, set[int]] = {
    UNAVAILABLE: {6, 7, 63, 91, 133, 134, 150, 189, 234, 317, 391, 462}
    | {9001, 10058, 10107, 11600, 11602, 13388, 13435, 13436, 14031},
    TIMEOUT: {50, 64, 89, 202, 262, 290},
    CONFLICT: {24, 46, 112, 239, 246},
    TRANSACTION: {225, 244, 251, 256, 263},
    EXISTS: {48, 11000, 11001, 12582},
    CONSTRAINT: {121},
    DATA: {14, 15, 22, 28, 10334, 17419, 17420},
    CONFIGURATION: {18, 334, 40573},
    REFUSED_FOR_NOW: {43, 237, 11601},
    POSITION_LOST: {260, 280, 286},
    REFUSED: {1, 2, 9, 13, 20, 26, 27, 59, 85, 86, 115, 8000, 999999},
}


@pytest.mark.parametrize(
    ("code", "expected"), [(code, expected) for expected, codes in MONGO_CODES.items() for code in codes]
)
def test_a_server_code(code: int, expected: Expected) -> None:
    check(in_mongo(failure(code)), expected, "mongo")


def test_the_codes_pymongo_retries_are_retryable() -> None:
    for code in pymongo.helpers_shared._RETRYABLE_ERROR_CODES:
        translated = in_mongo(failure(code))
        assert isinstance(translated, UnavailableError)
        assert translated.retryable


@pytest.mark.parametrize(
    ("code", "label", "expected"),
    [
        (251, "TransientTransactionError", CONFLICT),
        (24, "TransientTransactionError", CONFLICT),
        (999999, "TransientTransactionError", CONFLICT),
        (50, "UnknownTransactionCommitResult", TIMEOUT),
        (999999, "UnknownTransactionCommitResult", UNAVAILABLE),
        (999999, "RetryableWriteError", UNAVAILABLE),
        (999999, "RetryableError", UNAVAILABLE),
        (999999, "NoWritesPerformed", REFUSED),
        (11000, "TransientTransactionError", (AlreadyExistsError, True)),
    ],
)
def test_a_label_says_what_a_retry_is_worth(code: int, label: str, expected: Expected) -> None:
    check(in_mongo(failure(code, errorLabels=[label])), expected, "mongo")


def test_a_label_the_driver_adds() -> None:
    error = pymongo.errors.ConnectionFailure(SECRET, ["TransientTransactionError"])
    check(in_mongo(error), UNAVAILABLE, "mongo")


DUPLICATE = {
    "index": 0,
    "code": 11000,
    "errmsg": f'E11000 duplicate key error collection: t.u index: email_1 dup key: {{ email: "{SECRET}" }}',
    "keyPattern": {"tenant_id": 1, "email": 1},
    "keyValue": {"tenant_id": 7, "email": SECRET},
    "op": {"email": SECRET},
}
#: As MongoDB 6.0 sends it.
INVALID = {
    "index": 0,
    "code": 121,
    "errmsg": "Document failed validation",
    "errInfo": {
        "failingDocumentId": SECRET,
        "details": {
            "operatorName": "$jsonSchema",
            "schemaRulesNotSatisfied": [
                {
                    "operatorName": "properties",
                    "propertiesNotSatisfied": [
                        {
                            "propertyName": "level",
                            "details": [
                                {
                                    "operatorName": "enum",
                                    "specifiedAs": {"enum": [SECRET]},
                                    "reason": "value was not found in enum",
                                    "consideredValue": SECRET,
                                }
                            ],
                        },
                        {
                            "propertyName": "context",
                            "details": [
                                {
                                    "operatorName": "required",
                                    "specifiedAs": {"required": ["request_id"]},
                                    "missingProperties": ["request_id"],
                                }
                            ],
                        },
                    ],
                },
                {"operatorName": "required", "missingProperties": ["service", "level"]},
                {"operatorName": "additionalProperties", "additionalProperties": [SECRET]},
            ],
        },
    },
}
EACH_WAY: dict[str, Callable[[Mapping[str, Any]], BaseException]] = {
    "alone": lambda told: pymongo.errors.WriteError(told["errmsg"], told["code"], told),
    "bulk": lambda told: pymongo.errors.BulkWriteError(
        {"writeErrors": [told, {"code": 2, "errmsg": SECRET}], "writeConcernErrors": [{"code": 64}]}
    ),
    "client bulk": lambda told: pymongo.errors.ClientBulkWriteException(
        {"error": None, "writeErrors": [told], "writeConcernErrors": []}, verbose=False
    ),
}


@pytest.mark.parametrize("way", EACH_WAY)
def test_a_duplicate_names_its_fields(way: str) -> None:
    translated = in_mongo(EACH_WAY[way](DUPLICATE))
    check(translated, EXISTS, "mongo")
    assert isinstance(translated, AlreadyExistsError)
    assert translated.columns == ("tenant_id", "email")
    assert str(translated) == ("users.get: another document already has this value (fields tenant_id, email)")


@pytest.mark.parametrize("way", EACH_WAY)
def test_a_failed_validation_names_its_fields(way: str) -> None:
    translated = in_mongo(EACH_WAY[way](INVALID))
    check(translated, CONSTRAINT, "mongo")
    assert isinstance(translated, ConstraintError)
    assert translated.columns == ("level", "context.request_id", "service")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (pymongo.errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), TIMEOUT),
        (pymongo.errors.BulkWriteError({"writeConcernErrors": [{"code": 91}]}), UNAVAILABLE),
        (
            pymongo.errors.ClientBulkWriteException(
                {"error": pymongo.errors.NetworkTimeout(SECRET), "writeErrors": []}, verbose=False
            ),
            TIMEOUT,
        ),
        (
            pymongo.errors.ClientBulkWriteException(
                {"error": {"code": 10107, "errmsg": SECRET}, "writeErrors": []}, verbose=False
            ),
            UNAVAILABLE,
        ),
        (pymongo.errors.EncryptionError(pymongo.errors.AutoReconnect(SECRET)), UNAVAILABLE),
        (pymongo.errors.AutoReconnect(SECRET, [SECRET]), UNAVAILABLE),
        (pymongo.errors.NotPrimaryError(SECRET, {"code": 189, "errmsg": SECRET}), UNAVAILABLE),
        (pymongo.errors.OperationFailure(SECRET), REFUSED),
        (OverflowError("MongoDB can only handle up to 8-byte ints"), DATA),
        (UnicodeEncodeError("utf-8", SECRET, 0, 1, "surrogates not allowed"), DATA),
    ],
    ids=str,
)
def test_an_error_that_carries_another(error: BaseException, expected: Expected) -> None:
    check(in_mongo(error), expected, "mongo")


# --- Redis -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("BUSY", UNAVAILABLE),
        ("BUSYGROUP", EXISTS),
        ("BUSYKEY", EXISTS),
        ("DENIED", CONFIGURATION),
        ("ERR", REFUSED),
        ("MISCONF", REFUSED_FOR_NOW),
        ("NOGROUP", REFUSED),
        ("NOMASTERLINK", UNAVAILABLE),
        ("NOREPLICAS", REFUSED_FOR_NOW),
        ("UNBLOCKED", REFUSED_FOR_NOW),
        ("WRONGTYPE", DATA),
        (SECRET, REFUSED),
    ],
)
def test_a_reply_code(code: str, expected: Expected) -> None:
    check(in_redis(redis.exceptions.ResponseError(f"{code} about {SECRET}")), expected, "redis")


def test_a_reply_without_a_text() -> None:
    check(in_redis(redis.exceptions.ResponseError()), REFUSED, "redis")


def test_a_code_counts_only_as_the_first_word() -> None:
    error = redis.exceptions.ResponseError("ERR Error running script: WRONGTYPE Operation")
    check(in_redis(error), REFUSED, "redis")


@pytest.mark.parametrize(
    ("cause", "expected"),
    [(redis.exceptions.ConnectionError(SECRET), UNAVAILABLE), (ValueError(SECRET), REFUSED)],
    ids=["unreachable", "wrong call"],
)
def test_a_cluster_error_means_what_caused_it(cause: BaseException, expected: Expected) -> None:
    error = redis.exceptions.RedisClusterException(SECRET)
    error.__cause__ = cause
    check(in_redis(error), expected, "redis")


def test_a_text_redis_cannot_encode() -> None:
    check(in_redis(UnicodeEncodeError("utf-8", SECRET, 0, 1, "surrogates")), DATA, "redis")


def test_the_settings_are_named() -> None:
    assert "MULTIDB_REDIS_URL" in str(in_redis(redis.exceptions.AuthenticationError(SECRET)))
    assert "MULTIDB_MONGO_URL" in str(in_mongo(failure(18)))
