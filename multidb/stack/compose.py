"""The compose back end: the same servers in containers, by docker compose."""

import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multidb.errors import ConfigurationError, UnavailableError
from multidb.settings import Settings
from multidb.stack.addresses import (
    URL_OF,
    free_port,
    new_env,
    password_of,
    port_is_free,
    port_of,
    settings_from,
)
from multidb.stack.protocol import SERVERS, Backend, Progress, ServerName, ServerStatus
from multidb.stack.state import StackDirectory, State

__all__ = ["ComposeStack", "compose_env", "compose_file"]

_USUAL_PORTS: dict[ServerName, int] = {"postgres": 5432, "mongodb": 27017, "redis": 6379}

#: The variables docker-compose.yml takes each server's password and port from.
_VARIABLES: dict[ServerName, tuple[str, str]] = {
    "postgres": ("POSTGRES_PASSWORD", "POSTGRES_PORT"),
    "mongodb": ("MONGO_PASSWORD", "MONGO_PORT"),
    "redis": ("REDIS_PASSWORD", "REDIS_PORT"),
}

#: How long `up` may take once the images are there.
_WAIT_SECONDS = 180
_TAIL_LINES = 10


class ComposeStack:
    """The servers of docker-compose.yml for one directory.

    Each directory is a compose project of its own, so two of them share no volume.
    Ports are the usual ones where they are free at the first start.
    """

    backend: Backend = "compose"

    def __init__(self, directory: Path | str, project_file: Path | None = None) -> None:
        self.directory = StackDirectory(directory)
        digest = hashlib.sha256(os.fsencode(self.directory.path)).hexdigest()[:8]
        self.project = f"multidb-{digest}"
        self._project_file = project_file

    @property
    def env_path(self) -> Path:
        """The file with the addresses and secrets; there once the stack was started."""
        return self.directory.env_path

    @property
    def env(self) -> Mapping[str, str]:
        """The variables of the env file: MULTIDB_*, and those docker-compose.yml reads.

        Raises: ConfigurationError if the stack was never started.
        """
        env = self.directory.read_env()
        if not env:
            raise ConfigurationError(f"no stack was started in {self.directory.path}: `multidb start`")
        return env

    def settings(self) -> Settings:
        """Return the settings for this stack, whatever the environment says about addresses."""
        return settings_from(self.env)

    def start(self, progress: Progress | None = None) -> bool:
        """Start the containers and wait until all are healthy. False if all ran already.

        Raises: ConfigurationError if docker compose is missing; UnavailableError with what it
        said, and what each service that is not up wrote last.
        """
        with self.directory.locked():
            self.directory.create()
            self.directory.require(self.backend)
            if not self.directory.read_env():
                self.directory.write_env(compose_env())
            self.directory.write_state(State(backend=self.backend, kept=True))
            if all(status.state == "running" for status in self.status()):
                return False
            if progress:
                progress("docker compose: starting; the first time it fetches the images")
            self._compose("up", "--detach", "--wait", "--wait-timeout", str(_WAIT_SECONDS))
            return True

    def stop(self) -> bool:
        """Stop the containers; volumes stay. False if none ran."""
        if not self.directory.read_env():
            return False
        with self.directory.locked():
            ran = any(status.state == "running" for status in self.status())
            self._compose("stop")
            return ran

    def status(self) -> list[ServerStatus]:
        """Return one status a server, in the order of `SERVERS`."""
        env = self.directory.read_env()
        if not env:
            return [ServerStatus(name, "stopped") for name in SERVERS]
        containers = {
            entry["Service"]: entry for entry in _entries(self._compose("ps", "--all", "--format", "json"))
        }
        return [self._status_of(name, containers.get(name), port_of(env[URL_OF[name]])) for name in SERVERS]

    def logs(self, name: ServerName, *, lines: int = 100, follow: bool = False) -> Iterator[str]:
        """Yield the last lines a server wrote, then, to follow, each new one without end."""
        command = self._command(
            "logs", "--no-log-prefix", "--tail", str(lines), *(("--follow",) if follow else ()), name
        )
        with (
            _docker_expected(),
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            try:
                yield from (line.rstrip("\n") for line in process.stdout or ())
            finally:
                process.terminate()

    def clean(self) -> None:
        """Remove the containers, their volumes and the secrets."""
        if self.directory.read_env():
            with self.directory.locked():
                self._compose("down", "--volumes", "--remove-orphans")
                self.directory.remove()

    def exec_command(self, name: ServerName, variable: str, *command: str) -> list[str]:
        """Return the command line that runs a program in a server's container, on this terminal or none.

        The value of the environment variable goes with it, and is not on the command line.
        """
        terminal = () if os.isatty(0) else ("--no-TTY",)
        return self._command("exec", *terminal, "--env", variable, name, *command)

    def _status_of(self, name: ServerName, container: Mapping[str, Any] | None, port: int) -> ServerStatus:
        if container is None or container["State"] in {"created", "paused"}:
            return ServerStatus(name, "stopped", port=port)
        if container["State"] == "running" and container.get("Health") != "unhealthy":
            return ServerStatus(name, "running", port=port)
        if container["State"] == "exited" and container.get("ExitCode") == 0:
            return ServerStatus(name, "stopped", port=port)
        return ServerStatus(name, "crashed", port=port, log_tail=tuple(self.logs(name, lines=_TAIL_LINES)))

    def _command(self, *arguments: str) -> list[str]:
        file = self._project_file or compose_file()
        return [
            *("docker", "compose", "--env-file", str(self.env_path)),
            *("--file", str(file), "--project-name", self.project, *arguments),
        ]

    def _compose(self, *arguments: str) -> str:
        command = self._command(*arguments)
        with _docker_expected():
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            said = "\n".join(done.stderr.strip().splitlines()[-_TAIL_LINES:])
            raise UnavailableError(f"`docker compose {arguments[0]}` failed:\n{said}")
        return done.stdout


@contextmanager
def _docker_expected() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ConfigurationError(
            "no docker program was found: install Docker with its compose plugin, or use the embedded one"
        ) from None


def compose_env() -> dict[str, str]:
    """Return the variables of a new stack: an application's, and docker-compose.yml's."""
    ports: dict[ServerName, int] = {
        name: port if port_is_free(port) else free_port() for name, port in _USUAL_PORTS.items()
    }
    env = new_env(ports)
    for name, (password, port) in _VARIABLES.items():
        env |= {password: password_of(env[URL_OF[name]]), port: str(ports[name])}
    # A replica set's key must be base64.
    return {
        **env,
        "MONGO_REPLICA_SET_KEY": secrets.token_hex(32),
        "CONSOLES_PASSWORD": secrets.token_urlsafe(16),
    }


def compose_file() -> Path:
    """Return docker-compose.yml: of the checkout, or the copy an installed package carries.

    Raises: ConfigurationError if there is neither.
    """
    here = Path(__file__).parent
    for path in (here / "docker-compose.yml", here.parent.parent / "docker-compose.yml"):
        if path.is_file():
            return path
    raise ConfigurationError("docker-compose.yml is neither in the installed package nor in the checkout")


def _entries(output: str) -> list[dict[str, Any]]:
    """Read what `ps --format json` prints: an object a line, or one array of them before compose 2.21."""
    if output.lstrip().startswith("["):
        entries: list[dict[str, Any]] = json.loads(output)
        return entries
    return [json.loads(line) for line in output.splitlines() if line.strip()]
