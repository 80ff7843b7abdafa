"""Python's own logging, and structlog's, into `system_logs`.

    logging.getLogger().addHandler(LogHandler(db.system_logs, service="api"))
    structlog.configure(processors=[..., LogProcessor(db.system_logs, service="api"), JSONRenderer()])

    with log_context(request_id=request.id, user_id=user.id):
        log.info("renamed", extra={"fields": 3})

Both take what is logged from any thread, before the database is open and after; neither waits
nor raises (`SystemLogRepository.emit`).
"""

import logging
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import islice
from types import MappingProxyType
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from multidb.models.system_logs import LogLevel, SystemLog
from multidb.repositories.redaction import REDACTED
from multidb.repositories.snapshots import masked_fields
from multidb.repositories.system_logs import SystemLogRepository

__all__ = ["LogHandler", "LogProcessor", "log_context"]

#: Loggers that tell how entries are stored: to store what they say would never end.
_OURS = ("multidb.emitting", "pymongo", "motor")

_LONGEST = 100_000
_LONGEST_NAME = 200
_DEEPEST = 10
_MOST_VALUES = 10_000

#: What every record has, `extra` or not.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_LEVELS = (
    (logging.CRITICAL, LogLevel.CRITICAL),
    (logging.ERROR, LogLevel.ERROR),
    (logging.WARNING, LogLevel.WARNING),
    (logging.INFO, LogLevel.INFO),
)
_METHODS: dict[str, LogLevel] = {
    **{level.value: level for level in LogLevel},
    "warn": LogLevel.WARNING,
    "exception": LogLevel.ERROR,
    "fatal": LogLevel.CRITICAL,
}

