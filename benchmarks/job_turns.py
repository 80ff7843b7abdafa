"""How long the jobs of others wait beside a company that has nine tenths of a long queue."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from multidb import Job, MultiDB, NewCompany, NewJob, Worker, uuid7

__all__ = ["turns"]

_QUEUE = "turns"
#: What each job takes, how many at a time, and the pause between two of the others, in seconds.
_TAKES = 0.02
_CONCURRENCY = 10
_PAUSE = 0.05


async def turns(db: MultiDB, *, backlog: int, number: int) -> tuple[list[float], list[float], int]:
    """Return the seconds from enqueueing to the start of the handler, sorted, of so many jobs of others.

    First in a queue that is empty but for them, then with `backlog` jobs in it: nine tenths are one
    company's, and a tenth theirs, for later. And how many of the one company's were left in the end.
    """
    new = [NewCompany(name="C", slug=uuid7().hex) for _ in range(10)]
    await db.companies.add_many(new)
    big, *others = (each.id for each in new)
    started: dict[UUID, float] = {}

    async def work(job: Job) -> None:
        started[job.id] = time.perf_counter()
        await asyncio.sleep(_TAKES)

    async def waits(number: int) -> list[float]:
        enqueued: dict[UUID, float] = {}
        for n in range(number):
            job = NewJob(queue=_QUEUE, kind="k", payload={}, company_id=others[n % len(others)])
            enqueued[job.id] = time.perf_counter()
            await db.jobs.enqueue(job)
            await asyncio.sleep(_PAUSE)
        async with asyncio.timeout(60):
            while not enqueued.keys() <= started.keys():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_PAUSE)
        return sorted(started[id] - at for id, at in enqueued.items())

    worker = Worker(db, queues=[_QUEUE], handlers={"k": work}, concurrency=_CONCURRENCY, fair=True)
    async with _working(worker):
        await waits(5)
        alone = await waits(number)
        later = datetime.now(UTC) + timedelta(hours=1)
        await db.jobs.enqueue_many(
            NewJob(queue=_QUEUE, kind="k", payload={}, company_id=big)
            if n % 10
            else NewJob(queue=_QUEUE, kind="k", payload={}, company_id=others[n // 10 % 9], run_at=later)
            for n in range(backlog)
        )
        among = await waits(number)
        left = await db.jobs.count(queue=_QUEUE, company_id=big, state="available")
    return alone, among, left


@asynccontextmanager
async def _working(worker: Worker) -> AsyncIterator[None]:
    running = asyncio.ensure_future(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await running
