"""The embedded PostgreSQL."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import asyncpg

from multidb.errors import ConfigurationError, UnavailableError
from multidb.stack.addresses import password_of, port_of
from multidb.stack.binaries import find_server
from multidb.stack.privileges import Runner, runner
from multidb.stack.process import Process, server_environment
from multidb.stack.protocol import ServerName
from multidb.stack.servers import Pause, answers_tcp

__all__ = ["PostgresServer"]

#: The first release that brings its own C.UTF-8, independent of the machine's locales.
_BUILTIN_LOCALE_SINCE = 17

#: More than any process can have.
_NO_PID = 2**31 - 1


class PostgresServer:
    """A cluster with one superuser and one database, both called `multidb`; passwords by scram."""

    name: ServerName = "postgres"
    #: Fast shutdown, then immediate.
    stop_signals = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))

    def __init__(self, home: Path, *, durable: bool) -> None:
        self._home = home
        self._data = home / "data"
        self._durable = durable

    def is_new(self) -> bool:
        """Tell whether it has no data yet."""
        return not self._data.exists()

    def prepare(self, url: str) -> None:
        """Make the cluster, aside, and move it into place once it is whole."""
        run = self._runner()
        if not self.is_new():
            self._disown_dead_postmaster()
            return
        fresh = self._home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self._initdb(run, fresh, password_of(url))
        single = run.command("postgres", "--single", "-j", "-D", fresh, "template1")
        _run(single, "the database could not be created", stdin="CREATE DATABASE multidb;\n\n")
        fresh.rename(self._data)

    def _initdb(self, run: Runner, data: Path, password: str) -> None:
        version = _run(run.command("postgres", "--version"), "its version could not be read")
        builtin = int(version.split()[2].partition(".")[0]) >= _BUILTIN_LOCALE_SINCE
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        password_file = self._home / "password"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(password, encoding="ascii")
            run.own(password_file)
            arguments = (
                *("-D", data, "--username=multidb", f"--pwfile={password_file}"),
                *("--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "--encoding=UTF8"),
                *(locale if builtin else ("--locale=C.UTF-8",)),
                *(() if self._durable else ("--no-sync",)),
            )
            _run(run.command("initdb", *arguments), "initdb failed")
        finally:
            password_file.unlink()

    def _disown_dead_postmaster(self) -> None:
        """Let postmaster.pid, left by a crash, name no process if the one it names is no live postmaster.

        PostgreSQL sees to a stale file itself, but takes whatever has that pid for a postmaster: another
        program, or the dead one's remains, which stay in a container whose first process reaps no
        orphans. The rest of the file tells it whether the dead one's children still run.
        """
        path = self._data / "postmaster.pid"
        with suppress(FileNotFoundError, ValueError):
            first, newline, rest = path.read_text(encoding="utf-8").partition("\n")
            named = Process.of(int(first))
            if named and not (named.alive() and named.program() == "postgres"):
                path.write_text(f"{_NO_PID}{newline}{rest}", encoding="utf-8")

    def command(self, url: str) -> list[str | Path]:
        """Return the command line of the postmaster."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port_of(url)),
            # None: the path of one in a deep directory would be too long for the system.
            "unix_socket_directories": "",
            "max_connections": "200",
            "jit": "off",
        }
        if not self._durable:
            # Still written before it is acknowledged: what survives is the death of the server,
            # not that of the machine.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._runner().command("postgres", "-D", self._data, *options)

    def wait(self, url: str, pause: Pause) -> None:
        """Return once it accepts a connection."""
        while not (answers_tcp(port_of(url)) and asyncio.run(_accepts(url))):
            pause()

    def should_retry(self, output: str) -> bool:
        """Tell whether it waits for the children of a postmaster that was killed."""
        return "pre-existing shared memory block" in output

    def telling(self, lines: Sequence[str]) -> Sequence[str]:
        """Return all lines."""
        return lines

    def _runner(self) -> Runner:
        return runner(self._home, find_server("postgres").parent)


async def _accepts(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5, ssl="disable")
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise ConfigurationError(
            "PostgreSQL's data does not know the user, password or database of the env file", store="postgres"
        ) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


def _run(command: Sequence[str | Path], failure: str, *, stdin: str = "") -> str:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        env=server_environment(),
        check=False,
    )
    if done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
        raise UnavailableError(f"PostgreSQL: {failure}\n{output}", store="postgres", retryable=False)
    return done.stdout
