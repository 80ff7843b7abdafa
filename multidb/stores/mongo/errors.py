"""What PyMongo and Motor raise, told as multidb's errors: by server code, label and class, never by text.

Of what the server tells, only field names are repeated: `errmsg` and `keyValue` hold values.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from bson.errors import BSONError
from pymongo import errors as driver

from multidb.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    ConstraintError,
    DataError,
    InvalidCursorError,
    MultiDBError,
    StoreError,
    StoreTimeoutError,
    TransactionError,
    UnavailableError,
)
from multidb.stores.mongo.documents import field_of
from multidb.stores.translation import Kind, Translating

__all__ = [
    "ID_ALONE",
    "Unique",
    "is_about_id",
    "is_unconfirmed",
    "may_be_replayed",
    "may_have_happened",
    "refusals",
    "translate",
    "translating",
]


_UNREACHED = Kind(UnavailableError, "MongoDB could not be reached, or the connection broke")
_ELECTING = Kind(UnavailableError, "the MongoDB server is stopping or is not the primary")
_TIMED_OUT = Kind(StoreTimeoutError, "MongoDB did not answer in time; a write may have happened")
_UNCONFIRMED = Kind(StoreTimeoutError, "the write happened, but was not replicated in time")
_DUPLICATE = Kind(AlreadyExistsError, "another document already has this value")
_CONFLICT = Kind(ConflictError, "a concurrent operation changed the same documents", retryable=True)
_UNFIT = Kind(DataError, "a value does not fit its field")
_NOT_UNICODE = Kind(DataError, "a text holds code points that UTF-8 cannot write")
_TOO_LARGE = Kind(DataError, "the document is larger than MongoDB allows")
_ENDED = Kind(TransactionError, "the transaction has ended or does not allow this")
_CURSOR_LOST = Kind(StoreError, "the server dropped the cursor; read again from the start", retryable=True)
_POSITION_LOST = Kind(
    InvalidCursorError, "MongoDB no longer has the changes since there; read the documents, then watch anew"
)
_REFUSED_LOGIN = Kind(
    ConfigurationError, "MongoDB refused the login; check the user and password in MULTIDB_MONGO_URL"
)
_STANDALONE = Kind(ConfigurationError, "this needs a replica set; MULTIDB_MONGO_URL leads to a lone server")
_OVERLOADED = Kind(UnavailableError, "MongoDB is overloaded")
_REFUSED = Kind(StoreError, "MongoDB refused the operation or failed at it")

#: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
_BY_CODE: dict[int, Kind] = {
    # HostUnreachable, HostNotFound, StaleShardVersion, StaleEpoch, RetryChangeStream,
    # ConnectionPoolExpired, ReauthenticationRequired, SocketException, StaleConfig
    **dict.fromkeys((6, 7, 63, 150, 234, 317, 391, 9001, 13388), _UNREACHED),
    # ShutdownInProgress, FailedToSatisfyReadPreference, ReadConcernMajorityNotAvailableYet,
    # PrimarySteppedDown, InterruptedAtShutdown, InterruptedDueToReplStateChange
    **dict.fromkeys((91, 133, 134, 189, 11600, 11602), _ELECTING),
    # LegacyNotPrimary, NotWritablePrimary, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary
    **dict.fromkeys((10058, 10107, 13435, 13436), _ELECTING),
    # MaxTimeMSExpired, NetworkTimeout, NetworkInterfaceExceededTimeLimit, ExceededTimeLimit
    **dict.fromkeys((50, 89, 202, 262), _TIMED_OUT),
    # WriteConcernTimeout
    64: _UNCONFIRMED,
    # DuplicateKey, also as older servers and findAndModify say it
    **dict.fromkeys((11000, 11001, 12582), _DUPLICATE),
    48: Kind(AlreadyExistsError, "the collection is there already"),
    # LockTimeout, LockBusy, WriteConflict, SnapshotTooOld, SnapshotUnavailable
    **dict.fromkeys((24, 46, 112, 239, 246), _CONFLICT),
    # TransactionTooOld, TransactionAborted, NoSuchTransaction, TransactionCommitted,
    # OperationNotSupportedInTransaction
    **dict.fromkeys((225, 244, 251, 256, 263), _ENDED),
    # TransactionExceededLifetimeLimitSeconds
    290: Kind(StoreTimeoutError, "the transaction took too long and was rolled back"),
    # DocumentValidationFailure
    121: Kind(ConstraintError, "the document does not pass the collection's validator"),
    # TypeMismatch, Overflow, InvalidBSON, PathNotViable
    **dict.fromkeys((14, 15, 22, 28), _UNFIT),
    # BSONObjectTooLarge, and the same of the document an update makes
    **dict.fromkeys((10334, 17419, 17420), _TOO_LARGE),
    # CursorNotFound, CursorKilled
    **dict.fromkeys((43, 237), _CURSOR_LOST),
    # InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost
    **dict.fromkeys((260, 280, 286), _POSITION_LOST),
    # Unauthorized
    13: Kind(StoreError, "the MongoDB user has no permission for this"),
    # AuthenticationFailed, MechanismUnavailable
    **dict.fromkeys((18, 334), _REFUSED_LOGIN),
    # NamespaceNotFound
    26: Kind(StoreError, "the collection does not exist; has `multidb migrate` run?"),
    # IngressRequestRateLimitExceeded
    462: _OVERLOADED,
    # Interrupted
    11601: Kind(StoreError, "the operation was interrupted on the server", retryable=True),
    # OutOfDiskSpace
    14031: Kind(UnavailableError, "MongoDB has no disk space left"),
    # a change stream on a server outside a replica set
    40573: _STANDALONE,
}

#: By class, the nearest first, where no code decides.
_BY_CLASS: dict[type, Kind] = {
    driver.PyMongoError: _REFUSED,
    driver.ConnectionFailure: _UNREACHED,
    driver.NotPrimaryError: _ELECTING,
    driver.ServerSelectionTimeoutError: Kind(UnavailableError, "no MongoDB server could be reached in time"),
    driver.WaitQueueTimeoutError: Kind(StoreTimeoutError, "no connection of the pool was free in time"),
    driver.NetworkTimeout: _TIMED_OUT,
    driver.ExecutionTimeout: _TIMED_OUT,
    driver.WTimeoutError: _UNCONFIRMED,
    driver.DuplicateKeyError: _DUPLICATE,
    driver.CursorNotFound: _CURSOR_LOST,
    driver.ConfigurationError: Kind(ConfigurationError, "the driver cannot use MULTIDB_MONGO_URL"),
    driver.InvalidName: Kind(
        ConfigurationError, "a database or collection has a name MongoDB does not allow"
    ),
    driver.InvalidOperation: Kind(
        StoreError, "the driver refused the call: the client is closed, or the call is not valid now"
    ),
    driver.CollectionInvalid: Kind(StoreError, "the collection exists already, or is not as it should be"),
    driver.EncryptionError: Kind(StoreError, "encryption or decryption failed"),
    driver.ProtocolError: Kind(StoreError, "the driver could not understand MongoDB"),
    driver.DocumentTooLarge: _TOO_LARGE,
    BSONError: Kind(DataError, "a value cannot be written as BSON, or read from it"),
    OverflowError: Kind(DataError, "a whole number does not fit in eight bytes"),  # bson raises Python's
    UnicodeEncodeError: _NOT_UNICODE,
    TimeoutError: _TIMED_OUT,
    OSError: _UNREACHED,
}

#: What the server or the driver says about a retry, and what that means where the code says nothing.
#: https://github.com/mongodb/specifications: transactions, retryable-writes, client-backpressure
_BY_LABEL: dict[str, Kind] = {
    "TransientTransactionError": _CONFLICT,
    "UnknownTransactionCommitResult": Kind(UnavailableError, "the outcome of the commit is unknown"),
    "RetryableWriteError": _UNREACHED,
    "RetryableError": _OVERLOADED,
}


#: By the name of each unique index, the fields it is about.
Unique: TypeAlias = Mapping[str, tuple[str, ...]]

#: Every collection has this one.
ID_ALONE: Unique = {"_id_": ("id",)}


class translating(Translating):  # noqa: N801  reads as what it does: `with translating("system_logs.find"): ...`
    """Raise what MongoDB's driver raises inside as multidb's errors, and let all else pass."""

    __slots__ = ("_unique",)

    def __init__(self, operation: str, unique: Unique = ID_ALONE) -> None:
        super().__init__(operation)
        self._unique = unique

    def _translate(self, error: BaseException) -> MultiDBError | None:
        return translate(error, self._operation, self._unique)


def translate(error: BaseException, operation: str, unique: Unique = ID_ALONE) -> MultiDBError | None:
    """Return what `error` is to callers of multidb, or None if it does not come from the driver.

    `unique` tells, by the name of each unique index, the fields it is about.
    """
    cause = _cause(error)
    if cause is not None and (translated := translate(cause, operation, unique)) is not None:
        return translated
    kind = next((_BY_CLASS[cls] for cls in type(error).__mro__ if cls in _BY_CLASS), None)
    if kind is None:
        return None
    failure = _failure(error)
    kind = _BY_CODE.get(failure.get("code", 0), kind)
    if isinstance(error, driver.PyMongoError):
        for label, meaning in _BY_LABEL.items():
            if error.has_error_label(label):
                if kind.error is StoreError or kind.error is TransactionError:
                    kind = meaning
                kind = kind._replace(retryable=True)
                break
    return _told(kind, failure, operation, unique)


def refusals(
    error: driver.BulkWriteError | driver.WriteError | driver.WriteConcernError,
    count: int,
    operation: str,
    unique: Unique = ID_ALONE,
) -> dict[int, MultiDBError]:
    """Return what became of the `count` documents of an unordered write, by place, where that is an error."""
    refused: dict[int, MultiDBError] = {}
    if not isinstance(error, driver.BulkWriteError):
        if (told := translate(error, operation, unique)) is not None:
            refused[0] = told
    else:
        unconfirmed = (error.details.get("writeConcernErrors") or ())[:1]
        for failure in unconfirmed:
            # It is about all that were written.
            refused = dict.fromkeys(range(count), _told(_kind_of(failure), failure, operation, unique))
        for failure in error.details.get("writeErrors") or ():
            if unconfirmed and failure.get("keyPattern") == {"_id": 1}:
                continue  # it may be there by an attempt that is not confirmed either
            refused[failure["index"]] = _told(_kind_of(failure), failure, operation, unique)
    for told in refused.values():
        told.__cause__ = error
    return refused


def may_have_happened(error: UnavailableError) -> bool:
    """Tell whether the connection broke when a write may have been sent, and another may be had at once."""
    cause = error.__cause__
    return isinstance(cause, driver.AutoReconnect) and not isinstance(
        cause, driver.ServerSelectionTimeoutError | driver.NetworkTimeout
    )


def may_be_replayed(error: MultiDBError) -> bool:
    """Tell whether a transaction that ended so was rolled back, and may be run again from the start."""
    return _has_label(error, "TransientTransactionError")


def is_unconfirmed(error: MultiDBError) -> bool:
    """Tell whether a commit ended so that it may have happened, and may be sent again."""
    return _has_label(error, "UnknownTransactionCommitResult")


def _has_label(error: MultiDBError, label: str) -> bool:
    cause = error.__cause__
    return isinstance(cause, driver.PyMongoError) and cause.has_error_label(label)


def is_about_id(error: MultiDBError) -> bool:
    """Tell whether a document was refused because its id is taken."""
    return isinstance(error, AlreadyExistsError) and error.columns == ("id",)


def _kind_of(failure: Mapping[str, Any]) -> Kind:
    return _BY_CODE.get(failure.get("code", 0), _REFUSED)


def _told(kind: Kind, failure: Mapping[str, Any], operation: str, unique: Unique) -> MultiDBError:
    raised, message, retryable = kind
    if not issubclass(raised, ConstraintError):
        return raised(message, store="mongo", operation=operation, retryable=retryable)
    fields = tuple(dict.fromkeys(_fields(failure)))
    constraint = next((name for name, about in unique.items() if set(about) == set(fields)), None)
    if constraint is not None:
        fields = unique[constraint]
    if fields:
        message = f"{message} ({'field' if len(fields) == 1 else 'fields'} {', '.join(fields)})"
    return raised(
        message,
        constraint=constraint if issubclass(raised, AlreadyExistsError) else None,
        columns=fields,
        store="mongo",
        operation=operation,
        retryable=retryable,
    )


def _cause(error: BaseException) -> BaseException | None:
    """Return the error that one of the driver's errors only carries."""
    if isinstance(error, driver.EncryptionError):
        return error.cause
    if isinstance(error, driver.ClientBulkWriteException) and not error.write_errors:
        return error.error if isinstance(error.error, BaseException) else None
    return None


