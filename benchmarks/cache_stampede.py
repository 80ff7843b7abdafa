"""One process of a stampede: its callers ask for one cold key, all at once, when the word comes."""

import asyncio
import json
import sys
import time

from benchmarks.cache_sides import SIDES
from multidb import MultiDB, User, uuid7
from multidb.models.fields import utc_now
from multidb.settings import Settings

__all__: list[str] = []

SECONDS = 0.2


async def main() -> None:
    """Wait for the word, ask, and tell how often the value was loaded here."""
    order = json.loads(sys.stdin.readline())
    now = utc_now()
    user = User(
        id=uuid7(), created_at=now, updated_at=now, version=1, email="ada@example.com", name="Ada Lovelace"
    )
    loads = 0

    async def loading() -> None:
        nonlocal loads
        loads += 1
        await asyncio.sleep(SECONDS)

    async with (
        MultiDB(Settings(_env_file=None, **order["settings"])) as db,
        SIDES[order["side"]].opened(db, user, loading) as side,
    ):
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        calls = (side.get(-1) for _ in range(order["callers"]))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        took = round((time.perf_counter() - began) * 1000)
    failed = sum(isinstance(answer, BaseException) for answer in answers)
    print(json.dumps({"loads": loads, "failed": failed, "took": took}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
