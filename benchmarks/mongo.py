"""MongoDB's log pipeline against Motor, PyMongo Async and Beanie.

    .venv/bin/python benchmarks/mongo.py [--quick] [--write]
    .venv/bin/python benchmarks/mongo.py --only append --seconds 2 --rounds 9

All sides are measured in turn, in one process, on the same server and collection; each round begins
with another side. A table gives the medians of the rounds, the ratio of the medians, and the lowest
and highest ratio of a round. What each side does stands in `benchmarks/mongo_sides.py`.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

import sys
from pathlib import Path

# As a script it has its own folder first on the path, where `redis.py` would be taken for redis-py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

# ruff: noqa: E402
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from typing import cast

from benchmarks.measuring import OURS, Call, Comparison, Table, in_turn, machine, on_servers, parser, rate
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
class Sizes:
    """How much of everything."""

    seconds: float = 1.0
    rounds: int = 5
    tasks: tuple[int, ...] = (1, 16, 64, 256)
    #: For how long entries are emitted, all rounds together, and inserted by the drivers.
    sustained: float = 30.0
    #: How many times a hundred emits are timed.
    hundreds: int = 200


QUICK = Sizes(seconds=0.2, rounds=1, tasks=(1, 64), sustained=3.0, hundreds=50)


@dataclass
class Run:
    """One run: who is measured, how much, and what has been found."""

    db: MultiDB
    peers: Mapping[str, Side]
    sizes: Sizes
    report: list[Table] = field(default_factory=list)

    @property
    def sides(self) -> dict[str, Side]:
        """The peers and ours."""
        return {**self.peers, OURS: Ours(self.db)}

    def table(self, title: str, *columns: str) -> Table:
        """Begin a table."""
        self.report.append(Table(title, *columns))
        return self.report[-1]

    async def empty(self) -> None:
        """Leave no entry. Deleting millions one by one takes longer than a call may."""
        await self.db.mongo.database.drop_collection(COLLECTION)
        await schemas.apply(self.db.settings)

    async def compare(
        self, table: Table, work: str, tasks: int, measured: Mapping[str, Callable[[], Awaitable[float]]]
    ) -> None:
        """Measure sides in turn, and add a row for each peer."""
        compared = Comparison(await in_turn(measured, rounds=self.sizes.rounds))
        for peer in compared.peers:
            target = TARGETS.get((work, tasks, peer))
            table.row(
                work, tasks, peer, *compared.cells(peer), "" if target is None else f"at least {target}"
            )

    async def rates(self, table: Table, work: str, calls: Mapping[str, Call], *tasks: int) -> None:
        """Measure a call of every side with these numbers of tasks."""
        for number in tasks:
            for call in calls.values():
                await rate(call, tasks=number, seconds=self.sizes.seconds / 5)  # opens what is opened once
            seconds = self.sizes.seconds
            sides = {name: partial(rate, call, tasks=number, seconds=seconds) for name, call in calls.items()}
            await self.compare(table, work, number, sides)


_COLUMNS = ("work", "tasks", "against", "its entries/s", "our entries/s", "ratio", "rounds", "target")


async def appends(run: Run) -> None:
    """`append`, each acknowledged by itself."""
    table = run.table("Storing one entry, acknowledged", *_COLUMNS)
    for tasks in run.sizes.tasks:
        await run.rates(table, "append", {name: side.append for name, side in run.sides.items()}, tasks)
        await run.empty()


async def emits(run: Run) -> None:
    """`emit`, sustained: what is stored in the end counts, and the models are made within the time."""
    table = run.table("Emitting without end, against inserting 1,000 at a time", *_COLUMNS)
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
    table = run.table("The newest 1,000 of 5,000 entries", *_COLUMNS)
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
        await asyncio.sleep(0.002)
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
        run = Run(db, others, sizes)
        for name in names:
            await run.empty()
            await SECTIONS[name](run)
        answer = await db.mongo.ask(operation="benchmark")
        on = f"MongoDB {answer.version}, ours on {cast(str, settings.mongo_driver)}"
        lines = [f"{machine(on)}; {sizes.rounds} rounds of {sizes.seconds} s."]
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
    beanie = find_spec("beanie") is not None
    if not beanie:
        print("Beanie is not installed and left out; `make bench` installs it")

    async def run(settings: Settings) -> None:
        lines = await measure(settings, sizes, given.only or SECTIONS, beanie=beanie)
        if given.write:
            WRITTEN.write_text("\n".join([*_HEAD, *lines, ""]))

    on_servers(run)


_HEAD = [
    "# MongoDB, against its drivers",
    "",
    "Written by `benchmarks/mongo.py --write`, which measures all sides in turn, in one process, on the",
    "same server and collection. Medians of the rounds, and `ratio` of the medians; `rounds` tells the",
    "lowest and the highest ratio of a round. What each side does stands in `benchmarks/mongo_sides.py`.",
    "",
]

if __name__ == "__main__":
    main()
