"""Holders that stand still for longer than their locks live: none of them writes after a later one.

Two may believe to hold a lock at a time; what PostgreSQL was told, in order, is the judge.
"""

import asyncio
import json
import random
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from multidb import MultiDB, NewCompany, NewDocument, NewUser
from multidb.settings import Settings

TTL = 0.4
ROOT = Path(__file__).parents[2]

RECORD = """
CREATE TABLE landed (place bigserial PRIMARY KEY, document_id uuid NOT NULL, fence bigint NOT NULL);
CREATE FUNCTION record_landed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Under the row's lock, so in the order in which the writes stand.
  INSERT INTO landed (document_id, fence) VALUES (NEW.id, NEW.title::bigint);
  RETURN NEW;
END $$;
CREATE TRIGGER record_landed AFTER UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION record_landed();
"""

PASSED = """
SELECT count(*) FROM (
  SELECT fence < max(fence) OVER (PARTITION BY document_id ORDER BY place) AS passed FROM landed
) AS each WHERE passed
"""


async def start(settings: Settings, ids: list[UUID], tasks: int) -> Process:
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.lock_worker"), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    stores = ("postgres_url", "mongo_url", "redis_url")
    given: dict[str, Any] = {name: getattr(settings, name).get_secret_value() for name in stores}
    given |= {"key_prefix": settings.key_prefix, "open_timeout": 60, "mongo_driver": settings.mongo_driver}
    order = {"settings": given, "ids": [str(id) for id in ids], "tasks": tasks, "ttl": TTL}
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(order).encode() + b"\n")
    await worker.stdin.drain()
    assert (await worker.stdout.readline()).strip() == b"ready"
    return worker


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - a store tells nobody who waits
            await asyncio.sleep(0.01)


async def overtaken(db: MultiDB, ids: list[UUID], worker: Process) -> bool:
    """Let a process stand still until others have written under a lock it held; False if it held none."""

    async def holders() -> list[int]:
        return [int(await db.redis.client.get(f"{db.settings.key_prefix}holder:{id}") or 0) for id in ids]

    worker.send_signal(signal.SIGSTOP)
    try:
        held = [id for id, pid in zip(ids, await holders(), strict=True) if pid == worker.pid]
        if held:
            version = (await db.documents.fetch(held[0])).version

            async def written() -> bool:
                return (await db.documents.fetch(held[0])).version > version + 1

            await until(written)
        return bool(held)
    finally:
        worker.send_signal(signal.SIGCONT)


async def torture(
    db: MultiDB, *, documents: int, processes: int, tasks: int, seconds: float, times: int
) -> Counter[str]:
    """Edit for so long, and until holders were overtaken so many times; return what the processes count."""
    user = await db.users.add(NewUser(email="a@b", name="A"))
    company = await db.companies.add(NewCompany(name="A", slug="a"))
    new = [NewDocument(company_id=company.id, owner_id=user.id, title="0") for _ in range(documents)]
    await db.documents.add_many(new)
    ids = [each.id for each in new]
    async with db.postgres.opened.acquire() as connection:
        await connection.execute(RECORD)

    workers: list[Process] = []
    counts: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    try:
        workers = await asyncio.gather(*(start(db.settings, ids, tasks) for _ in range(processes)))
        end = loop.time() + seconds
        while loop.time() < end or counts["overtaken"] < times:
            await asyncio.sleep(random.uniform(0, 0.1))
            counts["overtaken"] += await overtaken(db, ids, random.choice(workers))
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()  # which tells it to end
        for worker in workers:
            output, _ = await worker.communicate()
            counts.update(json.loads(output))
            assert worker.returncode == 0
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
                await worker.communicate()

    async with db.postgres.opened.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM landed") >= counts["written"] > 0
        assert await connection.fetchval(PASSED) == 0, counts
    left = [key.decode() async for key in db.redis.client.scan_iter(f"{db.settings.key_prefix}lock:*")]
    assert [key for key in left if not re.search(r":(fence|[0-9a-f]{32})$", key)] == []
    return counts


async def test_no_older_fence_lands_after_a_newer_one(db: MultiDB):
    counts = await torture(db, documents=1, processes=2, tasks=3, seconds=0, times=4)
    assert counts["lost"] + counts["refused"] > 0, counts


@pytest.mark.torture
async def test_no_older_fence_lands_after_a_newer_one_for_a_minute(db: MultiDB):
    counts = await torture(db, documents=5, processes=3, tasks=17, seconds=60, times=20)
    assert counts["lost"] + counts["refused"] > 10, counts
