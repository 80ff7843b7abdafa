"""Workers that are killed, stand still, and lose their server: every job is done once, and none is lost.

What PostgreSQL was told, in order, is the judge: a trigger notes each completion.
"""

import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.job_turns import turns
from multidb import MultiDB, NewJob
from multidb.ops.embedded import initialise
from multidb.settings import Settings
from multidb.stack import EmbeddedStack

from .postgres import raw

LEASE = 1.0
ROOT = Path(__file__).parents[2]

RECORD = """
CREATE TABLE effects (job_id uuid NOT NULL, lease bigint NOT NULL);
CREATE TABLE completions (job_id uuid NOT NULL, lease bigint NOT NULL);
CREATE FUNCTION record_completion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO completions VALUES (NEW.id, NEW.lease);
  RETURN NEW;
END $$;
CREATE INDEX ON effects (job_id);
CREATE INDEX ON completions (job_id);
CREATE TRIGGER record_completion AFTER UPDATE ON ai_processing_jobs FOR EACH ROW
  WHEN (NEW.state = 'completed') EXECUTE FUNCTION record_completion();
"""
FORGET = """
DROP TRIGGER record_completion ON ai_processing_jobs;
DROP FUNCTION record_completion;
DROP TABLE effects, completions;
"""

#: What is not as it should be.
WRONG = """
SELECT 'stuck: ' || state, count(*) FROM ai_processing_jobs
  WHERE state NOT IN ('completed', 'dead') GROUP BY 1
UNION ALL
SELECT 'attempts are not claims', count(*) FROM ai_processing_jobs WHERE attempt <> lease HAVING count(*) > 0
UNION ALL
SELECT 'not completed once, by who held it last: ' || kind, count(*) FROM ai_processing_jobs j
  WHERE kind = 'effect'
    AND 1 <> (SELECT count(*) FROM completions c WHERE c.job_id = j.id AND c.lease = j.lease)
  GROUP BY 1
UNION ALL
SELECT 'completed by who had lost it', count(*)
  FROM completions c JOIN ai_processing_jobs j ON j.id = c.job_id WHERE c.lease <> j.lease HAVING count(*) > 0
UNION ALL
SELECT 'no effect, or several', count(*) FROM ai_processing_jobs j
  WHERE kind = 'effect'
    AND ARRAY[j.lease] IS DISTINCT FROM (SELECT array_agg(e.lease) FROM effects e WHERE e.job_id = j.id)
  HAVING count(*) > 0
UNION ALL
SELECT 'poison that is not dead of its attempts', count(*) FROM ai_processing_jobs
  WHERE kind = 'poison' AND (state <> 'dead' OR attempt <> max_attempts) HAVING count(*) > 0
"""


@dataclass
class Blows:
    """What workers had to bear, and what came of it."""

    killed: int = 0
    stopped: int = 0
    servers: int = 0
    claims: int = 0
    seconds: float = 0.0

    @property
    def struck(self) -> int:
        return self.killed + self.stopped


async def keep(workers: dict[int, Process], number: int, settings: Settings) -> None:
    """Have a worker, and another one whenever it has died: of its poison, or a blow."""
    stores = ("postgres_url", "mongo_url", "redis_url")
    given: dict[str, Any] = {name: getattr(settings, name).get_secret_value() for name in stores}
    given |= {"key_prefix": settings.key_prefix, "open_timeout": 60, "mongo_driver": settings.mongo_driver}
    given |= {"degradable_stores": ["mongo", "redis"], "postgres_pool_size": 8}
    order = json.dumps({"settings": given, "lease": LEASE}).encode()
    while True:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.job_worker"),
            cwd=ROOT,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(order + b"\n")
            if await worker.stdout.readline():  # else its server was killed meanwhile
                workers[number] = worker
                await worker.wait()
        finally:
            workers.pop(number, None)
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.communicate()


def strike(worker: Process, blows: Blows) -> None:
    """Kill a worker, or let it stand still for about as long as its leases last; in turn."""
    if blows.killed <= blows.stopped:
        worker.kill()
        blows.killed += 1
        return
    worker.send_signal(signal.SIGSTOP)
    blows.stopped += 1

    def wake() -> None:
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(signal.SIGCONT)

    asyncio.get_running_loop().call_later(LEASE * random.uniform(0.5, 2), wake)


async def torture(
    settings: Settings,
    *,
    jobs: int,
    poison: int,
    processes: int,
    every: float,
    strikes: int | None = None,
    kill: Callable[[], Awaitable[None]] | None = None,
) -> Blows:
    """Do jobs under so many blows, or as long as there are jobs, and hold what was done."""
    async with MultiDB(settings) as db, raw(settings) as connection:
        await connection.execute(RECORD)
        await db.jobs.enqueue_many(
            NewJob(queue="q", kind="poison", payload={}, max_attempts=2) for _ in range(poison)
        )
        await db.jobs.enqueue_many(
            NewJob(queue="q", kind="effect", payload={}, max_attempts=1000) for _ in range(jobs)
        )
    workers: dict[int, Process] = {}
    keeping = [asyncio.create_task(keep(workers, number, settings)) for number in range(processes)]
    blows, kills = Blows(), 0 if kill is None else 2
    began = time.monotonic()
    try:
        while (left := await unfinished(settings)) or blows.struck < (strikes or 0):
            # One that is only just starting is missed.
            struck = workers.get(random.randrange(processes))
            if struck is not None and (strikes is None or blows.struck < strikes):
                strike(struck, blows)
            if kill is not None and blows.servers < kills and left < jobs * (kills - blows.servers) / 3:
                blows.servers += 1
                await kill()
            assert not any(task.done() for task in keeping)
            await asyncio.sleep(every)
        assert blows.servers == kills
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)
    blows.seconds = time.monotonic() - began
    async with raw(settings) as connection:
        wrong = {row[0]: row[1] for row in await connection.fetch(WRONG)}
        blows.claims = await connection.fetchval("SELECT sum(lease) FROM ai_processing_jobs")
        assert wrong == {}
        await connection.execute(FORGET)
    return blows


async def unfinished(settings: Settings) -> int:
    async with raw(settings) as connection:
        left: int = await connection.fetchval(
            "SELECT count(*) FROM ai_processing_jobs WHERE state IN ('available', 'running')"
        )
    return left


async def test_every_job_is_done_once_although_workers_die_and_stand_still(multidb_settings: Settings):
    blows = await torture(multidb_settings, jobs=200, poison=0, processes=2, every=0.2, strikes=2)
    assert blows.claims >= 200


@pytest.mark.torture
@pytest.mark.timeout(1800)
async def test_fifty_thousand_jobs_are_done_once_although_postgresql_dies_too(tmp_path: Path):
    stack = EmbeddedStack(tmp_path, durable=False)
    stack.start()
    try:
        await asyncio.to_thread(lambda: asyncio.run(initialise(stack.settings())))

        async def kill() -> None:
            await asyncio.to_thread(stack.kill, "postgres")
            await asyncio.to_thread(stack.start)

        blows = await torture(stack.settings(), jobs=50_000, poison=5, processes=4, every=1.0, kill=kill)
    finally:
        stack.stop()
    print(blows)
    assert blows.claims > 50_000


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_others_wait_no_longer_for_a_company_that_has_nine_tenths_of_all(db: MultiDB):
    alone, among, left = await turns(db, backlog=100_000, number=200)
    medians = [statistics.median(waits) * 1000 for waits in (alone, among)]
    print(f"started after {medians[0]:.1f} ms alone, {medians[1]:.1f} ms among 100,000; {left:,} were left")
    assert left > 50_000
    assert medians[1] < 2 * medians[0]
