"""The outbox: how fast a relay delivers, how soon an effect follows its commit, what it costs the commit.

    .venv/bin/python benchmarks/outbox.py [--quick] [--write]
    .venv/bin/python benchmarks/outbox.py --only rate --rounds 5

One relay, in this process, beside the servers of the same machine. The kinds of effects are measured
alone, for they cost differently.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

# First of all, for it takes this folder off the path, where `redis.py` would be taken for redis-py.
import benchmarks  # noqa: F401, I001

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Lengths, Report, command, machine
from multidb import (
    LogLevel,
    MultiDB,
    NewDocumentMetadata,
    NewUser,
    RealtimeEvent,
    SystemLog,
    Transaction,
    uuid7,
)
from multidb.ops import schemas
from multidb.settings import Settings

WRITTEN = Path(__file__).parents[1] / "docs" / "benchmarks-outbox.md"

#: What is asked for: effects a second, and the median delay in milliseconds where nothing else is done.
RATE, DELAY = 5_000, 50


@dataclass(frozen=True)
class Sizes(Lengths):
    """How much of everything."""

    rounds: int = 3
    effects: int = 20_000
    delays: int = 200
    commits: int = 300


QUICK = Sizes(rounds=1, effects=2_000, delays=30, commits=50)

Tell = Callable[[Transaction, int], object]


def _log(tx: Transaction, number: int) -> object:
    return tx.system_logs.append(
        SystemLog(level=LogLevel.INFO, service="bench", message="measured", context={"n": number})
    )


def _event(tx: Transaction, number: int) -> object:
    return tx.realtime_events.publish(
        RealtimeEvent(channel=f"c{number % 500}", kind="k", payload={"n": number})
    )


def _metadata(tx: Transaction, number: int) -> object:
    return tx.document_metadata.put(NewDocumentMetadata(id=uuid7(), company_id=uuid7()), version=1 + number)


def _sessions(tx: Transaction, _: int) -> object:
    return tx.sessions.revoke_all(uuid7())


def _mixed(tx: Transaction, number: int) -> object:
    return (_log, _event, _log, _sessions)[number % 4](tx, number)


KINDS: dict[str, Tell] = {
    "entries appended": _log,
    "events published, in 500 channels": _event,
    "sessions of users revoked": _sessions,
    "these mixed: half entries, a quarter each of the others": _mixed,
    "documents put, each behind its fence": _metadata,
}


@dataclass
class Run(Report[Sizes]):
    """One run: how much, and what has been found."""

    db: MultiDB


async def rates(run: Run) -> None:
    """Deliver what waits already."""
    table = run.table("Delivering what waits", "effects", "a second", "rounds", "target")
    for name, tell in KINDS.items():
        measured = [await _rate(run.db, tell, run.sizes.effects) for _ in range(run.sizes.rounds)]
        target = f"at least {RATE:,}" if tell is _mixed else ""
        spread = f"{min(measured):,.0f} to {max(measured):,.0f}"
        table.row(name, f"{statistics.median(measured):,.0f}", spread, target)


async def _rate(db: MultiDB, tell: Tell, effects: int) -> float:
    """Return how many effects a second are delivered of those that wait already."""
    for start in range(0, effects, 1000):
        async with db.transaction() as tx:
            for number in range(start, min(start + 1000, effects)):
                tell(tx, number)
    began = time.perf_counter()
    db.relay.start()
    while await db.outbox.find(limit=1):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)
    took = time.perf_counter() - began
    await db.relay.close()
    return effects / took


async def delays(run: Run) -> None:
    """From the commit to the effect, with nothing else to do."""
    table = run.table(
        "From the commit to the effect, seen by a subscriber, in milliseconds", "p50", "p99", "target"
    )
    measured = []
    run.db.relay.start()
    async with run.db.realtime_events.subscribe("delay") as events:
        for number in range(run.sizes.delays):
            async with run.db.transaction() as tx:
                tx.realtime_events.publish(RealtimeEvent(channel="delay", kind="k", payload={"n": number}))
            began = time.perf_counter()
            await anext(aiter(events))
            measured.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.01)  # one alone each time, and not behind the one before
    await run.db.relay.close()
    measured.sort()
    at = [measured[int(len(measured) * share)] for share in (0.5, 0.99)]
    table.row(*(f"{each:.1f}" for each in at), f"p50 under {DELAY}")


async def costs(run: Run) -> None:
    """What telling costs a transaction."""
    table = run.table(
        "A transaction that changes one row, in microseconds", "effects told", "takes", "more than none"
    )
    user = await run.db.users.add(NewUser(email=f"{uuid7()}@example.com", name="A"))
    took: dict[int, list[float]] = {0: [], 1: [], 10: []}
    for number in range(run.sizes.commits):
        for told, times in took.items():
            began = time.perf_counter()
            async with run.db.transaction() as tx:
                await run.db.users.update(user.id, name=f"{number}")
                for each in range(told):
                    _log(tx, each)
            times.append((time.perf_counter() - began) * 1e6)
    medians = {told: statistics.median(times) for told, times in took.items()}
    for told, cost in medians.items():
        table.row(told, f"{cost:,.0f}", f"{cost - medians[0]:+,.0f}" if told else "")


SECTIONS: dict[str, Callable[[Run], Awaitable[None]]] = {"rate": rates, "delay": delays, "commit": costs}


async def measure(settings: Settings, sizes: Sizes, names: Collection[str] = SECTIONS) -> list[str]:
    """Measure the sections of these names and return the report's lines."""
    await schemas.apply(settings)
    async with MultiDB(settings) as db:
        run = Run(sizes, db)
        for name in names:
            await SECTIONS[name](run)
        answer = await db.mongo.ask(operation="benchmark")
        return run.lines(
            f"{machine(f'MongoDB {answer.version}')}; medians of {sizes.rounds} rounds, one relay."
        )


_HEAD = (
    "# The outbox",
    "",
    "Written by `benchmarks/outbox.py --write`. One relay in the process that measures; what it delivers",
    "waits already, so the rate is the relay's own. The delay is from the end of the transaction's block",
    "until a subscriber of the channel has the event, with nothing else to do.",
)

if __name__ == "__main__":
    command(__doc__, measure, sections=SECTIONS, sizes=Sizes(), quick=QUICK, written=WRITTEN, head=_HEAD)
