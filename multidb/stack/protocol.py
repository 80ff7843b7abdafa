"""What a stack is: three servers that start, tell how they are, and stop together."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args

from multidb.errors import StoreName
from multidb.settings import Settings

__all__ = ["SERVERS", "STORE_OF", "Backend", "Progress", "ServerName", "ServerStatus", "Stack"]

Backend: TypeAlias = Literal["embedded", "compose"]
ServerName: TypeAlias = Literal["postgres", "mongodb", "redis"]

#: Called with one short line a step; from more than one thread.
Progress: TypeAlias = Callable[[str], None]

#: The servers, in the order they are shown.
SERVERS: tuple[ServerName, ...] = get_args(ServerName)

#: The store each server carries, as settings and errors name it.
STORE_OF: dict[ServerName, StoreName] = {"postgres": "postgres", "mongodb": "mongo", "redis": "redis"}


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How one server is, at the moment it was asked for.

    `crashed` means that the stack started it, nobody stopped it, and it is gone;
    only then `log_tail` has the last lines it wrote.
    """

    name: ServerName
    state: Literal["running", "stopped", "crashed"]
    #: The process, where it is one of this machine.
    pid: int | None = None
    port: int | None = None
    uptime: timedelta | None = None
    log_tail: tuple[str, ...] = ()


class Stack(Protocol):
    """PostgreSQL, MongoDB and Redis, started for one directory. Every call blocks.

    Raises: ConfigurationError if a program is missing, UnavailableError if a server
    would not start.
    """

    @property
    def backend(self) -> Backend:
        """What runs the servers."""
        ...

    @property
    def env_path(self) -> Path:
        """The file with the addresses and secrets; there once the stack was started."""
        ...

    def start(self, progress: Progress | None = None) -> bool:
        """Start what does not run and wait until it answers. False if all ran already."""
        ...

    def stop(self) -> bool:
        """Stop what this stack started; its data stays. False if nothing ran."""
        ...

    def status(self) -> list[ServerStatus]:
        """Return one status a server, in the order of `SERVERS`; starts nothing."""
        ...

    def logs(self, name: ServerName, *, lines: int = 100, follow: bool = False) -> Iterator[str]:
        """Yield the last lines a server wrote, then, to follow, each new one without end."""
        ...

    def clean(self) -> None:
        """Stop the servers and delete their data and secrets. Not to be undone."""
        ...

    @property
    def env(self) -> Mapping[str, str]:
        """The MULTIDB_* variables an application needs to use this stack."""
        ...

    def settings(self) -> Settings:
        """Return the settings for this stack, whatever the environment says."""
        ...
