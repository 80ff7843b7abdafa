"""How sides are measured: in turn, in one process, on the same servers, several rounds of each."""

import argparse
import asyncio
import gc
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import ClassVar, Generic, TypeAlias, TypeVar
from uuid import UUID

from multidb.ops import migrations
from multidb.settings import Settings
from multidb.testing import empty_database, isolated, servers

__all__ = [
    "OURS",
    "Call",
    "Comparison",
    "Lengths",
    "Report",
    "Table",
    "by_number",
    "command",
    "in_turn",
    "latencies",
    "machine",
    "on_servers",
    "parser",
    "rate",
]

#: The side that all others are compared with.
OURS = "ours"

#: One call of a side; the number is another one each time.
Call: TypeAlias = Callable[[int], Awaitable[object]]

#: One measurement of a side.
Measurement: TypeAlias = Callable[[], Awaitable[float]]


class Table:
    """A table of the report: printed row by row as it is measured, and kept."""

    def __init__(self, title: str, *columns: str) -> None:
        self.lines = [f"## {title}", ""]
        print(f"\n{self.lines[0]}\n")
        self.row(*columns)
        self.row(*("---" for _ in columns))

    def row(self, *cells: object) -> None:
        """Add a row."""
        self.lines.append(f"| {' | '.join(map(str, cells))} |")
        print(self.lines[-1], flush=True)


@dataclass(frozen=True)
class Lengths:
    """How long each measurement takes, in seconds, and how many there are of each."""

    seconds: float = 0.7
    rounds: int = 5


LengthsT = TypeVar("LengthsT", bound=Lengths)


@dataclass
class Report(Generic[LengthsT]):
    """The tables of a run, in their order, and the comparisons that fill them."""

    #: What is to be reached: by work, tasks and peer, the ratio.
    targets: ClassVar[Mapping[tuple[str, int, str], float]] = {}

    sizes: LengthsT
    tables: list[Table] = field(default_factory=list, init=False)

    def table(self, title: str, *columns: str) -> Table:
        """Begin a table."""
        self.tables.append(Table(title, *columns))
        return self.tables[-1]

    def comparison(self, title: str, of: str = "calls") -> Table:
        """Begin a table of rates."""
        return self.table(
            title, "work", "tasks", "against", f"its {of}/s", f"our {of}/s", "ratio", "rounds", "target"
        )

    async def compare(self, table: Table, work: str, tasks: int, measured: Mapping[str, Measurement]) -> None:
        """Measure sides in turn, and add a row for each peer."""
        compared = Comparison(await in_turn(measured, rounds=self.sizes.rounds))
        for peer in compared.peers:
            target = self.targets.get((work, tasks, peer))
            reach = "" if target is None else f"at least {target}"
            table.row(work, tasks, peer, *compared.cells(peer), reach)

    async def rates(self, table: Table, work: str, calls: Mapping[str, Call], *tasks: int) -> None:
        """Measure a call of every side with these numbers of tasks."""
        seconds = self.sizes.seconds
        for number in tasks:
            for call in calls.values():
                await rate(call, tasks=number, seconds=seconds / 5)  # opens what is opened once
            sides = {name: partial(rate, call, tasks=number, seconds=seconds) for name, call in calls.items()}
            await self.compare(table, work, number, sides)

    def lines(self, measured: str) -> list[str]:
        """Return the lines of all tables, after one that says how they were measured."""
        return [measured, *(line for table in self.tables for line in ("", *table.lines))]


async def rate(call: Call, *, tasks: int, seconds: float) -> float:
    """Return how many calls a second so many tasks make, each one after the other."""
    numbers = count()
    done = 0
    began = time.perf_counter()
    end = began + seconds

    async def work() -> None:
        nonlocal done
        while True:  # once at least, lest a busy machine make it a rate of nothing
            await call(next(numbers))
            done += 1
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*(work() for _ in range(tasks)))
    return done / (time.perf_counter() - began)


async def latencies(call: Call, *, tasks: int, seconds: float) -> tuple[list[float], int]:
    """Return the seconds each call took, and how many calls failed."""
    numbers = count()
    took: list[float] = []
    failed = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal failed
        began = time.perf_counter()
        while began < end:
            try:
                await call(next(numbers))
            except Exception:  # whatever it is, it is counted
                failed += 1
            ended = time.perf_counter()
            took.append(ended - began)
            began = ended

    await asyncio.gather(*(work() for _ in range(tasks)))
    return took, failed


