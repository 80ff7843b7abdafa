"""The cache against cashews, aiocache and a bare redis-py: in turn, on the same Redis.

    make bench                                       # the whole run, written to docs/
    .venv/bin/python benchmarks/cache.py --quick     # every section, with less of everything
    .venv/bin/python benchmarks/cache.py --only hit --seconds 2 --rounds 9

Each round begins with another side. A table gives the medians of the rounds, the ratio of the
medians, and the lowest and highest ratio of a round. What each side does stands in
`benchmarks/cache_sides.py`; those whose package is not installed are left out.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

# First of all, for it takes this folder off the path, where `redis.py` would be taken for redis-py.
import benchmarks  # noqa: F401, I001

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.cache_sides import SIDES, Side
from benchmarks.measuring import Call, Comparison, Table, in_turn, machine, on_servers, parser, rate
from multidb import MultiDB, NewUser, User
from multidb.settings import Settings

ROOT = Path(__file__).parents[1]
WRITTEN = ROOT / "docs" / "benchmarks-cache.md"

#: What DESIGN asks for: by work, tasks and peer, the ratio to reach.
TARGETS = {("hit", 1, "redis-py GET"): 0.85, ("hit", 64, "redis-py GET"): 3}


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seconds: float = 0.7
    rounds: int = 5
    tasks: tuple[int, ...] = (1, 16, 64, 256)
    keys: int = 2_000
    callers: int = 1_000
    processes: int = 4


QUICK = Sizes(seconds=0.2, rounds=1, tasks=(1, 64), keys=200)


@dataclass
class Run:
    """One run: who is measured, how much, and what has been found."""

    settings: Settings
    sides: Mapping[str, Side]
    sizes: Sizes
    report: list[Table] = field(default_factory=list)

    def table(self, title: str, *columns: str) -> Table:
        """Begin a table."""
        self.report.append(Table(title, *columns))
        return self.report[-1]

    async def rates(self, title: str, work: str, calls: Mapping[str, Call]) -> None:
        """Measure a call of every side."""
        table = self.table(
            title, "work", "tasks", "against", "its calls/s", "our calls/s", "ratio", "rounds", "target"
        )
        seconds = self.sizes.seconds
        for tasks in self.sizes.tasks:
            for call in calls.values():
                await rate(call, tasks=tasks, seconds=seconds / 5)  # opens what is opened once
            sides = {name: partial(rate, call, tasks=tasks, seconds=seconds) for name, call in calls.items()}
            comparison = Comparison(await in_turn(sides, rounds=self.sizes.rounds))
            for peer in comparison.peers:
                target = TARGETS.get((work, tasks, peer))
                reach = "" if target is None else f"at least {target}"
                table.row(work, tasks, peer, *comparison.cells(peer), reach)


async def hits(run: Run) -> None:
    """A user that is in the cache, another one each time."""
    keys = run.sizes.keys
    for side in run.sides.values():
        for number in range(keys):
            await side.get(number)

    def hit(side: Side) -> Call:
        return lambda number: side.get(number % keys)

    await run.rates("Hits", "hit", {name: hit(side) for name, side in run.sides.items()})


async def misses(run: Run) -> None:
    """A user that is not: looked for, loaded from memory, and stored."""
    numbers = count(10_000_000)

    def miss(side: Side) -> Call:
        return lambda _: side.get(next(numbers))

    peers = {name: miss(side) for name, side in run.sides.items() if side.loads}
    await run.rates("Misses", "miss", peers)


async def stampedes(run: Run) -> None:
    """Callers in several processes ask for one cold key at once; its load takes 0.2 s."""
    callers, processes = run.sizes.callers, run.sizes.processes
    table = run.table(
        f"A stampede: {callers:,} callers in {processes} processes on one cold key, whose load takes 200 ms",
        "side",
        "loads",
        "callers that failed",
        "until all have it, ms",
    )
    for name, side in run.sides.items():
        if side.loads:
            told = await _stampede(run, name)
            slowest = max(each["took"] for each in told)
            table.row(
                name, *(sum(each[what] for each in told) for what in ("loads", "failed")), f"{slowest:,.0f}"
            )


async def _stampede(run: Run, name: str) -> list[dict[str, int]]:
    """Return what each process tells."""
    settings, processes = run.settings, run.sizes.processes
    urls = ("postgres_url", "mongo_url", "redis_url")
    given = {each: getattr(settings, each).get_secret_value() for each in urls}
    order = {
        "settings": {**given, "key_prefix": settings.key_prefix, "mongo_driver": settings.mongo_driver},
        "side": name,
        "callers": run.sizes.callers // processes,
    }
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.cache_stampede", cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        for _ in range(processes)
    ]
    try:
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(order).encode() + b"\n")
        for worker in workers:
            assert worker.stdout is not None
            assert await worker.stdout.readline() == b"ready\n", "a process of the stampede failed"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
        return [json.loads((await worker.communicate())[0]) for worker in workers]
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()


SECTIONS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "hit": hits,
    "miss": misses,
    "stampede": stampedes,
}


async def measure(settings: Settings, sizes: Sizes, only: Collection[str] = SECTIONS) -> list[str]:
    """Measure the sections; return the report's lines."""
    async with MultiDB(settings) as db, AsyncExitStack() as stack:
        new = NewUser(email="ada@example.com", name="Ada Lovelace")
        user: User = await db.users.add(new)
        sides = {}
        for name, side in SIDES.items():
            if side.is_installed():
                sides[name] = await stack.enter_async_context(side.opened(db, user))
        health = await db.health()
        run = Run(settings, sides, sizes)
        for name in only:
            await SECTIONS[name](run)
        server = f"Redis {health.redis.version}"
    return [*_head(server), *(line for table in run.report for line in (*table.lines, ""))]


def _head(server: str) -> list[str]:
    return [
        "# The cache, measured",
        "",
        f"On {machine(server)}. `make bench` writes this page anew.",
        "All sides get a user, at another key each time, in turn in one process; of the calls a second",
        "the medians of the rounds, their ratio, and the lowest and highest ratio of a round. redis-py's GET",
        "gives bytes; all others the user as it was put in.",
        "",
    ]


def main() -> None:
    """Measure, and write it down where that is asked for."""
    made = parser(__doc__, seconds=None, rounds=None)
    made.add_argument("--quick", action="store_true", help="every section, with less of everything")
    made.add_argument("--only", action="append", choices=SECTIONS, help="only this; may be repeated")
    made.add_argument("--write", action="store_true", help=f"write docs/{WRITTEN.name}")
    arguments = made.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    given = {name: getattr(arguments, name) for name in ("seconds", "rounds") if getattr(arguments, name)}

    async def run(settings: Settings) -> None:
        lines = await measure(settings, replace(sizes, **given), arguments.only or SECTIONS)
        if arguments.write:
            WRITTEN.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")

    on_servers(run)


if __name__ == "__main__":
    main()
