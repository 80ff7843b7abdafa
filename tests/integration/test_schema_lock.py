"""`schemas apply` that meets another: ten processes, one that was killed, one that was frozen."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from multidb import LockLostError, LockNotAcquiredError
from multidb.ops.schemas import applying, files, lock
from multidb.ops.schemas.lock import LOCKS, Lease, alone
from multidb.ops.schemas.server import Server, connected
from multidb.settings import Settings

from .places import Place, place

pytestmark = pytest.mark.mongo

LONG = timedelta(minutes=1)

#: Applies the files in ten processes at once, of which it is one alone to begin with: to import
#: everything ten times takes longer than all else.
APPLIES = """
import asyncio, os
from multidb.ops import schemas
from multidb.settings import MongoSettings
def apply():
    try:
        changes = asyncio.run(schemas.apply(MongoSettings(_env_file=None)))
        os.write(1, "".join(f"{line}\\n" for line in changes).encode())
        os._exit(0)
    except BaseException as error:
        os.write(1, repr(error).encode())
        os._exit(1)
children = [os.fork() or apply() for _ in range(10)]
print(*(os.waitpid(child, 0)[1] for child in children))
"""

#: Takes the lock, says so, and keeps it.
HOLDS = """
import asyncio
from datetime import timedelta
from multidb.ops.schemas.lock import alone
from multidb.ops.schemas.server import connected
from multidb.settings import MongoSettings
async def main():
    async with connected(MongoSettings(_env_file=None)) as server:
        async with alone(server, wait=timedelta(1), length=timedelta(seconds=2)):
            print("held", flush=True)
            await asyncio.sleep(3600)
asyncio.run(main())
"""


@pytest.fixture
def here(multidb_servers: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A database with nothing in it, and one file."""
    monkeypatch.setattr(files, "shipped", lambda _: tmp_path / "none")
    with place(multidb_servers, tmp_path) as made:
        made.say(indexes=[{"name": "age", "key": {"age": 1}}])
        yield made


def process(here: Place, program: str) -> "subprocess.Popen[str]":
    environment = {
        "MULTIDB_MONGO_URL": here.settings.mongo_url.get_secret_value(),
        "MULTIDB_MONGO_DRIVER": here.settings.mongo_driver,
        "MULTIDB_SCHEMA_PATHS": str(here.folder),
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def until(here: Place) -> Any:
    found = here.database[LOCKS].find_one()
    assert found is not None
    return found["until"]


async def holding(server: Server, length: timedelta) -> Lease:
    lease = Lease(server, length)
    assert await lease.take()
    return lease


class TestMeeting:
    def test_ten_processes_apply_each_schema_once(self, here: Place) -> None:
        with process(here, APPLIES) as parent:
            *lines, codes = parent.communicate()[0].splitlines()
        assert codes.split() == ["0"] * 10, lines
        assert len(lines) == len(set(lines)) > 1, "each collection was created by one of them"
        assert all(line.endswith("it was created with its indexes") for line in lines)

    async def test_ten_of_one_process_do(self, here: Place) -> None:
        done = await asyncio.gather(*(here.apply() for _ in range(10)))
        assert sum(map(len, done)) == 1
        assert await here.check() == []

    async def test_who_finds_nothing_to_do_does_not_wait(self, here: Place) -> None:
        await here.apply()
        async with connected(here.settings) as server, alone(server, wait=LONG, length=LONG):
            assert await here.apply() == []
            assert await here.check() == []
            assert await here.plan() == []

    async def test_who_waits_goes_on_when_the_other_is_done(self, here: Place) -> None:
        async with connected(here.settings) as server:
            async with alone(server, wait=LONG, length=LONG):
                waiting = asyncio.create_task(here.apply())
                await asyncio.sleep(0)
                here.database.drop_collection("things")
            assert len(await waiting) == 1

    async def test_waiting_ends(self, here: Place) -> None:
        here.settings = here.settings_with(schema_timeout=timedelta(seconds=0.2))
        async with connected(here.settings) as server, alone(server, wait=LONG, length=LONG):
            with pytest.raises(LockNotAcquiredError, match="MULTIDB_SCHEMA_TIMEOUT") as caught:
                await here.apply()
        assert caught.value.retryable
        assert "things" not in here.database.list_collection_names()

    async def test_a_failed_one_lets_go(self, here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        async def failing(*_: object) -> None:
            raise RuntimeError("broken")

        with monkeypatch.context() as patch:
            patch.setattr(applying._Work, "_do_all", failing)
            with pytest.raises(ExceptionGroup):
                await here.apply()
        here.settings = here.settings_with(schema_timeout=timedelta(seconds=0.001))
        assert len(await here.apply()) == 1

    async def test_a_cancelled_one_lets_go(self, here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        begun = asyncio.Event()

        async def endless(*_: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(applying._Work, "_do_all", endless)
            task = asyncio.create_task(here.apply())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        here.settings = here.settings_with(schema_timeout=timedelta(seconds=0.001))
        assert len(await here.apply()) == 1


class TestTheLease:
    async def test_a_killed_holder_is_waited_for_and_no_longer(self, here: Place) -> None:
        with process(here, HOLDS) as holder:
            assert holder.stdout is not None
            assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
            here.settings = here.settings_with(schema_timeout=timedelta(seconds=0.1))
            with pytest.raises(LockNotAcquiredError):
                await here.apply()
            holder.send_signal(signal.SIGKILL)
        here.settings = here.settings_with(schema_timeout=LONG)
        assert len(await here.apply()) == 1

    async def test_a_holder_keeps_it_as_long_as_it_works(
        self, here: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lock, "_RENEWALS", 600)  # ten a second, with a minute to spare
        async with connected(here.settings) as server, alone(server, wait=LONG, length=LONG) as lease:
            for _ in range(3):
                before = until(here)
                while until(here) == before:  # noqa: ASYNC110 - a task of its own renews it
                    await asyncio.sleep(0.02)
            assert not await Lease(server, LONG).take()
            await lease.confirm()

    async def test_one_that_was_frozen_changes_nothing_more(self, here: Place) -> None:
        async with connected(here.settings) as server:
            frozen = await holding(server, timedelta(milliseconds=1))
            await asyncio.sleep(0.01)
            other = await holding(server, LONG)
            with pytest.raises(LockLostError, match="nothing more was changed"):
                await frozen.confirm()
            work = applying._Work(server, frozen, set(), None)
            with pytest.raises(LockLostError):
                await work._run([{"create": "things"}])
            assert "things" not in here.database.list_collection_names()
            assert not await frozen.renew()
            await frozen.let_go()
            await other.confirm()
            assert not await Lease(server, LONG).take(), "and it does not end the other's lease"

    async def test_one_that_was_late_and_met_nobody_goes_on(self, here: Place) -> None:
        async with connected(here.settings) as server:
            late = await holding(server, timedelta(milliseconds=1))
            await asyncio.sleep(0.01)
            await late.confirm()

    async def test_the_servers_clock_counts(self, here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        async with connected(here.settings) as server:
            await holding(server, LONG)
            loop = asyncio.get_running_loop()
            now = loop.time()
            monkeypatch.setattr(loop, "time", lambda: now + 3600)
            assert not await Lease(server, LONG).take()
