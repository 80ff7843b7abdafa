"""Processes that call at the same time, under limits of all algorithms: how many calls are admitted."""

import asyncio
import json
import sys
from collections import Counter
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from typing import Any
from uuid import UUID

from multidb import MultiDB, Rate
from multidb.models.rate_limits import Algorithm
from multidb.settings import Settings

ALGORITHMS: tuple[Algorithm, ...] = ("gcra", "sliding_window", "fixed_window")


async def call_all(order: dict[str, Any]) -> Counter[str]:
    """Call as often as the limit allows, under each."""
    admitted: Counter[str] = Counter()

    async def call(algorithm: Algorithm) -> None:
        rate = Rate(order["limit"], per=timedelta(days=300), algorithm=algorithm)
        decision = await db.rate_limits.hit(UUID(order["user"]), algorithm, rate)
        admitted[algorithm] += decision.allowed

    async with MultiDB(Settings(_env_file=None, **order["settings"])) as db:
        await asyncio.gather(*(call(each) for _ in range(order["limit"]) for each in ALGORITHMS))
    return admitted


def run(order: dict[str, Any], _: int) -> Counter[str]:
    return asyncio.run(call_all(order))


if __name__ == "__main__":
    # Forked, for they all need the same modules.
    with get_context("fork").Pool(4) as pool:
        found = pool.map(partial(run, json.loads(sys.argv[1])), range(4), chunksize=1)
    print(json.dumps(found))
