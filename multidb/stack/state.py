"""What a stack keeps in its directory.

::

    multidb.env    addresses and secrets, mode 0600: what an application reads
    state.json     which back end; each server's process; whether it is to stay
    lock           held while the stack is started, stopped or cleaned
    users.lock     held, shared, by each process that uses the stack for a while
    logs/          one file a server
    postgres/ mongodb/ redis/
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from multidb.errors import ConfigurationError
from multidb.stack.process import Process
from multidb.stack.protocol import SERVERS, Backend, ServerName

__all__ = ["ENV_FILE", "Launch", "StackDirectory", "State", "UsersLock"]

ENV_FILE = "multidb.env"

_HEADER = "# Written by `multidb start`. Secrets: keep this file to yourself.\n"


@dataclass(frozen=True, slots=True)
class Launch:
    """One server that was started and has not been stopped."""

    process: Process
    #: When, in seconds since the epoch.
    at: float


@dataclass(frozen=True, slots=True)
class State:
    """Which back end the directory belongs to, and what it runs."""

    backend: Backend | None = None
    #: Started to stay, until `stop`; else it ends with its last user.
    kept: bool = False
    servers: Mapping[ServerName, Launch] = field(default_factory=dict)

    def with_server(self, name: ServerName, launch: Launch | None) -> "State":
        """Return this state with one server started, or stopped if `launch` is None."""
        servers = {other: known for other, known in self.servers.items() if other != name}
        return replace(self, servers=servers if launch is None else {**servers, name: launch})


class StackDirectory:
    """The files of one stack. Nothing is created until `create`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        self.env_path = self.path / ENV_FILE
        self._state_path = self.path / "state.json"

    def create(self) -> None:
        """Make the directory, for its owner alone. One that exists keeps its mode: more may be in it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
        ignore = self.path / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")

    def require(self, backend: Backend) -> None:
        """Raise ConfigurationError if another back end was started here: they would share addresses."""
        owner = self.read_state().backend
        if owner not in {None, backend}:
            raise ConfigurationError(
                f"{self.path} belongs to the {owner} back end: use another directory, or clean this one first"
            )

    def log_path(self, name: ServerName) -> Path:
        """Return the file a server writes its log to."""
        return self.path / "logs" / f"{name}.log"

    def read_env(self) -> dict[str, str]:
        """Return the variables of the env file; {} if there is none."""
        try:
            lines = self.env_path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
        return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}

    def write_env(self, env: Mapping[str, str]) -> None:
        """Replace the env file, atomically."""
        _write_private(self.env_path, _HEADER + "".join(f"{key}={value}\n" for key, value in env.items()))

    def read_state(self) -> State:
        """Return what is recorded; an empty state if nothing is."""
        try:
            stored: dict[str, Any] = json.loads(self._state_path.read_text(encoding="utf-8"))
            launches: dict[ServerName, Launch] = {}
            for name in SERVERS:
                if known := stored["servers"].get(name):
                    launches[name] = Launch(Process(**known["process"]), known["at"])
            return State(stored["backend"], stored["kept"], launches)
        except FileNotFoundError:
            return State()
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(
                f"{self._state_path} is damaged: stop its servers by hand and delete it"
            ) from None

    def write_state(self, state: State) -> None:
        """Replace what is recorded, atomically."""
        _write_private(self._state_path, json.dumps(asdict(state), indent=1))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process, and thread, from starting or stopping this stack."""
        descriptor = _open_lock(self.path / "lock", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def used(self) -> Iterator["UsersLock"]:
        """Be one of the stack's users. The kernel ends it with the process, however that ends."""
        descriptor = _open_lock(self.path / "users.lock", fcntl.LOCK_SH)
        try:
            yield UsersLock(descriptor)
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Delete what a stack has written here, and the directory if that empties it."""
        for name in (*SERVERS, "logs"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (ENV_FILE, "state.json", ".gitignore", "users.lock", "lock"):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()


class UsersLock:
    """A share in the stack, held while `StackDirectory.used`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def is_last(self) -> bool:
        """Give the share up. True if nobody else has one, and then nobody gets one until this ends."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _open_lock(path: Path, kind: int) -> int:
    """Return a descriptor that holds the lock on the file that has this path now.

    `remove` may have deleted the file while we waited: then the lock is on nothing.
    """
    while True:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
