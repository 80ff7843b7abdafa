"""relay and outbox: what commits have promised to MongoDB and Redis, delivered and looked after."""

import asyncio
import importlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, AsJSON, Directory, settings_for
from multidb.cli.output import show_table
from multidb.errors import ConfigurationError
from multidb.settings import Settings

if TYPE_CHECKING:
    from multidb.client import MultiDB
    from multidb.models.outbox import UndeliveredEffect
    from multidb.repositories.outbox import Outbox

__all__ = ["outbox", "relay"]

T = TypeVar("T")

outbox = typer.Typer(
    name="outbox", help="What commits have promised to MongoDB and Redis, and is not delivered yet."
)

_Effect = Annotated[UUID, typer.Argument(help="The effect's id, as `list` shows it.")]


def relay(
    application: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:DB]",
            help="Where the application keeps its MultiDB, for the sake of its own repositories.",
        ),
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Deliver the outbox until told to stop (SIGTERM, Ctrl-C); what has begun ends. Any number may run."""
    asyncio.run(_relay(_own(directory) if application is None else _named(application)))


@outbox.command(name="list")
def list_(
    directory: Directory = DEFAULT_DIRECTORY,
    dead: Annotated[bool, typer.Option("--dead", help="Only what was given up.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many at most.")] = 50,
    as_json: AsJSON = False,
) -> None:
    """Show what is not delivered, in the order of the commits."""
    found = _with_outbox(directory, lambda outbox: outbox.find(dead=dead, limit=limit))
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found], indent=2))
        return
    header = ("id", "effect", "stream", "since", "attempts", "state", "error")
    show_table(header, [_row(each) for each in found])


@outbox.command()
def retry(
    id: Annotated[
        UUID | None, typer.Argument(help="Which effect; without it, all that were given up.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Deliver what was given up, with all its attempts again."""
    if id is None:
        count = _with_outbox(directory, lambda outbox: outbox.retry_all())
        typer.echo(f"{count} to be delivered again.")
    else:
        _with_outbox(directory, lambda outbox: outbox.retry(id))
        typer.echo("To be delivered again.")


@outbox.command()
def skip(id: _Effect, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Give up an effect for good; what waits behind it is delivered then."""
    _with_outbox(directory, lambda outbox: outbox.skip(id))
    typer.echo("Skipped.")


def _with_outbox(directory: Path, call: Callable[["Outbox"], Awaitable[T]]) -> T:
    """Call the outbox, which needs PostgreSQL alone."""
    from multidb.repositories.outbox import Outbox
    from multidb.stores.postgres.engine import PostgresStore

    async def run() -> T:
        postgres = PostgresStore(settings_for(directory, Settings))
        await postgres.open()
        try:
            outbox = Outbox(postgres)
            answer = await call(outbox)
            await outbox.wakeups.close()
            return answer
        finally:
            await postgres.close()

    return asyncio.run(run())


async def _relay(db: "MultiDB") -> None:
    async with db:
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, db.relay.stop)
        typer.echo("Delivering.", err=True)
        await db.relay.run()


def _own(directory: Path) -> "MultiDB":
    from multidb.client import MultiDB

    settings = settings_for(directory, Settings)
    # It waits for stores that are away, and need not find them there when it starts.
    spared = settings.degradable_stores | {"mongo", "redis"}
    return MultiDB(settings.model_copy(update={"degradable_stores": spared}))


def _named(place: str) -> "MultiDB":
    from multidb.client import MultiDB

    module, _, name = place.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{place} must name a module and a MultiDB in it, as in shop.data:db"
        ) from error
    if not isinstance(found, MultiDB):
        raise ConfigurationError(f"{place} is no MultiDB, but {type(found).__name__}")
    return found


def _row(effect: "UndeliveredEffect") -> tuple[str, ...]:
    state = "dead" if effect.dead_at else "failing" if effect.attempts else "waiting"
    since = f"{effect.created_at:%Y-%m-%d %H:%M:%S}"
    error = effect.error or ""
    return str(effect.id), effect.effect, effect.stream or "", since, str(effect.attempts), state, error
