"""What each side does with jobs: enqueue them, drain a queue of no-ops, and start what comes one by one."""

import asyncio
import importlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import asyncpg

from benchmarks.measuring import OURS
from multidb import Job, MultiDB, NewJob, Worker
from multidb.settings import Settings
from multidb.stores.postgres.engine import dsn

__all__ = ["POOL", "Ours", "Side", "peers"]

#: Connections of each side.
POOL = 10
#: A time to compare with comes with each job whose start is measured.
_ENQUEUED = "enqueued"


class Side(ABC):
    """A queue, its connections open."""

    name: str

    def __init__(self) -> None:
        #: Jobs done, and how many seconds each waited, where it says when it was enqueued.
        self.done = 0
        self.waits: list[float] = []
        self.wanted = 0
        self.reached = asyncio.Event()

    def did(self, payload: Any) -> None:
        """Note a job that was begun, and is done with that."""
        self.done += 1
        if payload.get(_ENQUEUED):
            self.waits.append(time.time() - float(payload[_ENQUEUED]))
        if self.done >= self.wanted:
            self.reached.set()

    def want(self, jobs: int) -> None:
        """Count anew, up to so many jobs."""
        self.done, self.waits, self.wanted = 0, [], jobs
        self.reached.clear()

    @abstractmethod
    async def enqueue(self, enqueued: float = 0) -> None:
        """Enqueue one no-op."""

    @abstractmethod
    async def enqueue_many(self, number: int) -> None:
        """Enqueue so many."""

    @abstractmethod
    def worker(self, concurrency: int) -> Any:
        """Work inside the block; at its end, all that was done is stored."""

    @abstractmethod
    async def empty(self) -> None:
        """Leave no job."""

    async def drain(self, number: int, concurrency: int) -> float:
        """Do so many jobs that are enqueued already, and return how many a second."""
        self.want(number)
        began = time.perf_counter()
        async with self.worker(concurrency):
            async with asyncio.timeout(300):
                await self.reached.wait()
        return number / (time.perf_counter() - began)


class Ours(Side):
    """multidb, with as many connections."""

    name = OURS

    def __init__(self, db: MultiDB) -> None:
        super().__init__()
        self._db = db

    async def enqueue(self, enqueued: float = 0) -> None:
        await self._db.jobs.enqueue(NewJob(queue="q", kind="k", payload={_ENQUEUED: enqueued}))

    async def enqueue_many(self, number: int) -> None:
        await self._db.jobs.enqueue_many(NewJob(queue="q", kind="k", payload={}) for _ in range(number))

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[None]:
        async def work(job: Job) -> None:
            self.did(job.payload)

        worker = Worker(self._db, queues=["q"], handlers={"k": work}, concurrency=concurrency)
        running = asyncio.ensure_future(worker.run())
        yield
        worker.stop()
        await running

    async def empty(self) -> None:
        async with self._db.postgres.opened.acquire() as connection:
            await connection.execute("TRUNCATE ai_processing_jobs")


class PgQueuer(Side):
    """pgqueuer on asyncpg's pool. A batch has its default of 10 jobs, or the concurrency if that is more."""

    name = "pgqueuer"

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        super().__init__()
        self._pool = pool

    @cached_property
    def _queries(self) -> Any:
        pgqueuer: Any = importlib.import_module("pgqueuer")
        return pgqueuer.Queries(pgqueuer.AsyncpgPoolDriver(self._pool))

    async def install(self) -> None:
        """Make its tables."""
        await self._queries.install()

    async def enqueue(self, enqueued: float = 0) -> None:
        await self._queries.enqueue("k", str(enqueued).encode())

    async def enqueue_many(self, number: int) -> None:
        await self._queries.enqueue(["k"] * number, [b"0"] * number, [0] * number)

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[None]:
        pgqueuer: Any = importlib.import_module("pgqueuer")
        manager = pgqueuer.QueueManager(pgqueuer.Queries(pgqueuer.AsyncpgPoolDriver(self._pool)))

        async def work(job: Any) -> None:
            self.did({_ENQUEUED: float(job.payload)})

        manager.entrypoint("k")(work)
        running = asyncio.ensure_future(manager.run(batch_size=max(10, concurrency)))
        yield
        manager.shutdown.set()
        await running

    async def empty(self) -> None:
        await self._pool.execute("TRUNCATE pgqueuer, pgqueuer_log")


class Procrastinate(Side):
    """procrastinate on psycopg's pool."""

    name = "procrastinate"

    def __init__(self, url: str) -> None:
        super().__init__()
        procrastinate: Any = importlib.import_module("procrastinate")
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        connector = procrastinate.PsycopgConnector(conninfo=url, min_size=POOL, max_size=POOL)
        self._app = procrastinate.App(connector=connector)

        async def work(enqueued: float) -> None:
            self.did({_ENQUEUED: enqueued})

        self._task = self._app.task(name="k", queue="q")(work)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open its pool, and make its tables."""
        async with self._app.open_async():
            await self._app.schema_manager.apply_schema_async()
            yield

    async def enqueue(self, enqueued: float = 0) -> None:
        await self._task.defer_async(enqueued=enqueued)

    async def enqueue_many(self, number: int) -> None:
        jobs: list[Any] = [{"enqueued": 0}] * number
        for start in range(0, number, 1000):
            await self._task.batch_defer_async(*jobs[start : start + 1000])

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[None]:
        running = asyncio.ensure_future(
            self._app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)
        )
        yield
        running.cancel()  # which is its way to end: what was begun is finished first
        await asyncio.wait([running])

    async def empty(self) -> None:
        await self._app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")


@asynccontextmanager
async def peers(settings: Settings) -> AsyncIterator[dict[str, Side]]:
    """Yield those of the peers that are installed, by name, their connections open."""
    sides: dict[str, Side] = {}
    url = dsn(settings.postgres_url)
    async with asyncpg.create_pool(url, min_size=POOL, max_size=POOL) as pool:
        if find_spec("pgqueuer"):
            pgqueuer = PgQueuer(pool)
            await pgqueuer.install()
            sides[pgqueuer.name] = pgqueuer
        if find_spec("procrastinate"):
            procrastinate = Procrastinate(url)
            sides[procrastinate.name] = procrastinate
            async with procrastinate.opened():
                yield sides
        else:
            yield sides
