"""A rollup of API requests: ours, by the server, against logs that are read and added up in Python.

    .venv/bin/python -m benchmarks.analytics                        # 1,000,000 requests of a day
    .venv/bin/python -m benchmarks.analytics --requests 50000

Both make counts, errors and percentiles of each endpoint and hour of the same logs, in one process
and on one server, one after the other. The memory is what the process takes above what it had.
"""

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measuring import Table, on_servers
from multidb import ApiRequestLog, MultiDB
from multidb.settings import Settings

ENDPOINTS = [f"/{name}/{{id}}" for name in ("users", "orders", "carts", "items", "bills", "teams", "files")]
PAGE_SIZE = 4096


def made(count: int, first: datetime) -> Iterator[ApiRequestLog]:
    """Yield so many requests of the day that begins at `first`."""
    chance = random.Random(1)
    for _ in range(count):
        yield ApiRequestLog(
            timestamp=first + timedelta(milliseconds=chance.randrange(86_400_000)),
            service="shop",
            method=chance.choice(("GET", "POST")),
            endpoint=chance.choice(ENDPOINTS),
            status=500 if chance.random() < 0.02 else 200,
            duration_ms=chance.lognormvariate(3, 1),
        )


@asynccontextmanager
async def watched() -> AsyncIterator[list[int]]:
    """Yield the most bytes of memory that the process takes inside the block above what it had."""
    before = resident()
    most = [0]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], resident() - before)
            await asyncio.sleep(0.01)  # a sample each time

    watching = asyncio.create_task(watch())
    try:
        yield most
    finally:
        most[0] = max(most[0], resident() - before)
        watching.cancel()


def resident() -> int:
    """Return how many bytes of memory the process takes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_SIZE


async def in_python(db: MultiDB, first: datetime) -> None:
    """Add up by reading the logs, as a service would that has no pipeline."""
    took: dict[tuple[str, str, datetime], list[float]] = {}
    query = {"timestamp": {"$gte": first, "$lt": first + timedelta(days=1)}}
    fields = {"_id": 0, "timestamp": 1, "method": 1, "endpoint": 1, "status": 1, "duration_ms": 1}
    async for each in db.mongo.database["api_request_logs"].find(query, fields, batch_size=10_000):
        hour = each["timestamp"].replace(minute=0, second=0, microsecond=0)
        took.setdefault((each["method"], each["endpoint"], hour), []).append(each["duration_ms"])
    for values in took.values():
        values.sort()


async def measure(settings: Settings, requests: int) -> None:
    """Store the logs and print what each way takes."""
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    last = first + timedelta(days=1)
    table = Table(f"{requests:,} requests of a day", "", "seconds", "MiB above the base")
    async with MultiDB(settings) as db:
        logs = db.api_request_logs
        began = time.perf_counter()
        await logs.append_many(made(requests, first))
        table.row("(append_many)", f"{time.perf_counter() - began:.1f}", "")
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            "rollup": lambda: logs.rollup(since=first),
            "rollup again": lambda: logs.rollup(since=first),
            "range of the logs, by hour": lambda: logs.range(first, last),
            "range of the rollup, by hour": lambda: logs.range(first, last, rolled=True),
            "top by p95, of the logs": lambda: logs.top(first, last, order_by="p95_ms"),
            "top by p95, of the rollup": lambda: logs.top(first, last, order_by="p95_ms", rolled=True),
            "read and added up in Python": lambda: in_python(db, first),
        }
        for name, way in ways.items():
            async with watched() as most:
                began = time.perf_counter()
                await way()
                seconds = time.perf_counter() - began
            table.row(name, f"{seconds:.2f}", f"{most[0] / 2**20:.1f}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many are rolled up")
    given = parser.parse_args()
    on_servers(lambda settings: measure(settings, given.requests))


if __name__ == "__main__":
    main()
