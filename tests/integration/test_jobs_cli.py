"""`multidb jobs` and `multidb worker`, as a shell runs them."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multidb import ConfigurationError, MultiDB, NewJob
from multidb.cli.app import app
from multidb.settings import Settings

from .test_jobs import claim, new

pytestmark = pytest.mark.mongo

WORKER = """
from multidb import Handlers, MultiDB, Worker

handlers = Handlers()


@handlers.job("k")
async def work(payload: dict) -> dict:
    return {"seen": payload}


worker = Worker(MultiDB(), queues=["q"], handlers=handlers)
"""


def environment(settings: Settings) -> dict[str, str]:
    urls = ("postgres_url", "mongo_url", "redis_url", "secret_key")
    given = {f"MULTIDB_{name.upper()}": getattr(settings, name).get_secret_value() for name in urls}
    given |= {"MULTIDB_KEY_PREFIX": settings.key_prefix, "MULTIDB_MONGO_DRIVER": str(settings.mongo_driver)}
    return {**given, "COLUMNS": "200", "NO_COLOR": "1"}


async def run(db: MultiDB, *arguments: str, code: int = 0) -> str:
    invoked = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment(db.settings))
    assert invoked.exit_code == code, invoked.output
    return invoked.output


async def test_jobs_are_shown_and_looked_after(db: MultiDB):
    await db.jobs.enqueue_many(new(kind=kind) for kind in ("a", "a", "b"))
    first, second, third = await claim(db, 3)
    await db.jobs.fail(first, "no\nuse", final=True)
    await db.jobs.fail(second, "no", final=True)

    listed = json.loads(await run(db, "jobs", "list", "--json", "--state", "failed"))
    assert {each["id"] for each in listed} == {str(first.id), str(second.id)}
    assert str(third.id) in await run(db, "jobs", "list", "--kind", "b", "--queue", "q")
    shown: dict[str, Any] = json.loads(await run(db, "jobs", "show", str(first.id)))
    assert (shown["error"], shown["recorded"]) == ("no\nuse", None)
    assert str(second.id) in await run(db, "jobs", "discard", str(second.id))
    assert await run(db, "jobs", "retry", "--queue", "q") == f"Tried again: {first.id} is available.\n"
    assert "is running" in await run(db, "jobs", "cancel", str(third.id))
    (stats,) = json.loads(await run(db, "jobs", "stats", "--json"))
    assert (stats["queue"], stats["ready"], stats["running"], stats["cancelled"]) == ("q", 1, 1, 1)
    assert (await run(db, "jobs", "stats")).split()[:2] == ["queue", "ready"]
    await run(db, "jobs", "retry", code=2)
    await run(db, "jobs", "list", "--state", "odd", code=2)

    # One that cannot be changed keeps no other from it.
    await db.jobs.enqueue_many([new("r", idempotency_key="k"), new("r")])
    for job in await claim(db, 2, "r"):
        await db.jobs.fail(job, "no", final=True)
    await db.jobs.enqueue(new("r", idempotency_key="k"))
    told = await run(db, "jobs", "retry", "--queue", "r", code=1)
    assert told.count("Tried again") == told.count("already has this value") == 1
    for command, place in (("worker", ":x"), ("worker", ".x:y"), ("relay", ".x:y")):
        invoked = CliRunner().invoke(app, [command, place])
        assert isinstance(invoked.exception, ConfigurationError)


async def test_a_worker_works_until_it_is_told_to_stop(db: MultiDB, tmp_path: Path):
    (tmp_path / "work.py").write_text(WORKER)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MULTIDB_")}
    watching, worker = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "multidb.cli", *arguments),
            cwd=tmp_path,
            env={**clean, **environment(db.settings)},
            stdout=PIPE,
            stderr=PIPE,
        )
        for arguments in (("jobs", "stats", "--watch", "--every", "0.1"), ("worker", "work:worker"))
    ]
    try:
        job = await db.jobs.enqueue(NewJob(queue="q", kind="k", payload={"n": 1}))
        async with asyncio.timeout(100):
            while not await db.jobs.exists(id=job.id, state="completed"):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
            assert watching.stdout is not None
            while b"completed" not in await watching.stdout.readline():
                pass
            worker.send_signal(signal.SIGTERM)
            watching.send_signal(signal.SIGINT)
            _, told = await worker.communicate()
            await watching.communicate()
        assert (worker.returncode, told) == (0, b"")
    finally:
        for each in (watching, worker):
            if each.returncode is None:
                each.kill()
                await each.communicate()
    result = await db.ai_processing_results.fetch(job.id)
    assert result.result == {"seen": {"n": 1}}