_bound: ContextVar[Mapping[str, Any]] = ContextVar("multidb_log_context", default=MappingProxyType({}))


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add `fields` to every entry logged inside: `request_id` and `user_id` as such, others to its context.

    It reaches the tasks started inside; blocks may be nested.
    """
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        # A generator may be closed in another context than it ran in.
        with suppress(ValueError):
            _bound.reset(token)


class _Source:
    """Makes entries, and emits them."""

    def __init__(self, logs: SystemLogRepository, service: str) -> None:
        self._logs = logs
        self._service = service
        #: Whether this thread is making an entry: what that logs is no entry of its own.
        self._busy = threading.local()

    def emit(self, name: str, level: LogLevel, message: str, fields: Mapping[str, Any], at: datetime) -> None:
        if getattr(self._busy, "now", False) or any(
            name == each or name.startswith(f"{each}.") for each in _OURS
        ):
            return
        self._busy.now = True
        try:
            self._logs.emit(self._entry(name, level, message, fields, at))
        finally:
            self._busy.now = False

    def _entry(
        self, name: str, level: LogLevel, message: str, fields: Mapping[str, Any], at: datetime
    ) -> SystemLog:
        context = _Plain().of({**_bound.get(), **fields})
        user_id, request_id = _uuid(context.get("user_id")), context.get("request_id")
        if user_id is not None:
            del context["user_id"]
        if request_id is not None:
            request_id = str(context.pop("request_id"))[:_LONGEST_NAME]
        return SystemLog(
            timestamp=at,
            level=level,
            service=self._service,
            message=_text(message)[:_LONGEST],
            context={"logger": name, **context},
            user_id=user_id,
            request_id=request_id,
        )


class LogHandler(logging.Handler):
    """A handler of the standard library's `logging`; `extra` and the traceback go into `context`."""

    def __init__(self, logs: SystemLogRepository, *, service: str, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._source = _Source(logs, service)

    def createLock(self) -> None:  # noqa: N802 - the standard library's name
        """Have none: `emit` may be called from many threads at once."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record that the filters let pass. Python's own wants a lock from 3.13 on."""
        passed: object = self.filter(record)
        if passed:
            # From Python 3.12 on a filter may give another record in its place.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Emit a record as an entry."""
        try:
            fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
            fields |= {"function": record.funcName, "file": record.pathname, "line": record.lineno}
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = _formatted(record.exc_info[1])
            elif record.exc_text:
                fields["exception"] = record.exc_text
            if record.stack_info:
                fields["stack"] = record.stack_info
            at = datetime.fromtimestamp(record.created, UTC)
            self._source.emit(record.name, _level(record.levelno), record.getMessage(), fields, at)
        except Exception:  # the standard library's own way with what goes wrong in a handler
            self.handleError(record)


class LogProcessor:
    """A processor of structlog, to stand before the one that renders: it passes on what it was given."""

    def __init__(self, logs: SystemLogRepository, *, service: str) -> None:
        self._source = _Source(logs, service)

    def __call__(
        self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Emit an event as an entry, and return it."""
        try:
            fields = {key: value for key, value in event_dict.items() if not key.startswith("_")}
            level = _METHODS.get(str(fields.pop("level", method_name)).lower())
            message = str(_Plain().of(fields.pop("event", "")))
            name = str(fields.pop("logger", None) or "structlog")
            fields.pop("timestamp", None)
            if (error := _raised(fields.pop("exc_info", None))) is not None:
                fields["exception"] = _formatted(error)
            self._source.emit(name, level or LogLevel.INFO, message, fields, datetime.now(UTC))
        except Exception:  # a log must not make fail what it tells about
            logging.getLogger(_OURS[0]).exception("an event could not be emitted")
        return event_dict


def _level(number: int) -> LogLevel:
    """Return the level at or below one of the standard library's numbers."""
    return next((level for least, level in _LEVELS if number >= least), LogLevel.DEBUG)


def _formatted(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _raised(exc_info: Any) -> BaseException | None:
    """Return the error in what structlog takes as `exc_info`."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple) and len(exc_info) == 3:
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _uuid(value: Any) -> UUID | None:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _text(text: str) -> str:
    """Return a text that UTF-8 can write: names of files may hold what it cannot."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _shown(value: Any) -> str:
    try:
        return _text(str(value))
    except Exception as error:  # of whatever class it is
        return f"<{type(value).__name__}, not to be shown: {type(error).__name__}>"


def _is_moment(value: datetime) -> bool:
    """Return whether UTC has this moment, which is how MongoDB keeps it."""
    if value.tzinfo is not None:
        try:
            value.astimezone(UTC)
        except OverflowError:
            return False
    return True


def _key(key: Any) -> str:
    """Return a key that MongoDB takes for no operator and no path: `http.method` is `http_method`."""
    text = _shown(key).replace("\0", "").replace(".", "_")
    return f"_{text[1:]}" if text.startswith("$") else text


class _Plain:
    """Makes of whatever is logged what MongoDB can store: a text, at the worst. Of very much, the start."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES
        self._path: list[int] = []

    def of(self, value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one a kind
        match value:
            case None | bool() | float() | UUID():
                return value
            case datetime() if _is_moment(value):
                return value
            case int() if -(2**63) <= value < 2**63:
                return value
            case str():
                return _text(value)[:_LONGEST]
            case bytes():
                return value[:_LONGEST]
            case BaseModel():
                masked = dict.fromkeys(masked_fields(type(value)), REDACTED)
                return self._within({**vars(value), **masked}, value, depth)
            case Mapping() | list() | tuple() | set() | frozenset():
                return self._within(value, value, depth)
        return _shown(value)[:_LONGEST]

    def _within(self, values: Collection[Any], owner: object, depth: int) -> Any:
        if depth >= _DEEPEST or id(owner) in self._path:
            return f"<{type(owner).__name__}>"
        some = list(islice(values, max(0, self._left)))
        self._left -= len(some)
        self._path.append(id(owner))
        try:
            if isinstance(values, Mapping):
                return {_key(key): self.of(values[key], depth + 1) for key in some}
            return [self.of(each, depth + 1) for each in some]
        finally:
            self._path.pop()
