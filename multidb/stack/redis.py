"""The embedded Redis (or Valkey)."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from multidb.errors import ConfigurationError
from multidb.stack.addresses import password_of, port_of
from multidb.stack.binaries import find_server
from multidb.stack.protocol import ServerName
from multidb.stack.servers import Pause, answers_tcp

__all__ = ["RedisServer"]


class RedisServer:
    """A server with a password and an append-only file; a durable one syncs it before it acknowledges."""

    name: ServerName = "redis"
    stop_signals = ((signal.SIGTERM, 10.0),)

    def __init__(self, home: Path, *, durable: bool) -> None:
        self._home = home
        self._config = home / "redis.conf"
        self._durable = durable

    def is_new(self) -> bool:
        """Tell whether it has no data yet."""
        return not self._config.exists()

    def prepare(self, url: str) -> None:
        """Write its configuration, which has the password: a command line can be seen by all."""
        data = self._home / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        directives = {
            "bind": "127.0.0.1",
            "port": str(port_of(url)),
            "requirepass": password_of(url),
            "dir": _quoted(str(data)),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always" if self._durable else "no",
            "save": '""',
        }
        self._config.unlink(missing_ok=True)
        with os.fdopen(os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"{name} {value}\n" for name, value in directives.items())

    def command(self, url: str) -> list[str | Path]:
        """Return the command line of redis-server."""
        del url
        return [find_server("redis"), self._config]

    def wait(self, url: str, pause: Pause) -> None:
        """Return once it has loaded its data and answers a PING."""
        while not (answers_tcp(port_of(url)) and _answers(url)):
            pause()

    def should_retry(self, output: str) -> bool:
        """Tell that it is of no use."""
        del output
        return False

    def telling(self, lines: Sequence[str]) -> Sequence[str]:
        """Return all lines."""
        return lines


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except AuthenticationError as error:
        raise ConfigurationError("Redis does not take the password of the env file", store="redis") from error
    except RedisError:
        return False


def _quoted(text: str) -> str:
    """Return the text as one argument of a redis.conf line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