def _failure(error: BaseException) -> Mapping[str, Any]:
    """Return what the server said of the failure, with its code; of a bulk's failures, the first."""
    if not isinstance(error, driver.OperationFailure | driver.AutoReconnect):
        return {}
    details: Any = error.details
    told: Mapping[str, Any] = details if isinstance(details, Mapping) else {}
    if isinstance(error, driver.BulkWriteError | driver.ClientBulkWriteException):
        failures = [
            *(told.get("writeErrors") or ()),
            told.get("error"),
            *(told.get("writeConcernErrors") or ()),
        ]
        return next((failure for failure in failures if isinstance(failure, Mapping)), {})
    if isinstance(error, driver.OperationFailure) and error.code is not None:
        return {**told, "code": error.code}
    return told


def _fields(failure: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields a duplicate key or a validator's complaint is about."""
    yield from map(field_of, failure.get("keyPattern") or ())
    complaint = (failure.get("errInfo") or {}).get("details")
    yield from _complained_of(complaint)


def _complained_of(complaint: object, within: str = "") -> Iterator[str]:
    """Yield the dotted names in a validator's complaint; the values it considered stand beside them.

    https://www.mongodb.com/docs/manual/core/schema-validation/handle-invalid-documents/
    """
    if isinstance(complaint, list):
        for part in complaint:
            yield from _complained_of(part, within)
    elif isinstance(complaint, Mapping):
        yield from (within + name for name in complaint.get("missingProperties", ()))
        name = complaint.get("propertyName")
        inside = f"{within}{name}." if name else within
        nested = [
            field
            for key in ("schemaRulesNotSatisfied", "propertiesNotSatisfied", "clausesNotSatisfied", "details")
            for field in _complained_of(complaint.get(key), inside)
        ]
        yield from nested or ([within + name] if name else [])
