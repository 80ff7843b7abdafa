"""Settings, from MULTIDB_* variables, their *_FILE variants and `.env`."""

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    DirectoryPath,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from multidb.errors import ConfigurationError, StoreName

__all__ = [
    "ENV_FILES",
    "STORES",
    "Age",
    "MongoDriver",
    "MongoSettings",
    "OutagePolicy",
    "PostgresSettings",
    "Settings",
    "redacted_url",
]

ENV_PREFIX = "MULTIDB_"

#: Read in this order, the later wins: what `multidb start` wrote here, then the user's own.
ENV_FILES = (".multidb/multidb.env", ".env")

MongoDriver: TypeAlias = Literal["motor", "pymongo"]
LogOverflow: TypeAlias = Literal["shed", "spill"]
#: Of rate limits while Redis is away: all calls are admitted, none is, or each process limits for itself.
OutagePolicy: TypeAlias = Literal["open", "closed", "local"]


def _url(schemes: tuple[str, ...], *, database: bool) -> Callable[[SecretStr], SecretStr]:
    """Return a validator of a connection URL. Its errors quote no part of the value."""

    def check(value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value().strip())
        except ValueError:
            raise ValueError("is not a URL; special characters must be percent-encoded") from None
        if parts.scheme not in schemes:
            allowed = ", ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"must begin with one of {allowed}")
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            # What was meant as user and password ended at a `/`, `?` or `#` in it.
            raise ValueError("has an `@` after the host; special characters must be percent-encoded")
        for host in parts.netloc.rpartition("@")[2].split(","):
            _check_host(host)
        path = parts.path.strip("/")
        if database and not path:
            raise ValueError("must end in a database, as in scheme://user:password@host:port/database")
        return SecretStr(value.get_secret_value().strip())

    return check


def _redis_url(value: SecretStr) -> SecretStr:
    """Check a URL of one server, of Sentinels or of a cluster. Its errors quote no part of the value."""
    checked = _url(_REDIS_SCHEMES, database=False)(value)
    parts = urlsplit(checked.get_secret_value())
    kind = parts.scheme.partition("+")[2]
    service, _, number = parts.path.strip("/").partition("/")
    if kind == "sentinel":
        if not service or (number and not number.isdecimal()):
            raise ValueError("must end in the service's name, as in redis+sentinel://host:26379/service/0")
    elif number or (service and not service.isdecimal()):
        raise ValueError("must end in the number of a database, as in redis://:password@host:port/0")
    elif kind == "cluster":
        if service.strip("0"):
            raise ValueError("must name no database: a cluster has only one")
    elif "," in parts.netloc.rpartition("@")[2]:
        raise ValueError("must name one host; several are for redis+sentinel:// and redis+cluster://")
    return checked


_REDIS_SCHEMES = (
    *("redis", "rediss"),
    *("redis+sentinel", "rediss+sentinel"),
    *("redis+cluster", "rediss+cluster"),
)


def _check_host(host: str) -> None:
    try:
        parts = urlsplit(f"//{host}")
        named, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must have a port from 1 to 65535 after each host, or none") from None
    if not named:
        raise ValueError("must name a host")


