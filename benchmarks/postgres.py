"""PostgreSQL's repositories against asyncpg, SQLAlchemy and advanced-alchemy.

    make bench                                          # the whole run, written to docs/
    .venv/bin/python benchmarks/postgres.py --quick     # every section, with less of everything
    .venv/bin/python benchmarks/postgres.py --only get --seconds 2 --rounds 9

All sides are measured in turn, in one process, on the same server and the same table with its
triggers; each round begins with another side. A table gives the medians of the rounds, the ratio of
the medians, and the lowest and highest ratio of a round, which tells how noisy it was. What each
side does and gives stands in `benchmarks/sides.py`.

It starts servers of its own from the wheels, which do not wait for the disk (fsync is off), or
takes those of MULTIDB_TEST_*_URL.
"""

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TypeAlias

from benchmarks.measuring import (
    OURS,
    Call,
    Comparison,
    by_number,
    command,
    latencies,
    machine,
)
from benchmarks.peers import POOL, peers
from benchmarks.run import QUICK, Run, Sizes
from benchmarks.sides import Side, Values
from multidb import MultiDB, uuid7
from multidb.settings import Settings

#: Reading one page.
Read: TypeAlias = Callable[[], Awaitable[None]]

WRITTEN = Path(__file__).parents[1] / "docs" / "benchmarks-postgres.md"

DEEP = 1.2
UNFAIR = 5

#: Rows that have one name, of all the rows of the table.
ONE_IN = 20


async def gets(run: Run) -> None:
    """`get`, uncached."""
    ids = await run.filled()
    table = run.comparison("One row by its id, uncached")
    calls = {name: by_number(side.get, ids) for name, side in run.sides.items()}
    with run.db.uncached():
        await run.rates(table, "get", calls, *run.sizes.tasks)


async def adds(run: Run) -> None:
    """`add`, each its own commit for the peers."""
    table = run.comparison("Adding one row, committed and returned")
    numbers = count()

    def adding(side: Side) -> Call:
        async def call(_: int) -> object:
            return await side.add(Values(uuid7(), f"{next(numbers)}@example.com", "Ada"))

        return call

    for tasks in run.sizes.tasks:
        if tasks != 4:
            await run.rates(table, "add", {name: adding(side) for name, side in run.sides.items()}, tasks)
            await run.empty()


async def bulk(run: Run) -> None:
    """`add_many`: what is given is made before the clock runs, and the table is empty each time."""
    size = run.sizes.bulk

    async def once(side: Side) -> float:
        await run.empty()
        prepared = side.prepared([Values(uuid7(), f"{n}@example.com", f"User {n}") for n in range(size)])
        return size / await _seconds(partial(side.add_many, prepared))

    table = run.comparison(f"Adding {size:,} rows at once", "rows")
    sides = {name: partial(once, side) for name, side in run.sides.items() if "reset" not in name}
    await run.compare(table, "add_many", 1, sides)


async def finds(run: Run) -> None:
    """`find`, `count`, `exists`."""
    ids = await run.filled(names=ONE_IN)
    page = run.sizes.page
    table = run.comparison(f"Pages of {page} of one in {ONE_IN} of {len(ids):,} rows; counting; asking")
    sides = {name: side for name, side in run.sides.items() if "reset" not in name}
    works: dict[str, Callable[[Side], Call]] = {
        "find": lambda side: lambda number: side.find(f"User {number % ONE_IN}", page),
        "count": lambda side: lambda number: side.count(f"User {number % ONE_IN}"),
        "exists": lambda side: by_number(side.exists, ids),
    }
    for work, call_of in works.items():
        calls = {name: call_of(side) for name, side in sides.items()}
        await run.rates(table, work, calls, *(tasks for tasks in run.sizes.tasks if tasks in {1, 64}))


async def streams(run: Run) -> None:
    """`stream`: every row, in the order of the ids."""
    size = run.sizes.streamed
    await run.generated(size)
    table = run.comparison(f"Streaming {size:,} rows", "rows")

    async def read(side: Side) -> None:
        number = 0
        async with aclosing(side.stream()) as rows:
            async for _ in rows:
                number += 1
        assert number == size, f"{side.name} gave {number} rows"

    async def once(side: Side) -> float:
        return size / await _seconds(partial(read, side))

    # advanced-alchemy has no stream of its own; the ORM's is what its users take.
    sides = {
        name: partial(once, side)
        for name, side in run.sides.items()
        if "reset" not in name and name != "advanced-alchemy"
    }
    await run.compare(table, "stream", 1, sides)


