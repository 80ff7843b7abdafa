"""The outbox: how fast a relay delivers, how soon an effect follows its commit, what it costs the commit.

    .venv/bin/python benchmarks/outbox.py [--quick] [--write]

One relay, in this process: what is committed and what is delivered share one core, so that the rates
here are those of a small machine. Each effect is one transaction of MongoDB, or one message shared with
others, or one script of Redis; the kinds are measured alone, for they cost differently.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

import sys
from pathlib import Path

# As a script it has its own folder first on the path, where `redis.py` would be taken for redis-py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

# ruff: noqa: E402
import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.measuring import Table, machine, on_servers, parser
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
class Sizes:
    """How much of everything."""

    effects: int = 20_000
    rounds: int = 3
    delays: int = 200
    commits: int = 300


QUICK = Sizes(effects=2_000, rounds=1, delays=30, commits=50)

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


async def _delays(db: MultiDB, count: int) -> list[float]:
    """Return how many milliseconds after its commit each effect is seen; nothing else is done meanwhile."""
    delays = []
    db.relay.start()
    async with db.realtime_events.subscribe("delay") as events:
        for number in range(count):
            async with db.transaction() as tx:
                tx.realtime_events.publish(RealtimeEvent(channel="delay", kind="k", payload={"n": number}))
            began = time.perf_counter()
            await anext(aiter(events))
            delays.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.01)
    await db.relay.close()
    return sorted(delays)


async def _costs(db: MultiDB, commits: int) -> dict[int, float]:
    """Return how many microseconds a transaction takes that changes one row and tells so many effects."""
    user = await db.users.add(NewUser(email=f"{uuid7()}@example.com", name="A"))
    took: dict[int, list[float]] = {0: [], 1: [], 10: []}
    for number in range(commits):
        for told, times in took.items():
            began = time.perf_counter()
            async with db.transaction() as tx:
                await db.users.update(user.id, name=f"{number}")
                for each in range(told):
                    _log(tx, each)
            times.append((time.perf_counter() - began) * 1e6)
    return {told: statistics.median(times) for told, times in took.items()}


async def measure(settings: Settings, sizes: Sizes) -> list[str]:
    """Measure everything and return the report's lines."""
    await schemas.apply(settings)
    async with MultiDB(settings) as db:
        answer = await db.mongo.ask(operation="benchmark")
        lines = [f"{machine(f'MongoDB {answer.version}')}; medians of {sizes.rounds} rounds, one relay."]
        table = Table("Delivering what waits", "effects", "a second", "rounds", "target")
        for name, tell in KINDS.items():
            effects = sizes.effects // (10 if tell is _metadata else 1)
            rates = [await _rate(db, tell, effects) for _ in range(sizes.rounds)]
            target = f"at least {RATE:,}" if tell is _mixed else ""
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            table.row(name, f"{statistics.median(rates):,.0f}", spread, target)
        lines += ["", *table.lines]
        delays = await _delays(db, sizes.delays)
        table = Table(
            "From the commit to the effect, seen by a subscriber, in milliseconds", "p50", "p99", "target"
        )
        at = [delays[int(len(delays) * share)] for share in (0.5, 0.99)]
        table.row(*(f"{each:.1f}" for each in at), f"p50 under {DELAY}")
        lines += ["", *table.lines]
        costs = await _costs(db, sizes.commits)
        table = Table(
            "A transaction that changes one row, in microseconds", "effects told", "takes", "more than none"
        )
        for told, cost in costs.items():
            table.row(told, f"{cost:,.0f}", f"{cost - costs[0]:+,.0f}" if told else "")
        lines += ["", *table.lines]
        return lines


def main() -> None:
    """Measure, print, and write it down if asked to."""
    arguments = parser(__doc__, seconds=None, rounds=None)
    arguments.add_argument("--quick", action="store_true", help="less of everything")
    arguments.add_argument("--write", action="store_true", help=f"write it to docs/{WRITTEN.name}")
    given = arguments.parse_args()
    sizes = QUICK if given.quick else Sizes()
    sizes = replace(sizes, rounds=given.rounds or sizes.rounds)

    async def run(settings: Settings) -> None:
        lines = await measure(settings, sizes)
        if given.write:
            WRITTEN.write_text("\n".join([*_HEAD, *lines, ""]))

    on_servers(run)


_HEAD = [
    "# The outbox",
    "",
    "Written by `benchmarks/outbox.py --write`. One relay in the process that measures; what it delivers",
    "waits already, so the rate is the relay's own. The delay is from the end of the transaction's block",
    "until a subscriber of the channel has the event, with nothing else to do.",
    "",
]

if __name__ == "__main__":
    main()