def _words(value: object) -> object:
    """Split `redis, mongo` into its words; anything but a string passes as it is."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _paths(value: object) -> object:
    """Split paths the way PATH does; anything but a string passes as it is."""
    return [path for path in value.split(os.pathsep) if path] if isinstance(value, str) else value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be more than zero seconds")
    return value


def _seconds(value: object) -> object:
    """Read a bare number, the way variables carry it, as seconds."""
    if isinstance(value, str):
        try:
            return timedelta(seconds=float(value))
        except (ValueError, OverflowError):
            raise ValueError("must be a number of seconds, such as 2.5") from None
    return value


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_FOREVER = "forever"


def _age(value: object) -> object:
    """Read `30d`, `12h`, `15m`, `45s` or `forever`; anything but a string passes as it is."""
    if not isinstance(value, str):
        return value
    if value == _FOREVER:
        return None
    if not (match := re.fullmatch(r"(\d{1,9})([smhd])", value, re.ASCII)):
        raise ValueError("must be a number and a unit, such as 30d, 12h, 15m or 45s, or `forever`")
    return int(match[1]) * timedelta(**{_UNITS[match[2]]: 1})


def _countable(value: timedelta | None) -> timedelta | None:
    # As MongoDB counts it: in whole seconds, of which it takes no more.
    if value is not None and (value % timedelta(seconds=1) or not 1 <= value.total_seconds() < 2**31 - 1):
        raise ValueError("must be whole seconds, at least one and less than 68 years")
    return value


def _by_name(value: object) -> object:
    """Split `system_logs=30d, realtime_events=1d` into names and values; anything but a string passes."""
    if not isinstance(value, str):
        return value
    pairs = [word.partition("=") for word in value.replace(",", " ").split()]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError("must be pairs such as system_logs=30d, separated by commas")
    if len({name for name, *_ in pairs}) < len(pairs):
        raise ValueError("must name each collection once")
    return {name: age for name, _, age in pairs}


#: How long something is kept; None for ever.
Age = Annotated[timedelta | None, BeforeValidator(_age), AfterValidator(_countable)]
Seconds = Annotated[timedelta, BeforeValidator(_seconds), AfterValidator(_positive)]
PoolSize = Annotated[int, Field(ge=1, le=10_000)]
PostgresUrl = Annotated[
    SecretStr, AfterValidator(_url(("postgresql", "postgres", "postgresql+asyncpg"), database=True))
]


class _Variables(BaseSettings):
    """How a setting is found: by argument, variable, named file, then `.env`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ENV_FILES,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    def __init__(self, **values: Any) -> None:
        if unknown := sorted(set(values) - set(type(self).model_fields) - {"_env_file"}):
            raise ConfigurationError(f"`{unknown[0]}` is not a setting")
        # pydantic's own error would carry the wrong value, which may be a password.
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None
        except SettingsError as error:
            cause = error.__cause__
            raise (
                cause if isinstance(cause, ConfigurationError) else ConfigurationError(str(error))
            ) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        env_file = dotenv_settings.env_file if isinstance(dotenv_settings, DotEnvSettingsSource) else None
        return (
            init_settings,
            env_settings,
            _FileNamedByVariable(settings_cls),
            dotenv_settings,
            _FileNamedByDotEnv(settings_cls, env_file=env_file),
        )


class PostgresSettings(_Variables):
    """What PostgreSQL alone needs; migrations read no more."""

    def __init__(self, **values: Any) -> None:
        # Said in each class, or type checkers take its fields for required arguments.
        super().__init__(**values)

    #: `postgresql://user:password@host:5432/database`
    postgres_url: PostgresUrl
    #: Whether a connection prepares each statement once and keeps it. False behind a pooler that gives
    #: the statements of one session to several connections and does not keep track of them.
    postgres_prepared_statements: bool = True
    #: The most connections the client opens.
    postgres_pool_size: PoolSize = 10
    #: How long a caller may wait for a free connection, and then for the answer of each statement.
    postgres_timeout: Seconds = timedelta(seconds=30)
    #: How long any server may take to accept a connection.
    connect_timeout: Seconds = timedelta(seconds=5)
    #: Where migrations connect, and what else changes the schema, if not at `postgres_url`: behind a
    #: pooler, the server itself.
    migration_url: PostgresUrl | None = None
    #: Folders with Alembic revisions of the application's own, which are run beside multidb's.
    migration_paths: Annotated[tuple[DirectoryPath, ...], NoDecode, BeforeValidator(_paths)] = ()
    #: How long a migration waits for another one to end, and each of its steps for others' locks.
    migration_timeout: Seconds = timedelta(seconds=60)
    #: How long a migration waits for one lock before it lets those through who queue behind it.
    migration_lock_timeout: Seconds = timedelta(seconds=3)


class MongoSettings(_Variables):
    """What MongoDB alone needs."""

    #: `mongodb://user:password@host:27017/database?authSource=admin`
    mongo_url: Annotated[SecretStr, AfterValidator(_url(("mongodb", "mongodb+srv"), database=True))]
    mongo_driver: MongoDriver = "motor"
    mongo_pool_size: PoolSize = 50
    mongo_timeout: Seconds = timedelta(seconds=30)
    connect_timeout: Seconds = timedelta(seconds=5)
    #: Folders with schema files of the application's own collections, applied beside multidb's.
    schema_paths: Annotated[tuple[DirectoryPath, ...], NoDecode, BeforeValidator(_paths)] = ()
    #: How long one `schemas apply` waits for another one to end.
    schema_timeout: Seconds = timedelta(seconds=60)
    #: How long documents are kept, by collection, where it is not as the schema's file says:
    #: `system_logs=30d, realtime_events=12h, usage_analytics=forever`. Made so by `schemas apply`.
    retention: Annotated[Mapping[str, Age], NoDecode, BeforeValidator(_by_name)] = {}


