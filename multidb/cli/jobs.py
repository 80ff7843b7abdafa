"""jobs: looking at the queues, and after what is in them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from uuid import UUID

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, AsJSON, Directory, settings_for
from multidb.cli.output import show_error, show_live, show_table
from multidb.errors import AlreadyExistsError, MultiDBError, NotFoundError
from multidb.models.jobs import Job, JobState, QueueStats
from multidb.settings import Settings

if TYPE_CHECKING:
    from multidb.client import MultiDB

__all__ = ["jobs"]

jobs = typer.Typer(name="jobs", help="The job queues: how they stand, and what is in them.")

Ids: TypeAlias = Annotated[list[UUID] | None, typer.Argument(help="The jobs' ids.")]
Queue: TypeAlias = Annotated[str | None, typer.Option(help="Only this queue's.")]
Kind: TypeAlias = Annotated[str | None, typer.Option(help="Only jobs of this kind.")]

_STATS = ("ready", "scheduled", "waiting", "running", "completed", "failed", "dead", "cancelled")


@jobs.command(name="list")
def list_(
    directory: Directory = DEFAULT_DIRECTORY,
    queue: Queue = None,
    kind: Kind = None,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many at most.")] = 50,
    as_json: AsJSON = False,
) -> None:
    """Show jobs, those that were enqueued last first."""

    async def found(db: "MultiDB") -> list[Job]:
        return list((await db.jobs.find(limit=limit, order_by="-id", **_given(queue, kind, state))).items)

    some = _run(directory, found)
    if as_json:
        typer.echo(json.dumps([job.model_dump(mode="json") for job in some], indent=2))
        return
    header = ("id", "queue", "kind", "state", "attempt", "run at", "worker", "error")
    show_table(header, [_row(job) for job in some])


@jobs.command()
def show(
    id: Annotated[UUID, typer.Argument(help="The job's id.")], directory: Directory = DEFAULT_DIRECTORY
) -> None:
    """Print all about one job: its result and its log too, where MongoDB has them. As JSON."""

    async def found(db: "MultiDB") -> dict[str, Any]:
        job = (await db.jobs.fetch(id)).model_dump(mode="json")
        with suppress(MultiDBError):
            recorded = await db.ai_processing_results.get(id)
            job["recorded"] = recorded and recorded.model_dump(mode="json")
        return job

    typer.echo(json.dumps(_run(directory, found), indent=2))


@jobs.command()
def retry(
    ids: Ids = None, directory: Directory = DEFAULT_DIRECTORY, queue: Queue = None, kind: Kind = None
) -> None:
    """Give jobs that are over their attempts again: by id, or the dead and failed ones of a queue or kind."""
    _change(directory, ids, queue, kind, "Tried again", lambda db, job: db.jobs.retry(job))


@jobs.command()
def discard(
    ids: Ids = None, directory: Directory = DEFAULT_DIRECTORY, queue: Queue = None, kind: Kind = None
) -> None:
    """Give up jobs that are dead or failed: by id, or all of a queue or kind."""
    _change(directory, ids, queue, kind, "Discarded", lambda db, job: db.jobs.discard(job))


@jobs.command()
def cancel(
    ids: Annotated[list[UUID], typer.Argument(help="The jobs' ids.")],
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Cancel jobs: those that wait at once, and those that run as soon as their worker hears of it."""
    _change(directory, ids, None, None, "Cancelled", lambda db, job: db.jobs.cancel(job))


@jobs.command()
def stats(
    directory: Directory = DEFAULT_DIRECTORY,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, with --watch.")] = 1.0,
    as_json: AsJSON = False,
) -> None:
    """Show how each queue stands. What ended is counted for an hour."""

    async def look(db: "MultiDB") -> None:
        header = ("queue", *_STATS, "lag", "at most")
        if not watch:
            _tell(await db.jobs.stats(), partial(show_table, header), as_json=as_json)
            return
        with show_live(header) as display:
            while True:
                _tell(await db.jobs.stats(), display, as_json=as_json)
                await asyncio.sleep(every)

    with suppress(KeyboardInterrupt):
        _run(directory, look)


def _tell(
    found: list[QueueStats], display: Callable[[list[tuple[str, ...]]], None], *, as_json: bool
) -> None:
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found]))
    else:
        display([_stats_row(each) for each in found])


def _change(
    directory: Path,
    ids: list[UUID] | None,
    queue: str | None,
    kind: str | None,
    done: str,
    change: Callable[["MultiDB", UUID], Awaitable[Job]],
) -> None:
    if bool(ids) == bool(queue or kind):
        raise typer.BadParameter("name jobs by their ids, or --queue or --kind")

    async def changed(db: "MultiDB") -> bool:
        over = db.jobs.c.state.in_(["dead", "failed"])
        some = ids or [job.id async for job in db.jobs.stream(over, **_given(queue, kind, None))]
        all_done = True
        for id in some:
            try:
                job = await change(db, id)
            except (NotFoundError, AlreadyExistsError) as error:
                # Of this one alone: the others are changed all the same.
                show_error(f"{id}: {error}")
                all_done = False
            else:
                typer.echo(f"{done}: {job.id} is {job.state}.")
        return all_done

    if not _run(directory, changed):
        raise typer.Exit(1)


def _run(directory: Path, work: Callable[["MultiDB"], Awaitable[Any]]) -> Any:
    settings = settings_for(directory, Settings)

    async def run() -> Any:
        async with _opened(settings) as db:
            return await work(db)

    return asyncio.run(run())


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator["MultiDB"]:
    from multidb.client import MultiDB

    # The queues are PostgreSQL's: the others may be away.
    spared = settings.model_copy(update={"degradable_stores": frozenset({"mongo", "redis"})})
    async with MultiDB(spared) as db:
        with db.unscoped():
            yield db


def _given(queue: str | None, kind: str | None, state: str | None) -> dict[str, Any]:
    given = {"queue": queue, "kind": kind, "state": state}
    return {name: value for name, value in given.items() if value is not None}


def _row(job: Job) -> tuple[str, ...]:
    attempt = f"{job.attempt}/{job.max_attempts}"
    error = (job.error or "").partition("\n")[0][:60]
    when = f"{job.run_at:%Y-%m-%d %H:%M:%S}"
    return str(job.id), job.queue, job.kind, job.state, attempt, when, job.worker or "", error


def _stats_row(stats: QueueStats) -> tuple[str, ...]:
    limits = [str(stats.at_most)] if stats.at_most is not None else []
    limits += [f"{stats.at_most_per_key} a key"] if stats.at_most_per_key is not None else []
    counts = (f"{getattr(stats, name):,}" for name in _STATS)
    return stats.queue, *counts, str(timedelta(seconds=int(stats.lag.total_seconds()))), ", ".join(limits)
