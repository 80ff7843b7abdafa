"""The job queue against pgqueuer and procrastinate.

    .venv/bin/python benchmarks/jobs.py [--quick] [--write]
    .venv/bin/python benchmarks/jobs.py --only drain --rounds 5

All sides are measured in turn, in one process, on the same server and database, with ten connections
each; each round begins with another side. A table gives the medians of the rounds, the ratio of the
medians, and the lowest and highest ratio of a round. What each side does stands in `job_sides.py`.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

import sys
from pathlib import Path

# As a script it has its own folder first on the path, where `redis.py` would be taken for redis-py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# ruff: noqa: E402
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from benchmarks.job_sides import POOL, Ours, Side, peers
from benchmarks.measuring import OURS, Call, Comparison, Table, in_turn, machine, on_servers, parser, rate
from multidb import MultiDB
from multidb.settings import Settings

WRITTEN = Path(__file__).parents[1] / "docs" / "benchmarks-jobs.md"

#: What DESIGN asks for: by peer, the ratio of jobs claimed and completed.
TARGETS = {"procrastinate": 10, "pgqueuer": 1.5}


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seconds: float = 1.0
    rounds: int = 5
    #: No-ops that are drained, by side: about as long as each takes for them.
    jobs: Mapping[str, int] = field(
        default_factory=lambda: {OURS: 10_000, "pgqueuer": 5_000, "procrastinate": 500}
    )
    finished: int = 1_000_000
    #: For how long a transaction is held open, and jobs come at 100 a second.
    held: float = 60.0
    paced: float = 20.0


QUICK = Sizes(
    seconds=0.3,
    rounds=1,
    jobs={OURS: 3_000, "pgqueuer": 1_000, "procrastinate": 200},
    finished=50_000,
    held=5.0,
    paced=3.0,
)


@dataclass
class Run:
    """One run: who is measured, how much, and what has been found."""

    db: MultiDB
    sides: Mapping[str, Side]
    sizes: Sizes
    report: list[Table] = field(default_factory=list)

    @property
    def ours(self) -> Side:
        """Our side."""
        return self.sides[OURS]

    def table(self, title: str, *columns: str) -> Table:
        """Begin a table."""
        self.report.append(Table(title, *columns))
        return self.report[-1]

    async def sql(self, statement: str) -> None:
        """Run a statement on the side, however long it takes."""
        async with self.db.postgres.opened.acquire() as connection:
            await connection.execute(statement, timeout=600)


async def enqueues(run: Run) -> None:
    """Enqueue one by one."""
    columns = ("work", "tasks", "against", "its jobs/s", "our jobs/s", "ratio", "rounds")
    table = run.table("Enqueueing, one job a call", *columns)
    for tasks in (1, 16, 64):
        measured = {
            name: partial(rate, _enqueued_by(side), tasks=tasks, seconds=run.sizes.seconds)
            for name, side in run.sides.items()
        }
        compared = Comparison(await in_turn(measured, rounds=run.sizes.rounds))
        for peer in compared.peers:
            table.row("enqueue", tasks, peer, *compared.cells(peer))
    for side in run.sides.values():
        await side.empty()


def _enqueued_by(side: Side) -> Call:
    return lambda _: side.enqueue()


async def drains(run: Run) -> None:
    """Claim and complete no-ops."""
    table = run.table(
        "No-op jobs end to end: claimed, called, completed",
        *("work", "concurrency", "against", "its jobs/s", "our jobs/s", "ratio", "rounds", "target"),
    )

    async def drained(side: Side, concurrency: int) -> float:
        await side.empty()
        number = run.sizes.jobs[side.name]
        await side.enqueue_many(number)
        return await side.drain(number, concurrency)

    for concurrency in (1, 10, 100):
        measured = {name: partial(drained, side, concurrency) for name, side in run.sides.items()}
        compared = Comparison(await in_turn(measured, rounds=run.sizes.rounds))
        for peer in compared.peers:
            target = f"at least {TARGETS[peer]}"
            table.row("drain", concurrency, peer, *compared.cells(peer), target)


async def latencies(run: Run) -> None:
    """From enqueueing to the start, at 100 jobs a second."""
    table = run.table(
        "From enqueueing to the start of the handler, at 100 jobs a second",
        *("side", "jobs", "median", "99 %", "longest", "target"),
    )
    for name, side in run.sides.items():
        await side.empty()
        number = int(run.sizes.paced * 100)
        side.want(number)
        async with side.worker(10):
            await asyncio.sleep(1)  # until it listens
            begun = time.perf_counter()
            enqueued = []
            for n in range(number):
                await asyncio.sleep(max(0.0, begun + n / 100 - time.perf_counter()))
                enqueued.append(asyncio.ensure_future(side.enqueue(time.time())))
            await asyncio.gather(*enqueued)
            await side.reached.wait()
        waits = sorted(side.waits)
        shown = [waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1]]
        told = [f"{seconds * 1000:.1f} ms" for seconds in shown]
        table.row(name, number, *told, "99 % under 50 ms" if name == OURS else "")


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
    "decay": decays,
}


async def measure(settings: Settings, sizes: Sizes, names: Collection[str] = SECTIONS) -> list[str]:
    """Measure the sections of these names and return the report's lines."""
    settings = settings.model_copy(update={"postgres_pool_size": POOL})
    async with MultiDB(settings) as db, peers(settings) as others:
        run = Run(db, {**others, OURS: Ours(db)}, sizes)
        for name in names:
            await SECTIONS[name](run)
        answer = await db.postgres.ask(operation="benchmark")
        lines = [f"{machine(f'PostgreSQL {answer.version}')}; {sizes.rounds} rounds."]
        for table in run.report:
            lines += ["", *table.lines]
        return lines


def main() -> None:
    """Measure, print, and write it down if asked to."""
    arguments = parser(__doc__, seconds=None, rounds=None)
    arguments.add_argument("--quick", action="store_true", help="less of everything")
    arguments.add_argument("--only", action="append", choices=SECTIONS, help="only this; may be repeated")
    arguments.add_argument("--write", action="store_true", help=f"write it to docs/{WRITTEN.name}")
    given = arguments.parse_args()
    if given.write and given.only:
        arguments.error("--write takes a whole run, without --only")
    sizes = QUICK if given.quick else Sizes()
    sizes = replace(sizes, seconds=given.seconds or sizes.seconds, rounds=given.rounds or sizes.rounds)

    async def run(settings: Settings) -> None:
        lines = await measure(settings, sizes, given.only or SECTIONS)
        if given.write:
            WRITTEN.write_text("\n".join([*_HEAD, *lines, ""]))

    on_servers(run)


_HEAD = [
    "# The job queue, against its peers",
    "",
    "Written by `benchmarks/jobs.py --write`, which measures all sides in turn, in one process, on the",
    "same server, with ten connections each. Medians of the rounds, and `ratio` of the medians; `rounds`",
    "tells the lowest and the highest ratio of a round. What each side does stands in",
    "`benchmarks/job_sides.py`.",
    "",
]

if __name__ == "__main__":
    main()
