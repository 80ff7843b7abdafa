"""Where a stack's servers listen and the secrets to use them: the content of its env file."""

import random
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from multidb.settings import Settings
from multidb.stack.protocol import SERVERS, ServerName

__all__ = [
    "URL_OF",
    "free_port",
    "new_env",
    "password_of",
    "port_is_free",
    "port_of",
    "settings_from",
    "with_port",
]

#: The variable that carries each server's URL.
URL_OF: dict[ServerName, str] = {
    "postgres": "MULTIDB_POSTGRES_URL",
    "mongodb": "MULTIDB_MONGO_URL",
    "redis": "MULTIDB_REDIS_URL",
}

_URLS: dict[ServerName, str] = {
    "postgres": "postgresql://multidb:{password}@127.0.0.1:{port}/multidb",
    "mongodb": "mongodb://multidb:{password}@127.0.0.1:{port}/multidb?authSource=admin&replicaSet=rs0",
    "redis": "redis://:{password}@127.0.0.1:{port}/0",
}


def new_env(ports: Mapping[ServerName, int]) -> dict[str, str]:
    """Return the variables of a new stack, with new secrets."""
    env = {
        URL_OF[name]: _URLS[name].format(password=secrets.token_urlsafe(24), port=ports[name])
        for name in SERVERS
    }
    return {**env, "MULTIDB_SECRET_KEY": secrets.token_urlsafe(32)}


def with_port(env: Mapping[str, str], name: ServerName, port: int) -> dict[str, str]:
    """Return the variables with one server at another port."""
    url = _URLS[name].format(password=password_of(env[URL_OF[name]]), port=port)
    return {**env, URL_OF[name]: url}


def port_of(url: str) -> int:
    """Return the port a stack's URL names."""
    port = urlsplit(url).port
    assert port is not None, "a stack's URLs name their port"
    return port


def password_of(url: str) -> str:
    """Return the password in a stack's URL."""
    return urlsplit(url).password or ""


def settings_from(env: Mapping[str, str]) -> Settings:
    """Return the settings these variables give; they stand above the environment's."""
    values: dict[str, Any] = {"_env_file": None}
    for key, value in env.items():
        if key.startswith("MULTIDB_"):
            values[key.removeprefix("MULTIDB_").lower()] = value
    return Settings(**values)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at this moment.

    It lies below the range the kernel takes for outgoing connections: a client that
    retries a dead server's port of that range may get it as its own, and even connect
    to itself, and the server could not come back to it.
    """
    try:
        first_ephemeral = int(
            Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0]
        )
    except (OSError, ValueError):
        first_ephemeral = 32768
    for _ in range(100 if first_ephemeral > 11000 else 0):
        port = random.randrange(10000, first_ephemeral)  # noqa: S311 - a port is no secret
        if port_is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As the servers do, so that connections still in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
