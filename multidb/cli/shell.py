"""shell: a prompt on one of the stores."""

import code
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, BackendOption, Directory, settings_for
from multidb.errors import ConfigurationError
from multidb.settings import Settings
from multidb.stack import STORE_OF, ComposeStack, ServerName, open_stack
from multidb.stack.binaries import find_client

__all__ = ["shell"]


def shell(
    store: Annotated[ServerName, typer.Argument(help="Which server.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After `--`: arguments of psql, mongosh or redis-cli.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    backend: BackendOption = None,
) -> None:
    """Open psql, mongosh or redis-cli with the application's settings.

    Without mongosh, a Python prompt with `db` bound to the database. Commands may come from stdin.
    """
    settings = settings_for(directory, Settings)
    given = arguments or []
    client = find_client(store)
    if store == "mongodb":
        url = settings.mongo_url.get_secret_value()
        if client is None:
            _python_prompt(url, given)
        _become([str(client), *_MONGOSH, *given], {"MULTIDB_MONGO_URL": url})
    postgres = store == "postgres"
    parts = urlsplit((settings.postgres_url if postgres else settings.redis_url).get_secret_value())
    secret = {"PGPASSWORD" if postgres else "REDISCLI_AUTH": unquote(parts.password or "")}
    if client is not None:
        _become([str(client), *(_psql(parts) if postgres else _redis_cli(parts)), *given], secret)
    _become(_in_container(store, directory, backend, parts, given), secret)


#: mongosh takes no password from the environment, but code that does.
_MONGOSH = ("--nodb", "--quiet", "--eval", "db = connect(process.env.MULTIDB_MONGO_URL)", "--shell")


def _psql(parts: SplitResult) -> list[str]:
    """Return the address as psql takes it, without the password."""
    userinfo, at, host = parts.netloc.rpartition("@")
    user = userinfo.partition(":")[0]
    return [urlunsplit(parts._replace(scheme="postgresql", netloc=f"{user}{at}{host}"))]


def _redis_cli(parts: SplitResult) -> list[str]:
    """Return the address as redis-cli takes it, without the password: a cluster's is that of one node."""
    scheme, _, kind = parts.scheme.partition("+")
    if kind == "sentinel":
        raise ConfigurationError(
            "redis-cli does not ask Sentinels: call it with the master's own address", store="redis"
        )
    host = parts.netloc.rpartition("@")[2].partition(",")[0]
    user = ["--user", unquote(parts.username)] if parts.username else []
    follow = ["-c"] if kind == "cluster" else []
    return [*user, *follow, "-u", urlunsplit(parts._replace(scheme=scheme, netloc=host))]


def _in_container(
    store: ServerName, directory: Path, backend: BackendOption, parts: SplitResult, given: list[str]
) -> list[str]:
    """Return the command that runs the client where compose runs the server."""
    stack = open_stack(directory, backend)
    program = {"postgres": "psql", "redis": "redis-cli"}[store]
    if not isinstance(stack, ComposeStack):
        raise ConfigurationError(f"{program} was not found: put it on PATH", store=STORE_OF[store])
    if store == "postgres":
        user, database = unquote(parts.username or ""), unquote(parts.path.strip("/"))
        return stack.exec_command(
            store, "PGPASSWORD", "psql", "-h", "127.0.0.1", "-U", user, "-d", database, *given
        )
    return stack.exec_command(store, "REDISCLI_AUTH", "redis-cli", *given)


def _become(command: list[str], environment: dict[str, str]) -> None:
    """Turn this process into the client, so that signals, the terminal and the exit code are its own."""
    sys.stdout.flush()
    os.execvpe(command[0], command, {**os.environ, **environment})  # noqa: S606 - no shell is wanted


class _Prompt(code.InteractiveConsole):
    """Python's own prompt, which remembers whether anything went wrong."""

    failed = False

    def showtraceback(self) -> None:
        self.failed = True
        super().showtraceback()

    def showsyntaxerror(self, *arguments: Any, **options: Any) -> None:
        self.failed = True
        super().showsyntaxerror(*arguments, **options)


def _python_prompt(url: str, given: list[str]) -> None:
    if given:
        raise ConfigurationError("arguments are for mongosh, which is not installed", store="mongo")
    from pymongo import MongoClient

    # Typer's shows our own frames too.
    sys.excepthook = sys.__excepthook__
    with MongoClient[dict[str, object]](url) as client:
        database = client.get_default_database()
        prompt = _Prompt({"db": database, "client": client})
        if sys.stdin.isatty():
            with suppress(ImportError):
                import readline  # noqa: F401 - gives the prompt its line editing
            prompt.interact(f"MongoDB, from Python: `db` is the database {database.name!r} (pymongo).", "")
            raise typer.Exit(0)
        for line in sys.stdin:
            prompt.push(line.rstrip("\n"))
        prompt.push("")
    raise typer.Exit(1 if prompt.failed else 0)