async def depth(run: Run) -> None:
    """Page 1 against a page in the middle; OFFSET for contrast."""
    size, page = run.sizes.deep, run.sizes.page
    await run.generated(size)
    number = size // 2 // page
    before = (number - 1) * page
    cursor: str | None = None
    # A cursor says where, and not how it was come there: large pages lead to it sooner.
    for limit in [1000] * (before // 1000) + [before % 1000] * bool(before % 1000):
        cursor = (await run.db.users.find(limit=limit, after=cursor)).next

    async def ours(after: str | None) -> None:
        assert len((await run.db.users.find(limit=page, after=after)).items) == page

    async def offset(side: Side, start: int) -> None:
        assert len(await side.offset(start, page)) == page

    #: By side, the first page and the deep one.
    calls: dict[str, tuple[Read, Read]] = {f"{OURS}, by cursor": (partial(ours, None), partial(ours, cursor))}
    for name, peer in run.peers.items():
        if "reset" not in name:
            calls[f"{name}, by OFFSET"] = (partial(offset, peer, 0), partial(offset, peer, before))

    given: dict[str, list[float]] = {f"{side}, {which}": [] for side in calls for which in ("first", "deep")}
    for _ in range(run.sizes.rounds):
        for side, pages in calls.items():
            first, deep = await _by_turns(pages, run.sizes.seconds)
            given[f"{side}, first"].append(first * 1000)
            given[f"{side}, deep"].append(deep * 1000)
    compared = Comparison(given)
    table = run.table(
        f"Page {number:,} of {page} rows against page 1, of {size:,} rows",
        "side",
        "page 1, ms",
        f"page {number:,}, ms",
        "times as long",
        "rounds",
        "target",
    )
    for side in calls:
        cells = compared.cells(f"{side}, first", f"{side}, deep", digits=2)
        table.row(side, *cells, f"at most {DEEP}" if side.startswith(OURS) else "")


async def _by_turns(pages: tuple[Read, Read], seconds: float) -> tuple[float, float]:
    """Return the median seconds of each, read one after the other, so that both meet the same load."""
    end = time.perf_counter() + seconds
    took = [(await _seconds(pages[0]), await _seconds(pages[1]))]
    while time.perf_counter() < end:
        took.append((await _seconds(pages[0]), await _seconds(pages[1])))
    return statistics.median(first for first, _ in took), statistics.median(deep for _, deep in took)


async def fairness(run: Run) -> None:
    """Many tasks on few connections: nobody fails, and nobody waits much longer than the others."""
    tasks = max(run.sizes.tasks)
    ids = await run.filled(names=ONE_IN)
    table = run.table(
        f"{tasks} tasks on {POOL} connections",
        "work",
        "side",
        "calls",
        "failed",
        "median, ms",
        "p99, ms",
        "longest, ms",
        "p99 by median",
        "target",
    )
    sides = {name: side for name, side in run.sides.items() if name in {OURS, "asyncpg"}}
    added = count()
    works: dict[str, Callable[[Side], Call]] = {
        "get": lambda side: by_number(side.get, ids),
        "find": lambda side: lambda number: side.find(f"User {number % ONE_IN}", run.sizes.page),
        "exists": lambda side: by_number(side.exists, ids),
        "add": lambda side: lambda _: side.add(Values(uuid7(), f"new{next(added)}@example.com", "Ada")),
        "update": lambda side: by_number(partial(side.update, name="Ada"), ids),
    }
    each_kind = tuple(works.values())

    def mixed(side: Side) -> Call:
        calls = [call_of(side) for call_of in each_kind]
        return lambda number: calls[number % len(calls)](number // len(calls))

    works["all of them"] = mixed
    seconds = run.sizes.fair_seconds / run.sizes.rounds
    # Full collections stop all callers at once, the longer the more was there before; a service that
    # minds its p99 does this too, once it has started.
    gc.collect()
    gc.freeze()
    with run.db.uncached():
        for work, call_of in works.items():
            calls = {name: call_of(side) for name, side in sides.items()}
            took: dict[str, list[float]] = {name: [] for name in calls}
            failed = dict.fromkeys(calls, 0)
            for call in calls.values():
                await latencies(call, tasks=tasks, seconds=seconds / 5)  # opens what is opened once
            for _ in range(run.sizes.rounds):
                for name, call in calls.items():
                    each, failures = await latencies(call, tasks=tasks, seconds=seconds)
                    took[name] += each
                    failed[name] += failures
            for name, each in took.items():
                each.sort()
                median, p99 = (each[int(len(each) * part)] for part in (0.5, 0.99))
                table.row(
                    work,
                    name,
                    f"{len(each):,}",
                    failed[name],
                    *(f"{took_by * 1000:.1f}" for took_by in (median, p99, each[-1])),
                    f"{p99 / median:.2f}",
                    f"at most {UNFAIR}, and none failed" if name == OURS else "",
                )
    gc.unfreeze()


SECTIONS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "get": gets,
    "add": adds,
    "bulk": bulk,
    "find": finds,
    "stream": streams,
    "depth": depth,
    "fairness": fairness,
}


async def _seconds(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def measure(
    settings: Settings, sizes: Sizes, names: Collection[str] = SECTIONS, *, advanced_alchemy: bool
) -> list[str]:
    """Measure the sections of these names and return the report's lines."""
    async with MultiDB(settings) as db, peers(settings, advanced_alchemy=advanced_alchemy) as others:
        run = Run(sizes, db, others)
        for name in names:
            await run.empty()
            await SECTIONS[name](run)
        answer = await db.postgres.ask(operation="benchmark")
        on = machine(f"PostgreSQL {answer.version}")
        return run.lines(f"{on}; {sizes.rounds} rounds of {sizes.seconds} s.")


_HEAD = (
    "# PostgreSQL, against its drivers",
    "",
    "Written by `make bench`, which measures all sides in turn, in one process, on the same server and",
    "table. Medians of the rounds, and `ratio` of the medians; `rounds` tells the lowest and the highest",
    "ratio of a round. What each side does and gives stands in `benchmarks/sides.py`.",
)

if __name__ == "__main__":
    command(
        __doc__,
        partial(measure, advanced_alchemy=find_spec("advanced_alchemy") is not None),
        sections=SECTIONS,
        sizes=Sizes(),
        quick=QUICK,
        written=WRITTEN,
        head=_HEAD,
        peers=("advanced_alchemy",),
    )
