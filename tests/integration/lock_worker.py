"""A process that edits documents under locks; `test_lock_torture.py` lets it stand still at times."""

import asyncio
import contextlib
import json
import os
import random
import sys
from collections import Counter
from datetime import timedelta
from uuid import UUID

from multidb import ConflictError, LockLostError, LockNotAcquiredError, MultiDB
from multidb.settings import Settings


async def edit(
    db: MultiDB, ids: list[UUID], ttl: timedelta, ended: asyncio.Event, counts: Counter[str]
) -> None:
    """Take locks and write, as one who does not look whether the lock is lost meanwhile."""
    while not ended.is_set():
        id = random.choice(ids)
        holder = f"{db.settings.key_prefix}holder:{id}"
        try:
            async with db.locks.document(id, ttl=ttl, wait=ttl * 4, fair=random.random() < 0.3) as lock:
                await db.redis.client.set(holder, os.getpid())
                await asyncio.sleep(random.uniform(0, 0.02))
                # Once it has begun, losing the lock does not keep it from landing.
                write = asyncio.ensure_future(
                    db.documents.update(id, title=str(lock.fence), fence=lock.fence)
                )
                try:
                    await asyncio.shield(write)
                    counts["written"] += 1
                except asyncio.CancelledError:
                    with contextlib.suppress(ConflictError):
                        await write
                    raise
                await db.redis.client.delete(holder)
        except LockLostError:
            counts["lost"] += 1
        except LockNotAcquiredError:
            counts["not acquired"] += 1
        except ConflictError:
            counts["refused"] += 1


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    counts: Counter[str] = Counter()
    ended = asyncio.Event()
    async with MultiDB(Settings(_env_file=None, **order["settings"])) as db:
        asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
        print("ready", flush=True)
        ids = [UUID(id) for id in order["ids"]]
        ttl = timedelta(seconds=order["ttl"])
        await asyncio.gather(*(edit(db, ids, ttl, ended, counts) for _ in range(order["tasks"])))
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
