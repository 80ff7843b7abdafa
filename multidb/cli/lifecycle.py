"""start, stop, restart, clean: the life of the servers."""

import sys
from typing import Annotated

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, BackendOption, Directory
from multidb.cli.output import progress, show_error
from multidb.settings import redacted_url
from multidb.stack import SERVERS, Stack, open_stack

__all__ = ["clean", "restart", "start", "stop"]

ShowSecrets = Annotated[bool, typer.Option("--show-secrets", help="Print the URLs with their passwords.")]


def start(
    directory: Directory = DEFAULT_DIRECTORY, backend: BackendOption = None, show_secrets: ShowSecrets = False
) -> None:
    """Start PostgreSQL, MongoDB and Redis, and wait until they answer."""
    stack = open_stack(directory, backend)
    with progress("Starting PostgreSQL, MongoDB and Redis") as say:
        started = stack.start(say)
    typer.echo(f"{'Started' if started else 'Already running'} ({stack.backend}).")
    _show_addresses(stack, show_secrets=show_secrets)


def stop(directory: Directory = DEFAULT_DIRECTORY, backend: BackendOption = None) -> None:
    """Stop the servers that were started here. Their data stays."""
    stack = open_stack(directory, backend)
    with progress("Stopping"):
        stopped = stack.stop()
    typer.echo("Stopped." if stopped else "Nothing was running.")


def restart(
    directory: Directory = DEFAULT_DIRECTORY, backend: BackendOption = None, show_secrets: ShowSecrets = False
) -> None:
    """Stop the servers and start them again, at the same addresses."""
    stack = open_stack(directory, backend)
    with progress("Restarting") as say:
        stack.stop()
        stack.start(say)
    typer.echo(f"Restarted ({stack.backend}).")
    _show_addresses(stack, show_secrets=show_secrets)


def clean(
    directory: Directory = DEFAULT_DIRECTORY,
    backend: BackendOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the servers and delete all their data and secrets. Asks before it does."""
    if not yes:
        if not sys.stdin.isatty():
            show_error("this deletes all data, and there is no terminal to ask on: repeat it with --yes")
            raise typer.Exit(2)
        typer.confirm(f"Delete all data of the servers in {directory.resolve()}?", abort=True)
    with progress("Cleaning"):
        open_stack(directory, backend).clean()
    typer.echo("Cleaned.")


def _show_addresses(stack: Stack, *, show_secrets: bool) -> None:
    settings = stack.settings()
    for name, url in zip(
        SERVERS, (settings.postgres_url, settings.mongo_url, settings.redis_url), strict=True
    ):
        typer.echo(f"  {name:<8}  {url.get_secret_value() if show_secrets else redacted_url(url)}")
    typer.echo(f"The addresses with their passwords are in {stack.env_path}")
