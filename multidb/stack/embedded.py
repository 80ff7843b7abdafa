"""The embedded back end: servers as processes of this machine, from wheels or PATH."""

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Lock

from multidb.errors import ConfigurationError
from multidb.settings import Settings
from multidb.stack.addresses import URL_OF, free_port, new_env, port_of, settings_from, with_port
from multidb.stack.launch import Launcher, launch_together, tail
from multidb.stack.process import Process
from multidb.stack.protocol import SERVERS, Backend, Progress, ServerName, ServerStatus
from multidb.stack.servers import Server
from multidb.stack.state import Launch, StackDirectory, State

__all__ = ["EmbeddedStack", "running"]

_TAIL_BYTES = 64_000


class EmbeddedStack:
    """Real servers for one directory, on free ports of 127.0.0.1, with generated passwords.

    Any number of objects and processes may stand for the same directory: starting and
    stopping is done by one at a time. Data, addresses and passwords stay the same from
    one start to the next. `durable=False` lets PostgreSQL and Redis acknowledge before
    data is on the disk: a crash of a server loses nothing then, one of the machine may.
    """

    backend: Backend = "embedded"

    def __init__(self, directory: Path | str, *, durable: bool = True) -> None:
        self.directory = StackDirectory(directory)
        self._servers = _embedded_servers(self.directory.path, durable=durable)
        # Held for each change of the files by one of the threads of a start.
        self._writing = Lock()

    @property
    def env_path(self) -> Path:
        """The file with the addresses and secrets; there once the stack was started."""
        return self.directory.env_path

    @property
    def env(self) -> Mapping[str, str]:
        """The MULTIDB_* variables of the env file.

        Raises: ConfigurationError if the stack was never started.
        """
        env = self.directory.read_env()
        if not env:
            raise ConfigurationError(f"no stack was started in {self.directory.path}: `multidb start`")
        return env

    def settings(self) -> Settings:
        """Return the settings for this stack, whatever the environment says about addresses."""
        return settings_from(self.env)

    def log_path(self, name: ServerName) -> Path:
        """Return the file a server writes its log to."""
        return self.directory.log_path(name)

    def start(self, progress: Progress | None = None, *, kept: bool = True) -> bool:
        """Start the servers that do not run and wait until they answer. False if all ran already.

        `kept` says that they are to stay until `stop`; otherwise the last `running` ends
        them. If one cannot be started, those just started are stopped again.

        Raises: ConfigurationError if a program is missing; UnavailableError, with the log's
        end, if a server would not start.
        """
        return self._start(SERVERS, progress, kept=kept)

    def start_server(self, name: ServerName, progress: Progress | None = None) -> bool:
        """Start one server, as `start` does all. Whether the stack is to stay remains as it was."""
        return self._start((name,), progress, kept=False)

    def stop(self) -> bool:
        """Stop the servers this directory's stack started, all at once. False if none ran."""
        if not self.directory.path.exists():
            return False
        with self.directory.locked():
            return self._stop()

    def stop_unless_kept(self) -> None:
        """Stop the servers, unless a `start` has said that they stay."""
        with self.directory.locked():
            if not self.directory.read_state().kept:
                self._stop()

    def restart(self, progress: Progress | None = None) -> None:
        """Stop the servers and start them again, at the same addresses."""
        self.stop()
        self.start(progress)

    def kill(self, name: ServerName) -> None:
        """End one server by SIGKILL, as a crash would, and wait until it is gone."""
        with self.directory.locked():
            launch = self.directory.read_state().servers.get(name)
            if launch is not None:
                launch.process.send(signal.SIGKILL)
                launch.process.wait(10)

    def status(self) -> list[ServerStatus]:
        """Return one status a server, in the order of `SERVERS`."""
        state, env = self.directory.read_state(), self.directory.read_env()
        return [self._status_of(name, state.servers.get(name), env) for name in SERVERS]

    def logs(self, name: ServerName, *, lines: int = 100, follow: bool = False) -> Iterator[str]:
        """Yield the last lines of a server's log, then, to follow, each new one without end."""
        path = self.log_path(name)
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from (line.rstrip("\n") for line in deque(file, maxlen=lines))
            pending = ""
            while follow:
                pending += file.readline()
                if pending.endswith("\n"):
                    yield pending.rstrip("\n")
                    pending = ""
                else:
                    time.sleep(0.2)  # a file tells nobody that it grew

    def clean(self) -> None:
        """Stop the servers and delete all that the stack keeps. What else the directory holds stays."""
        if self.directory.path.exists():
            with self.directory.locked():
                self._stop()
                self.directory.remove()

    def _start(self, names: Sequence[ServerName], progress: Progress | None, *, kept: bool) -> bool:
        if sys.platform != "linux":
            raise ConfigurationError("embedded servers run on Linux only; use the compose back end")
        with self.directory.locked():
            self.directory.create()
            self.directory.require(self.backend)
            state = self.directory.read_state()
            self._record(lambda state: replace(state, backend=self.backend, kept=state.kept or kept))
            if not self.directory.read_env():
                self.directory.write_env(new_env({name: free_port() for name in SERVERS}))
            dead: list[ServerName] = [name for name in names if not _alive(state.servers.get(name))]
            if dead:
                try:
                    self._launch(dead, progress or (lambda _: None))
                except BaseException:
                    self._terminate(dead)
                    self._record(lambda now: replace(now, kept=state.kept))
                    raise
            return bool(dead)

    def _launch(self, names: Sequence[ServerName], say: Progress) -> None:
        abandoned, env = Event(), self.directory.read_env()
        launch_together(
            [(self._launcher(name, abandoned, say), env[URL_OF[name]]) for name in names], abandoned
        )

    def _launcher(self, name: ServerName, abandoned: Event, say: Progress) -> Launcher:
        (self.directory.path / name).mkdir(mode=0o700, exist_ok=True)

        def started(process: Process) -> None:
            self._record(lambda state: state.with_server(name, Launch(process, time.time())))

        def moved(port: int) -> str:
            with self._writing:
                env = with_port(self.directory.read_env(), name, port)
                self.directory.write_env(env)
                return env[URL_OF[name]]

        return Launcher(self._servers[name], self.log_path(name), started, moved, abandoned, say)

    def _record(self, change: Callable[[State], State]) -> None:
        with self._writing:
            state = self.directory.read_state()
            if (changed := change(state)) != state:
                self.directory.write_state(changed)

    def _stop(self) -> bool:
        launches = self.directory.read_state().servers
        ran = any(_alive(launch) for launch in launches.values())
        self._terminate(list(launches))
        self._record(lambda state: replace(state, kept=False))
        return ran

    def _terminate(self, names: Sequence[ServerName]) -> None:
        """Stop these servers, side by side, and record each as stopped."""
        launches = self.directory.read_state().servers

        def terminate(name: ServerName) -> None:
            if name in launches:
                _end(launches[name].process, self._servers[name])
                self._record(lambda state: state.with_server(name, None))

        with ThreadPoolExecutor(len(SERVERS), "multidb-stop") as pool:
            list(pool.map(terminate, names))

    def _status_of(self, name: ServerName, launch: Launch | None, env: Mapping[str, str]) -> ServerStatus:
        port = port_of(env[URL_OF[name]]) if env else None
        if launch is None:
            return ServerStatus(name, "stopped", port=port)
        if launch.process.alive():
            uptime = timedelta(seconds=max(0.0, time.time() - launch.at))
            return ServerStatus(name, "running", launch.process.pid, port, uptime)
        return ServerStatus(name, "crashed", port=port, log_tail=self._log_tail(name))

    def _log_tail(self, name: ServerName) -> tuple[str, ...]:
        try:
            with self.log_path(name).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                return tail(self._servers[name], file.read().decode(errors="replace"))
        except FileNotFoundError:
            return ()


