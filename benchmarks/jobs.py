"""The job queue against pgqueuer and procrastinate.

    .venv/bin/python benchmarks/jobs.py [--quick] [--write]
    .venv/bin/python benchmarks/jobs.py --only drain --rounds 5

All sides are measured in turn, in one process, on the same server and database, with ten connections
each; each round begins with another side. A table gives the medians of the rounds, the ratio of the
medians, and the lowest and highest ratio of a round. What each side does stands in `job_sides.py`.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.job_sides import POOL, Ours, Side, peers
from benchmarks.job_turns import turns
from benchmarks.measuring import (
    OURS,
    Call,
    Lengths,
    Report,
    command,
    machine,
)
from multidb import MultiDB
from multidb.settings import Settings

WRITTEN = Path(__file__).parents[1] / "docs" / "benchmarks-jobs.md"

#: The numbers of jobs that a worker does at a time.
CONCURRENCY = (1, 10, 100)

#: What DESIGN asks for: by work, concurrency and peer, the ratio of jobs claimed and completed.
TARGETS = {
    ("drain", number, peer): ratio
    for number in CONCURRENCY
    for peer, ratio in {"procrastinate": 10, "pgqueuer": 1.5}.items()
}


@dataclass(frozen=True)
class Sizes(Lengths):
    """How much of everything."""

    seconds: float = 1.0
    #: No-ops that are drained, by side: about as long as each takes for them.
    jobs: Mapping[str, int] = field(
        default_factory=lambda: {OURS: 10_000, "pgqueuer": 5_000, "procrastinate": 500}
    )
    finished: int = 1_000_000
    #: For how long a transaction is held open, and jobs come at 100 a second.
    held: float = 60.0
    paced: float = 20.0
    #: Jobs in the queue, and those whose start is waited for, where companies have their turns.
    backlog: int = 100_000
    waiting: int = 200


QUICK = Sizes(
    seconds=0.3,
    rounds=1,
    jobs={OURS: 3_000, "pgqueuer": 1_000, "procrastinate": 200},
    finished=50_000,
    held=5.0,
    paced=3.0,
    backlog=10_000,
    waiting=40,
)


@dataclass
class Run(Report[Sizes]):
    """One run: who is measured, how much, and what has been found."""

    targets = TARGETS

    db: MultiDB
    sides: Mapping[str, Side]

    @property
    def ours(self) -> Side:
        """Our side."""
        return self.sides[OURS]

    async def sql(self, statement: str) -> None:
        """Run a statement on the side, however long it takes."""
        async with self.db.postgres.opened.acquire() as connection:
            await connection.execute(statement, timeout=600)


async def enqueues(run: Run) -> None:
    """Enqueue one by one."""
    table = run.comparison("Enqueueing, one job a call", "jobs")
    await run.rates(
        table, "enqueue", {name: _enqueued_by(side) for name, side in run.sides.items()}, 1, 16, 64
    )
    for side in run.sides.values():
        await side.empty()


def _enqueued_by(side: Side) -> Call:
    return lambda _: side.enqueue()


async def drains(run: Run) -> None:
    """Claim and complete no-ops."""
    table = run.comparison(
        "No-op jobs end to end: claimed, called, completed; tasks are its concurrency", "jobs"
    )

    async def drained(side: Side, concurrency: int) -> float:
        await side.empty()
        number = run.sizes.jobs[side.name]
        await side.enqueue_many(number)
        return await side.drain(number, concurrency)

    for concurrency in CONCURRENCY:
        measured = {name: partial(drained, side, concurrency) for name, side in run.sides.items()}
        await run.compare(table, "drain", concurrency, measured)


async def latencies(run: Run) -> None:
    """From enqueueing to the start, at 100 jobs a second."""
    table = run.table(
        "From enqueueing to the start of the handler, at 100 jobs a second",
        *("side", "jobs", "median", "99 %", "longest", "target"),
    )
    for name, side in run.sides.items():
        await side.empty()
        number = int(run.sizes.paced * 100)
        # Those of the first second are not counted: until then the worker may not hear of new ones.
        first = min(100, number)
        side.want(first + number)
        async with side.worker(10):
            begun = time.perf_counter()
            enqueued = []
            for n in range(first + number):
                await asyncio.sleep(max(0.0, begun + n / 100 - time.perf_counter()))
                enqueued.append(asyncio.ensure_future(side.enqueue(time.time())))
            await asyncio.gather(*enqueued)
            await side.reached.wait()
        waits = sorted(side.waits[first:])
        shown = [waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1]]
        told = [f"{seconds * 1000:.1f} ms" for seconds in shown]
        table.row(name, len(waits), *told, "99 % under 50 ms" if name == OURS else "")


async def fairness(run: Run) -> None:
    """How long others wait for a company that has nine tenths of all."""
    backlog = run.sizes.backlog
    table = run.table(
        "In turns of companies: from enqueueing to the start of the handler, of nine companies' jobs",
        *("what", "jobs", "median", "99 %", "median of the first", "target"),
    )
    alone, among, left = await turns(run.db, backlog=backlog, number=run.sizes.waiting)
    for what, waits in (
        ("in an empty queue", alone),
        (f"beside a company that has nine tenths of {backlog:,} jobs, {left:,} in the end", among),
    ):
        told = [f"{waits[len(waits) * share // 100] * 1000:.1f} ms" for share in (50, 99)]
        ratio = waits[len(waits) // 2] / alone[len(alone) // 2]
        table.row(what, len(waits), *told, f"{ratio:.2f}", "at most 2" if waits is among else "")
    await run.ours.empty()


async def decays(run: Run) -> None:
    """Whether ours slows down with what is stored, or while old rows cannot be cleared away."""
    table = run.table(
        "Ours with much that is finished, and under a transaction that is held open",
        *("what", "jobs/s", "of the first"),
    )
    number = run.sizes.jobs[OURS]

    async def drained() -> float:
        rates = []
        for _ in range(max(3, run.sizes.rounds)):
            await run.ours.enqueue_many(number)
            rates.append(await run.ours.drain(number, 100))
        return sorted(rates)[len(rates) // 2]

    await run.ours.empty()
    first = await drained()
    table.row("an empty table", f"{first:,.0f}", "")
    await run.sql(
        "INSERT INTO ai_processing_jobs (id, queue, kind, payload, state, finished_at) "
        "SELECT gen_random_uuid(), 'q', 'k', '{}', 'completed', now() "
        f"FROM generate_series(1, {run.sizes.finished})"
    )
    await run.sql("VACUUM ANALYZE ai_processing_jobs")
    full = await drained()
    table.row(f"{run.sizes.finished:,} finished jobs", f"{full:,.0f}", f"{full / first:.2f}")
    async with _held(run):
        began, rates = time.perf_counter(), []
        while time.perf_counter() - began < run.sizes.held:
            await run.ours.enqueue_many(number)
            rates.append((time.perf_counter() - began, await run.ours.drain(number, 100)))
    third = max(1, len(rates) // 3)
    for what, some in (("the first third of", rates[:third]), ("the last third of", rates[-third:])):
        median = sorted(each for _, each in some)[len(some) // 2]
        table.row(
            f"and {what} {run.sizes.held:.0f} s under a transaction held open",
            f"{median:,.0f}",
            f"{median / first:.2f}",
        )
    await run.ours.empty()


@asynccontextmanager
async def _held(run: Run) -> AsyncIterator[None]:
    """Hold a snapshot: nothing that is deleted from now on can be cleared away."""
    async with (
        run.db.postgres.opened.acquire() as connection,
        connection.transaction(isolation="repeatable_read"),
    ):
        await connection.fetchval("SELECT count(*) FROM companies")
        yield


SECTIONS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "enqueue": enqueues,
    "drain": drains,
    "latency": latencies,
    "turns": fairness,
    "decay": decays,
}


async def measure(settings: Settings, sizes: Sizes, names: Collection[str] = SECTIONS) -> list[str]:
    """Measure the sections of these names and return the report's lines."""
    settings = settings.model_copy(update={"postgres_pool_size": POOL})
    async with MultiDB(settings) as db, peers(settings) as others:
        run = Run(sizes, db, {**others, OURS: Ours(db)})
        for name in names:
            await SECTIONS[name](run)
        answer = await db.postgres.ask(operation="benchmark")
        return run.lines(f"{machine(f'PostgreSQL {answer.version}')}; {sizes.rounds} rounds.")


_HEAD = (
    "# The job queue, against its peers",
    "",
    "Written by `benchmarks/jobs.py --write`, which measures all sides in turn, in one process, on the",
    "same server, with ten connections each. Medians of the rounds, and `ratio` of the medians; `rounds`",
    "tells the lowest and the highest ratio of a round. What each side does stands in",
    "`benchmarks/job_sides.py`.",
)

if __name__ == "__main__":
    command(
        __doc__,
        measure,
        sections=SECTIONS,
        sizes=Sizes(),
        quick=QUICK,
        written=WRITTEN,
        head=_HEAD,
        peers=("pgqueuer", "procrastinate"),
    )