class Settings(PostgresSettings, MongoSettings):
    """Where the stores are and how they are used.

    Each field is read from the argument of its name, else from the variable
    `MULTIDB_<NAME>`, else from the file that `MULTIDB_<NAME>_FILE` names, else
    from `.env`. Durations are seconds where a variable gives them.

    Raises: ConfigurationError that names each wrong variable and what would be right.
    """

    def __init__(self, **values: Any) -> None:
        # As in PostgresSettings.
        super().__init__(**values)

    #: `redis://:password@host:6379/0`, `redis+sentinel://:password@host:26379,host:26379/service/0` or
    #: `redis+cluster://:password@host:6379,host:6379`; `rediss` for TLS.
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)]
    #: The most connections to a server: four for calls, which share them, the others for calls that block.
    redis_pool_size: PoolSize = 50
    #: How long a call may take, the way to a free connection included.
    redis_timeout: Seconds = timedelta(seconds=5)
    #: How many round trips in a row must fail before calls fail at once, without one.
    redis_breaker_limit: Annotated[int, Field(ge=1, le=1000)] = 3
    #: How long they do until one may try again.
    redis_breaker_pause: Seconds = timedelta(seconds=1)
    #: Whether calls on rows of companies are refused outside `db.tenant(...)` and `db.unscoped()`.
    tenant_required: bool = False
    #: Stands in front of every Redis key, as in `shop:session:user:{…}`.
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]*$", max_length=100)] = ""

    #: Keys session tokens and page cursors. Every process of one application needs the same.
    #: Without it they are keyed by the PostgreSQL password, and changing that ends all sessions.
    secret_key: Annotated[SecretStr, Field(min_length=32)] | None = None

    #: Stores the application can do without: `open` and `health` succeed while these are away.
    degradable_stores: Annotated[frozenset[StoreName], NoDecode, BeforeValidator(_words)] = frozenset()
    #: How long opening all stores may take, together.
    open_timeout: Seconds = timedelta(seconds=10)
    #: How long closing a store waits for the calls still under way.
    close_timeout: Seconds = timedelta(seconds=10)
    #: How long one health report may take.
    health_timeout: Seconds = timedelta(seconds=2)

    #: How many emitted entries of one collection may wait for MongoDB, and about how many bytes of memory.
    log_buffer_entries: Annotated[int, Field(ge=100, le=10_000_000)] = 20_000
    log_buffer_bytes: Annotated[int, Field(ge=1_000_000)] = 32_000_000
    #: How long an emitted entry waits for others to share its round trip.
    log_flush_interval: Seconds = timedelta(seconds=0.2)
    #: How long closing waits until what was emitted or recorded is stored.
    log_drain_timeout: Seconds = timedelta(seconds=5)
    #: Where entries may be written for which there is no room in memory.
    log_spill_directory: Path | None = None
    #: What happens to those: the least grave are shed, or written to files of that directory.
    log_overflow: LogOverflow = "shed"
    #: How many bytes of one collection these files may hold.
    log_spill_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000
    #: Whether each write to them waits for the disk: it survives a crash of the machine then.
    log_spill_sync: bool = False
    #: Keys whose values are taken out of log entries, besides those that every `Redactor` knows.
    redacted_keys: Annotated[frozenset[str], NoDecode, BeforeValidator(_words)] = frozenset()

    #: How long what is recorded to `usage_analytics` waits in memory, and for how many keys there is room.
    usage_flush_interval: Seconds = timedelta(seconds=2)
    usage_tallies: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000

    #: Whether this process delivers what transactions have promised to MongoDB and Redis, as `multidb relay`
    #: does. Any number of processes may.
    relay: bool = False
    #: How often such an effect may fail before it is given up, until `multidb outbox retry` or `skip`.
    relay_attempts: Annotated[int, Field(ge=1, le=1000)] = 10

    #: How long one loader may take before another may fill the same cache entry.
    cache_lease: Seconds = timedelta(seconds=10)
    #: How long a call waits for a loader of another process before it loads for itself.
    cache_wait: Seconds = timedelta(seconds=5)
    #: From how many bytes on a value is compressed.
    cache_compress_above: Annotated[int, Field(ge=0)] = 4096
    #: Entities whose cached rows are kept in the process too, as if their policy had `local`: `users`.
    cache_local: Annotated[frozenset[str], NoDecode, BeforeValidator(_words)] = frozenset()
    #: About how many bytes of memory the copies may take that are kept in the process; 0 for none.
    cache_local_bytes: Annotated[int, Field(ge=0)] = 32 * 2**20
    #: How long after the commit of another process such a copy may be served, at most.
    cache_local_staleness: Annotated[Seconds, Field(ge=timedelta(seconds=0.05))] = timedelta(seconds=1)
    #: How long a session lives after it was created.
    session_lifetime: Seconds = timedelta(days=14)
    #: How long a session lives unused.
    session_idle_timeout: Seconds = timedelta(days=7)
    #: How often a session in use is noted as used: once in this time, or in half the idle timeout
    #: where that is less. A session left alone may end by so much earlier.
    session_touch_interval: Seconds = timedelta(seconds=60)
    #: How many sessions a user may have; one more ends the one that would end first.
    session_limit: Annotated[int, Field(ge=1, le=1000)] = 50
    #: How long a token may be used after it was rotated, by those who do not know of it yet.
    session_grace: Seconds = timedelta(seconds=10)
    #: What becomes of calls with a rate limit while Redis is away.
    rate_limit_outage: OutagePolicy = "open"
    #: How long a counter is kept after it was last added to.
    counter_lifetime: Seconds = timedelta(days=90)
    #: How long a user is taken to be there on a device after each beat.
    presence_timeout: Seconds = timedelta(seconds=60)
    #: How long an upload may take, after which it is given up.
    upload_lifetime: Seconds = timedelta(days=1)
    #: How many bytes one upload, and one chunk of it, may have; Redis holds them in memory.
    upload_size_limit: Annotated[int, Field(ge=1, le=2**40)] = 100 * 2**20
    upload_chunk_limit: Annotated[int, Field(ge=1, le=2**28)] = 8 * 2**20
    #: How many uploads a user may have under way, and of how many bytes together.
    upload_limit: Annotated[int, Field(ge=1, le=1000)] = 10
    upload_total_limit: Annotated[int, Field(ge=1, le=2**40)] = 500 * 2**20

    @field_validator("log_overflow")
    @classmethod
    def _has_a_directory(cls, value: LogOverflow, info: ValidationInfo) -> LogOverflow:
        if value == "spill" and info.data.get("log_spill_directory") is None:
            raise ValueError("`spill` needs MULTIDB_LOG_SPILL_DIRECTORY")
        return value

    def derive_key(self, purpose: str) -> bytes:
        """Return the 32-byte key for `purpose`: the same in every process with these settings."""
        if self.secret_key is not None:
            secret = self.secret_key.get_secret_value()
        else:
            url = self.postgres_url.get_secret_value()
            secret = urlsplit(url).password or url
        return hmac.digest(secret.encode(), f"multidb:{purpose}".encode(), hashlib.sha256)


