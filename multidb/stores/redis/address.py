"""Where Redis is, and how to connect: `MULTIDB_REDIS_URL`, read."""

from typing import Any, Literal, NamedTuple, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo

from multidb.errors import ConfigurationError
from multidb.settings import Settings

__all__ = ["Host", "Target", "read_url"]

#: Options that the URL must not have, and why.
_REFUSED = {
    **dict.fromkeys(
        ("decode_responses", "encoding", "encoding_errors", "legacy_responses", "protocol"),
        "replies are read as they are",
    ),
    "max_connections": "MULTIDB_REDIS_POOL_SIZE says it",
    "socket_connect_timeout": "MULTIDB_CONNECT_TIMEOUT says it",
    "socket_timeout": "MULTIDB_REDIS_TIMEOUT says it",
    "timeout": "MULTIDB_REDIS_TIMEOUT says it",
}


#: Made once: redis-py looks its own version up in the files of the environment, for each connection.
_DRIVER = DriverInfo()


class Host(NamedTuple):
    """The name of a machine, and a port there."""

    name: str
    port: int


class Target(NamedTuple):
    """What to connect to, and how."""

    kind: Literal["server", "sentinel", "cluster"]
    #: The server, the Sentinels, or some nodes of the cluster.
    hosts: tuple[Host, ...]
    #: What the Sentinels call the servers.
    service: str
    #: How redis-py makes a connection, the host apart.
    options: dict[str, Any]
    #: How it makes one to a Sentinel.
    sentinel_options: dict[str, Any]


def read_url(settings: Settings) -> Target:
    """Return what `MULTIDB_REDIS_URL` says. Raises: ConfigurationError for an option it must not have."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    scheme, _, kind = parts.scheme.partition("+")
    userinfo, at, hosts = parts.netloc.rpartition("@")
    path = parts.path.strip("/")
    service, _, database = path.partition("/") if kind == "sentinel" else ("", "", path)
    # As one server's, which is what redis-py reads: the options are the same.
    single = urlunsplit((scheme, f"{userinfo}{at}any", database, parts.query, ""))
    try:
        options = dict(parse_url(single))
    except ValueError as error:
        raise ConfigurationError("MULTIDB_REDIS_URL has an option whose value does not fit it") from error
    for option in _REFUSED.keys() & options.keys():
        raise ConfigurationError(f"MULTIDB_REDIS_URL must not set `{option}`: {_REFUSED[option]}")
    del options["host"]
    sentinel_login = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    }
    common = {
        "socket_connect_timeout": settings.connect_timeout.total_seconds(),
        "client_name": "multidb",
        "driver_info": _DRIVER,
        # A command may have run although its answer was lost; only the caller knows whether
        # running it twice is harmless.
        "retry": Retry(NoBackoff(), 0),
    }
    read = tuple(_host(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(","))
    return Target(
        cast(Literal["server", "sentinel", "cluster"], kind or "server"),
        read,
        unquote(service),
        {**common, **options},
        {
            **common,
            **{name: value for name, value in options.items() if name.startswith("ssl")},
            **sentinel_login,
        },
    )


def _host(text: str, default: int) -> Host:
    parts = urlsplit(f"//{text}")
    return Host(unquote(parts.hostname or ""), parts.port or default)