def _embedded_servers(home: Path, *, durable: bool) -> dict[ServerName, Server]:
    # Their drivers take long to import, and the command's other verbs do without.
    from multidb.stack.mongo import MongoServer
    from multidb.stack.postgres import PostgresServer
    from multidb.stack.redis import RedisServer

    return {
        "postgres": PostgresServer(home / "postgres", durable=durable),
        "mongodb": MongoServer(home / "mongodb"),
        "redis": RedisServer(home / "redis", durable=durable),
    }


def _alive(launch: Launch | None) -> bool:
    return launch is not None and launch.process.alive()


def _end(process: Process, server: Server) -> None:
    for number, seconds in (*server.stop_signals, (signal.SIGKILL, 10.0)):
        process.send(number)
        if process.wait(seconds):
            return


@contextmanager
def running(
    directory: Path | str, *, durable: bool = True, progress: Progress | None = None
) -> Iterator[EmbeddedStack]:
    """Use the directory's stack, starting it if it does not run, for as long as the body takes.

    The last user to leave stops it, be they of several processes, unless it was started
    to stay by `multidb start`. A user that is killed counts as gone; if it was the last,
    the servers run on until the next one leaves.

    Raises: as `EmbeddedStack.start`.
    """
    stack = EmbeddedStack(directory, durable=durable)
    with stack.directory.used() as users:
        stack.start(progress, kept=False)
        try:
            yield stack
        finally:
            if users.is_last():
                stack.stop_unless_kept()
