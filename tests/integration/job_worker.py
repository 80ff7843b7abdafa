"""A process that does jobs; `test_job_torture.py` kills it at times, or lets it stand still."""

import asyncio
import json
import os
import random
import signal
import sys
from datetime import timedelta

import sqlalchemy as sa

from multidb import Handlers, Job, MultiDB, Worker
from multidb.settings import Settings
from multidb.stores.postgres.statements import Statement

handlers = Handlers()

EFFECT = Statement(
    sa.text("INSERT INTO effects (job_id, lease) VALUES (:id, :lease)").bindparams(
        sa.bindparam("id", None, type_=sa.Uuid()), sa.bindparam("lease", None, type_=sa.BigInteger())
    )
)


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    ended = asyncio.Event()
    async with MultiDB(Settings(_env_file=None, **order["settings"])) as db:

        @handlers.job("effect")
        async def effect(job: Job) -> None:
            await asyncio.sleep(random.uniform(0, 0.02))
            async with db.transaction():
                await db.postgres.fetch(EFFECT, {"id": job.id, "lease": job.lease}, operation="effect")
                # With it or not at all: of whoever has lost the job, nothing stands.
                await db.jobs.complete(job)

        @handlers.job("poison")
        async def poison(job: Job) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        worker = Worker(
            db,
            queues=["q"],
            handlers=handlers,
            concurrency=20,
            lease=timedelta(seconds=order["lease"]),
            poll=timedelta(seconds=0.2),
        )
        asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
        print("ready", flush=True)
        working = asyncio.ensure_future(worker.run())
        await ended.wait()
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())
