"""MongoDB's log pipeline against Motor, PyMongo Async and Beanie.

    .venv/bin/python benchmarks/mongo.py [--quick] [--write]
    .venv/bin/python benchmarks/mongo.py --only append --seconds 2 --rounds 9

All sides are measured in turn, in one process, on the same server and collection; each round begins
with another side. A table gives the medians of the rounds, the ratio of the medians, and the lowest
and highest ratio of a round. What each side does stands in `benchmarks/mongo_sides.py`.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import cast

from benchmarks.measuring import (
    OURS,
    Lengths,
    Report,
    command,
    machine,
)
from benchmarks.mongo_sides import COLLECTION, Driver, Ours, Side, fields, peers
from multidb import MultiDB, SystemLog
from multidb.ops import schemas
from multidb.settings import Settings

WRITTEN = Path(__file__).parents[1] / "docs" / "benchmarks-mongo.md"

#: What DESIGN asks for: by work, tasks and peer, the ratio to reach.
TARGETS = {("append", 64, "Motor"): 15, ("emit", 1, "Motor"): 0.8}
EMIT_MICROSECONDS = 10
EMIT_MEBIBYTES = 64


@dataclass(frozen=True)
class Sizes(Lengths):
    """How much of everything."""

    seconds: float = 1.0
    tasks: tuple[int, ...] = (1, 16, 64, 256)
    #: For how long entries are emitted, all rounds together, and inserted by the drivers.
    sustained: float = 30.0
    #: How many times a hundred emits are timed.
    hundreds: int = 200


QUICK = Sizes(seconds=0.2, rounds=1, tasks=(1, 64), sustained=3.0, hundreds=50)


@dataclass
class Run(Report[Sizes]):
    """One run: who is measured, how much, and what has been found."""

    targets = TARGETS

    db: MultiDB
    peers: Mapping[str, Side]

    @property
    def sides(self) -> dict[str, Side]:
        """The peers and ours."""
        return {**self.peers, OURS: Ours(self.db)}

    async def empty(self) -> None:
        """Leave no entry. Deleting millions one by one takes longer than a call may."""
        await self.db.mongo.database.drop_collection(COLLECTION)
        await schemas.apply(self.db.settings)


async def appends(run: Run) -> None:
    """`append`, each acknowledged by itself."""
    table = run.comparison("Storing one entry, acknowledged", "entries")
    for tasks in run.sizes.tasks:
        await run.rates(table, "append", {name: side.append for name, side in run.sides.items()}, tasks)
        await run.empty()


async def emits(run: Run) -> None:
    """`emit`, sustained: what is stored in the end counts, and the models are made within the time."""
    table = run.comparison("Emitting without end, against inserting 1,000 at a time", "entries")
    seconds = run.sizes.sustained / run.sizes.rounds
    base, peak = _resident(), [0.0]

    async def ours() -> float:
        return await _emitted(run.db, seconds, peak)

    async def theirs(driver: Driver) -> float:
        numbers = count()
        stored = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            await driver.insert_many(next(numbers) * 1000, 1000)
            stored += 1000
        return stored / (time.perf_counter() - began)

    drivers = {name: side for name, side in run.peers.items() if isinstance(side, Driver)}
    measured: dict[str, Callable[[], Awaitable[float]]] = {
        name: partial(theirs, side) for name, side in drivers.items()
    }
    await run.compare(table, "emit", 1, {**measured, OURS: ours})
    peak_of_own = peak[0] - base
    await run.empty()

    table = run.table("What emitting costs", "of", "took", "target")
    table.row(
        "one call on the event loop, median",
        f"{await _call_cost(run.db, run.sizes.hundreds):.1f} µs",
        f"under {EMIT_MICROSECONDS}",
    )
    table.row("memory above the base, at MongoDB's pace", f"{peak_of_own:.0f} MiB", f"under {EMIT_MEBIBYTES}")
    base, peak[0] = _resident(), 0.0
    before = run.db.system_logs.emitted
    await _emitted(run.db, min(seconds, 6), peak, heedless=True)
    after = run.db.system_logs.emitted
    table.row(
        "the same, faster than MongoDB takes them", f"{peak[0] - base:.0f} MiB", f"under {EMIT_MEBIBYTES}"
    )
    emitted = after.emitted - before.emitted
    shed = sum(after.shed.values()) - sum(before.shed.values())
    table.row("of these emitted, shed", f"{emitted:,}, {shed:,}", "")


async def finds(run: Run) -> None:
    """`find` of 1,000."""
    drivers = next(side for side in run.peers.values() if isinstance(side, Driver))
    for start in range(0, 5000, 1000):
        await drivers.insert_many(start, 1000)
    table = run.comparison("The newest 1,000 of 5,000 entries", "entries")
    await run.rates(table, "find", {name: side.find for name, side in run.sides.items()}, 1)


SECTIONS: dict[str, Callable[[Run], Awaitable[None]]] = {"append": appends, "emit": emits, "find": finds}


async def _emitted(db: MultiDB, seconds: float, peak: list[float], *, heedless: bool = False) -> float:
    """Emit for so long; return how many a second were stored, the draining included."""
    logs = db.system_logs
    before = logs.emitted.stored
    most = db.settings.log_buffer_entries // 2
    numbers = count()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(200):
            logs.emit(SystemLog(**fields(next(numbers))))
        peak[0] = max(peak[0], _resident())
        # As fast as it is stored; or only so that others have their turn.
        while logs.emitted.pending > most and not heedless:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        await asyncio.sleep(0)
    while logs.emitted.pending:
        peak[0] = max(peak[0], _resident())
        await asyncio.sleep(0.002)  # a sample each time
    return (logs.emitted.stored - before) / (time.perf_counter() - began)


async def _call_cost(db: MultiDB, hundreds: int) -> float:
    """Return the microseconds one `emit` takes, the median of so many hundreds of calls."""
    took = []
    for _ in range(hundreds):
        entries = [SystemLog(**fields(number)) for number in range(100)]
        began = time.perf_counter()
        for entry in entries:
            db.system_logs.emit(entry)
        took.append((time.perf_counter() - began) / len(entries))
        # Fewer than fill a round trip, so that nothing is stored while others are timed.
        while db.system_logs.emitted.pending > 800:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return statistics.median(took) * 1e6


def _resident() -> float:
    """Return the memory this process takes, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(
    settings: Settings, sizes: Sizes, names: Collection[str] = SECTIONS, *, beanie: bool
) -> list[str]:
    """Measure the sections of these names and return the report's lines."""
    async with MultiDB(settings) as db, peers(settings, beanie=beanie) as others:
        run = Run(sizes, db, others)
        for name in names:
            await run.empty()
            await SECTIONS[name](run)
        answer = await db.mongo.ask(operation="benchmark")
        on = f"MongoDB {answer.version}, ours on {cast(str, settings.mongo_driver)}"
        return run.lines(f"{machine(on)}; {sizes.rounds} rounds of {sizes.seconds} s.")


_HEAD = (
    "# MongoDB, against its drivers",
    "",
    "Written by `benchmarks/mongo.py --write`, which measures all sides in turn, in one process, on the",
    "same server and collection. Medians of the rounds, and `ratio` of the medians; `rounds` tells the",
    "lowest and the highest ratio of a round. What each side does stands in `benchmarks/mongo_sides.py`.",
)

if __name__ == "__main__":
    command(
        __doc__,
        partial(measure, beanie=find_spec("beanie") is not None),
        sections=SECTIONS,
        sizes=Sizes(),
        quick=QUICK,
        written=WRITTEN,
        head=_HEAD,
        peers=("beanie",),
    )
