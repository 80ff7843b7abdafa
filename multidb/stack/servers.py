"""What the embedded stack asks of each kind of server."""

import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from multidb.stack.protocol import ServerName

__all__ = ["Pause", "Server", "answers_tcp"]

#: Sleeps a moment between two attempts; raises when there is nothing more to wait for.
Pause: TypeAlias = Callable[[], None]


class Server(Protocol):
    """One kind of server, and its own folder, which exists before `prepare`. It starts no process itself."""

    @property
    def name(self) -> ServerName:
        """Which it is."""
        ...

    @property
    def stop_signals(self) -> Sequence[tuple[signal.Signals, float]]:
        """What asks it to stop, and how many seconds each has before the next, firmer one."""
        ...

    def is_new(self) -> bool:
        """Tell whether it has no data yet."""
        ...

    def prepare(self, url: str) -> None:
        """Make what it needs before it can start: nothing, if that was done before.

        Raises: UnavailableError, ConfigurationError.
        """
        ...

    def command(self, url: str) -> list[str | Path]:
        """Return the command line: no secret in it, for any user of the machine can see it."""
        ...

    def wait(self, url: str, pause: Pause) -> None:
        """Return once it takes writes from the holder of the URL.

        Raises: ConfigurationError if the URL's password is not the data's.
        """
        ...

    def should_retry(self, output: str) -> bool:
        """Tell, of a server that ended at once with this output, whether to try it again."""
        ...

    def telling(self, lines: Sequence[str]) -> Sequence[str]:
        """Return those of its log lines that say what went wrong, or all."""
        ...


def answers_tcp(port: int) -> bool:
    """Tell whether something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
