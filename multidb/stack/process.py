"""Server processes that outlive the one that started them."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

__all__ = ["Process", "server_environment", "spawn"]


def server_environment() -> dict[str, str]:
    """Return all that a server gets of our environment: no secret, no PG* variable; messages in English."""
    inherited = {
        name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ
    }
    return {**inherited, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told from a later one that got the same pid by when it was born."""

    pid: int
    #: Clock ticks from the machine's start to the process's.
    birth: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the process that has this pid now, or None."""
        found = _look(pid)
        return cls(pid, found.birth) if found else None

    def alive(self) -> bool:
        """Tell whether it runs; one that has ended but has not been waited for does not."""
        now = _look(self.pid)
        if now is None or now.birth != self.birth:
            return False
        # The first thread may be done while others, still ending, keep ports and files open.
        if now.state not in {"Z", "X"} or now.threads > 1:
            return True
        with suppress(ChildProcessError):  # of another parent: its to reap
            os.waitpid(self.pid, os.WNOHANG)
        return False

    def program(self) -> str:
        """Return the name of the program, without its path; empty if it is gone."""
        try:
            return Path(f"/proc/{self.pid}/comm").read_text(encoding="utf-8").removesuffix("\n")
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most so long. False if it still runs."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)  # only its parent could be told of its end
        return True


class _Look(NamedTuple):
    state: str
    threads: int
    birth: int


def _look(pid: int) -> _Look | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold spaces and parentheses of its own: see proc(5).
    fields = stat.rpartition(b")")[2].split()
    return _Look(fields[0].decode(), int(fields[17]), int(fields[19]))


def spawn(command: Sequence[str | Path], log: Path) -> Process:
    """Start a program in a session of its own, its output appended to `log`.

    Not by subprocess: a Popen object wants to be waited for, and warns if it is not.
    """
    arguments = [str(part) for part in command]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawnp(
        arguments[0],
        arguments,
        server_environment(),
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGHUP),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    process = Process.of(pid)
    assert process is not None, "a child stays visible until it is waited for"
    return process