class _NamedFile(EnvSettingsSource):
    """Reads the value of X from the file that X_FILE names, less the newline that ends it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{self.env_prefix}{field_name}_file"
        path = self.env_vars.get(variable if self.case_sensitive else variable.lower())
        if not path:
            return None, field_name, False
        try:
            text = Path(path).read_text(encoding="utf-8")
            return text.removesuffix("\n").removesuffix("\r"), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{variable.upper()} must name a readable text file ({type(error).__name__})"
            ) from None


class _FileNamedByVariable(_NamedFile):
    pass


class _FileNamedByDotEnv(_NamedFile, DotEnvSettingsSource):
    pass


def _explain(error: ValidationError) -> str:
    """Return one line a wrong field: its variable, and what would be right."""
    lines: list[str] = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        variable = ENV_PREFIX + str(detail["loc"][0]).upper() if detail["loc"] else "MULTIDB_*"
        if detail["type"] == "missing":
            lines.append(f"{variable} is required")
        else:
            lines.append(f"{variable}: {detail['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(lines))


def redacted_url(url: SecretStr) -> str:
    """Return the URL with its password hidden, also where it stands among the parameters."""
    parts = urlsplit(url.get_secret_value())
    userinfo, at, host = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    query = re.sub(r"(?i)([^&=]*password)=[^&]*", r"\1=***", parts.query)
    return urlunsplit(parts._replace(netloc=f"{user}{':***' if colon else ''}{at}{host}", query=query))


#: The stores, in the order they are opened and shown.
STORES: tuple[StoreName, ...] = get_args(StoreName)