async def in_turn(sides: Mapping[str, Measurement], *, rounds: int) -> dict[str, list[float]]:
    """Return what each side's measurement gave in each round; each round begins with another side.

    What there is before a measurement is left out of the garbage collections during it: all of it would
    be looked at again, now and then, at the cost of whoever has its turn.
    """
    names = list(sides)
    given: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            gc.collect()
            gc.freeze()
            given[name].append(await sides[name]())
    return given


class Comparison:
    """What the sides gave, one of which is ours."""

    def __init__(self, given: Mapping[str, Sequence[float]]) -> None:
        self._given = given

    @property
    def peers(self) -> list[str]:
        """All but ours."""
        return [name for name in self._given if name != OURS]

    def cells(self, peer: str, ours: str = OURS, *, digits: int = 0) -> list[str]:
        """Return both medians, ours by the peer's, and the lowest and highest ratio of a round."""
        theirs, own = self._given[peer], self._given[ours]
        each = [mine / other for mine, other in zip(own, theirs, strict=True)]
        medians = statistics.median(theirs), statistics.median(own)
        return [
            *(f"{median:,.{digits}f}" for median in medians),
            f"{medians[1] / medians[0]:.2f}",
            f"{min(each):.2f} to {max(each):.2f}",
        ]


def by_number(call: Callable[[UUID], Awaitable[object]], ids: Sequence[UUID]) -> Call:
    """Return what calls with one id after the other, from the start again after the last."""
    return lambda number: call(ids[number % len(ids)])


def machine(server: str) -> str:
    """Return in a line what it was measured on."""
    load = f"load average {os.getloadavg()[1]:.1f}"  # above the cores, others were at work too
    return f"{os.cpu_count()} cores, {load}, {server}, Python {platform.python_version()}"


def on_servers(measure: Callable[[Settings], Awaitable[None]]) -> None:
    """Start servers, or take those of MULTIDB_TEST_*_URL; measure in a database of its own; drop it."""

    async def run(template: Settings) -> None:
        async with isolated(template) as settings:
            await measure(settings)

    with servers() as admin, empty_database(admin) as template:
        migrations.upgrade(template)
        asyncio.run(run(template))


def parser(description: str | None, *, seconds: float | None, rounds: int | None) -> argparse.ArgumentParser:
    """Return a parser of what the command line of every benchmark takes."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--seconds", type=float, default=seconds, help="how long each measurement takes")
    made.add_argument("--rounds", type=int, default=rounds, help="how many of each")
    return made


def command(
    description: str | None,
    measure: Callable[[Settings, LengthsT, Collection[str]], Awaitable[list[str]]],
    *,
    sections: Collection[str],
    sizes: LengthsT,
    quick: LengthsT,
    written: Path,
    head: Sequence[str],
    peers: Sequence[str] = (),
) -> None:
    """Run a benchmark as its command line says: measure the sections, print, and write it down if asked to.

    `head` are the lines above the report in the file `written`; `peers` are packages that are left out
    where they are not installed.
    """
    arguments = parser(description, seconds=None, rounds=None)
    arguments.add_argument("--quick", action="store_true", help="less of everything")
    arguments.add_argument("--only", action="append", choices=sections, help="only this; may be repeated")
    arguments.add_argument("--write", action="store_true", help=f"write it to docs/{written.name}")
    given = arguments.parse_args()
    if given.write and given.only:
        arguments.error("--write takes a whole run, without --only")
    chosen = quick if given.quick else sizes
    chosen = replace(chosen, seconds=given.seconds or chosen.seconds, rounds=given.rounds or chosen.rounds)
    for name in peers:
        if find_spec(name) is None:
            print(f"{name} is not installed and left out; `make bench` installs it")

    lines: list[str] = []

    async def run(settings: Settings) -> None:
        lines.extend(await measure(settings, chosen, given.only or sections))

    on_servers(run)
    if given.write:
        written.write_text("\n".join([*head, "", *lines, ""]), encoding="utf-8")
