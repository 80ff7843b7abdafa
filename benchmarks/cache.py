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
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.cache_sides import LOCAL_SIDES, SIDES, Kind, Side
from benchmarks.measuring import Call, Lengths, Report, command, machine
from multidb import MultiDB, NewUser, User
from multidb.settings import Settings

ROOT = Path(__file__).parents[1]
WRITTEN = ROOT / "docs" / "benchmarks-cache.md"

#: What DESIGN asks for: by work, tasks and peer, the ratio to reach.
TARGETS = {
    ("hit", 1, "redis-py GET"): 0.85,
    ("hit", 64, "redis-py GET"): 3,
    ("local hit", 1, "cashews, in memory"): 5,
    ("local hit", 64, "cashews, in memory"): 5,
}


@dataclass(frozen=True)
class Sizes(Lengths):
    """How much of everything."""

    tasks: tuple[int, ...] = (1, 16, 64, 256)
    keys: int = 2_000
    callers: int = 1_000
    processes: int = 4


QUICK = Sizes(seconds=0.2, rounds=1, tasks=(1, 64), keys=200)


@dataclass
class Run(Report[Sizes]):
    """One run: who is measured, how much, and what has been found."""

    targets = TARGETS

    settings: Settings
    sides: Mapping[str, Side]
    local_sides: Mapping[str, Side]


async def hits(run: Run) -> None:
    """A user that is in the cache, another one each time."""
    await _hits(run, "hit", run.sides)


async def local_hits(run: Run) -> None:
    """A user that is in the memory of the process, another one each time."""
    await _hits(run, "local hit", run.local_sides)


async def _hits(run: Run, work: str, sides: Mapping[str, Side]) -> None:
    keys = run.sizes.keys
    # Ours is in Redis after the first time, and in the process once that has said what changed.
    for _ in range(3):
        for side in sides.values():
            for number in range(keys):
                await side.get(number)
        await asyncio.sleep(0.1)  # which it says on a connection of its own, to nobody outside

    def hit(side: Side) -> Call:
        return lambda number: side.get(number % keys)

    calls = {name: hit(side) for name, side in sides.items()}
    await run.rates(run.comparison(f"{work.capitalize()}s"), work, calls, *run.sizes.tasks)


async def misses(run: Run) -> None:
    """A user that is not: looked for, loaded from memory, and stored."""
    numbers = count(10_000_000)

    def miss(side: Side) -> Call:
        return lambda _: side.get(next(numbers))

    peers = {name: miss(side) for name, side in run.sides.items() if side.loads}
    await run.rates(run.comparison("Misses"), "miss", peers, *run.sizes.tasks)


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
    "local hit": local_hits,
    "miss": misses,
    "stampede": stampedes,
}


async def measure(settings: Settings, sizes: Sizes, names: Collection[str] = SECTIONS) -> list[str]:
    """Measure the sections of these names and return the report's lines."""
    async with MultiDB(settings) as db, AsyncExitStack() as stack:
        user: User = await db.users.add(NewUser(email="ada@example.com", name="Ada Lovelace"))

        async def opened(kinds: Mapping[str, Kind]) -> dict[str, Side]:
            return {
                name: await stack.enter_async_context(kind.opened(db, user))
                for name, kind in kinds.items()
                if kind.is_installed()
            }

        run = Run(sizes, settings, await opened(SIDES), await opened(LOCAL_SIDES))
        for name in names:
            await SECTIONS[name](run)
        answer = await db.redis.ask(operation="benchmark")
        return run.lines(f"{machine(f'Redis {answer.version}')}; {sizes.rounds} rounds of {sizes.seconds} s.")


_HEAD = (
    "# The cache, against its peers",
    "",
    "Written by `benchmarks/cache.py --write`, which measures all sides in turn, in one process, on the same",
    "server. All get a user, at another key each time. Medians of the rounds, and `ratio` of the medians;",
    "`rounds` tells the lowest and the highest ratio of a round. redis-py's GET gives bytes; all others the",
    "user as it was put in.",
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
        peers=("cashews", "aiocache"),
    )
