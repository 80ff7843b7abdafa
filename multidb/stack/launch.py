"""Starting one embedded server and waiting until it answers."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from multidb.errors import ConfigurationError, UnavailableError
from multidb.stack.addresses import free_port, password_of, port_is_free, port_of
from multidb.stack.process import Process, spawn
from multidb.stack.protocol import STORE_OF, Progress
from multidb.stack.servers import Server

__all__ = ["Launcher", "launch_together", "tail"]

#: How long a server may take until it answers: recovery after a crash included.
_PATIENCE = 120.0
_INTERVAL = 0.02
_KEPT_LOG_BYTES = 10_000_000


class Abandoned(Exception):  # noqa: N818 - nothing went wrong here
    """The launch was given up because another server's failed, or the user interrupted it."""


class _ProcessEndedError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts one server. What it starts and where is told at once, through `started` and `moved`."""

    server: Server
    log: Path
    #: Called with each process, as soon as it exists.
    started: Callable[[Process], None]
    #: Called with the new port when the wanted one was taken; returns the URL with it.
    moved: Callable[[int], str]
    abandoned: Event
    say: Progress

    def launch(self, url: str) -> None:
        """Start the server at this URL, or at another port if that is taken, and wait until it answers.

        Raises: UnavailableError with its last log lines, ConfigurationError, Abandoned.
        """
        name = self.server.name
        began = time.monotonic()
        self.say(f"{name}: creating its data" if self.server.is_new() else f"{name}: starting")
        self._rotate_log()
        while True:
            if not port_is_free(port_of(url)):
                url = self.moved(free_port())
            self.server.prepare(url)
            position = self.log.stat().st_size if self.log.exists() else 0
            process = spawn(self.server.command(url), self.log)
            self.started(process)
            try:
                self._wait(url, process, began + _PATIENCE)
            except _ProcessEndedError:
                output = self.log.read_bytes()[position:].decode(errors="replace")
                may_succeed = self.server.should_retry(output) or not port_is_free(port_of(url))
                if not may_succeed or time.monotonic() > began + _PATIENCE:
                    raise self._failure("ended at once", output, url) from None
                self._sleep()
            except TimeoutError:
                output = self.log.read_bytes()[position:].decode(errors="replace")
                raise self._failure(f"did not answer in {_PATIENCE:.0f} s", output, url) from None
            else:
                self.say(f"{name}: ready in {time.monotonic() - began:.1f} s")
                return

    def _wait(self, url: str, process: Process, deadline: float) -> None:
        def pause() -> None:
            self._sleep()
            if not process.alive():
                raise _ProcessEndedError
            if time.monotonic() > deadline:
                raise TimeoutError

        try:
            self.server.wait(url, pause)
        except ConfigurationError:
            # If ours has ended, the one that refused the password is somebody else's, on our port.
            if process.alive():
                raise
            raise _ProcessEndedError from None

    def _sleep(self) -> None:
        if self.abandoned.wait(_INTERVAL):
            raise Abandoned

    def _failure(self, what: str, output: str, url: str) -> UnavailableError:
        lines = "\n".join(tail(self.server, output.replace(password_of(url), "***")))
        return UnavailableError(
            f"{self.server.name} {what}. Its last log lines:\n{lines}", store=STORE_OF[self.server.name]
        )

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _KEPT_LOG_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))


def launch_together(launches: Sequence[tuple[Launcher, str]], abandoned: Event) -> None:
    """Launch each at its URL, side by side; all are over when this returns, or raises what one raised.

    When one fails, or the user interrupts, `abandoned` makes the others give up; those that were
    ready by then run on.
    """
    busy = [Lock() for _ in launches]

    def launch(lock: Lock, launcher: Launcher, url: str) -> None:
        with lock:
            if abandoned.is_set():
                raise Abandoned
            try:
                launcher.launch(url)
            except BaseException:
                abandoned.set()
                raise

    with ThreadPoolExecutor(len(launches), "multidb-start") as pool:
        try:
            futures = [pool.submit(launch, lock, *each) for lock, each in zip(busy, launches, strict=True)]
            errors = [error for future in futures if (error := future.exception())]
        except BaseException:  # an interrupt: it comes to this thread only
            abandoned.set()
            for lock in busy:  # the pool does not know a thread it was just about to start
                with lock:
                    pass
            raise
    for error in sorted(errors, key=lambda error: isinstance(error, Abandoned)):
        raise error


def tail(server: Server, output: str, *, lines: int = 10, width: int = 500) -> tuple[str, ...]:
    """Return the last lines of a log that tell most, each cut to `width`."""
    return tuple(line[:width] for line in server.telling(output.splitlines())[-lines:])
