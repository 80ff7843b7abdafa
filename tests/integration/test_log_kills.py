"""SIGKILL while logs are written: what was acknowledged is there once, and what was emitted is counted."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from multidb import LogLevel, MultiDB, SystemLog
from multidb.ops import schemas
from multidb.settings import Settings
from multidb.stack import EmbeddedStack
from multidb.stores.mongo import emitting
from multidb.stores.pauses import Pauses

from .replica_set import ReplicaSet, replica_set

pytestmark = [pytest.mark.mongo, pytest.mark.timeout(600)]

APPENDERS = 64


class Deployment(Protocol):
    """What can be killed, and brought back."""

    url: str

    def kill(self) -> None: ...

    def revive(self) -> None: ...


class Lone:
    def __init__(self, stack: EmbeddedStack) -> None:
        self._stack = stack
        self.url = stack.env["MULTIDB_MONGO_URL"]

    def kill(self) -> None:
        self._stack.kill("mongodb")

    def revive(self) -> None:
        self._stack.start_server("mongodb")


class Three:
    def __init__(self, servers: ReplicaSet) -> None:
        self._servers = servers
        self._killed = 0
        self.url = servers.url

    def kill(self) -> None:
        self._killed = self._servers.kill_primary()

    def revive(self) -> None:
        self._servers.revive(self._killed)


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    stack = EmbeddedStack(tmp_path_factory.mktemp("lone"), durable=False)
    stack.start_server("mongodb")
    try:
        yield Lone(stack)
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with replica_set(tmp_path_factory.mktemp("three")) as servers:
        yield Three(servers)


class Load:
    """Tasks that append, and one that emits; each entry has a number of its own."""

    def __init__(self, db: MultiDB, service: str, burst: int) -> None:
        self._db = db
        self._service = service
        self._burst = burst
        self.appended: list[int] = []
        self.failed = 0
        #: What a tail told of.
        self.told: list[int] = []
        self.emitted = 0
        self._next = 0
        self._stopped = False

    def _entry(self, level: LogLevel) -> SystemLog:
        self._next += 1
        return SystemLog(level=level, service=self._service, message="m", context={"n": self._next})

    async def _append(self) -> None:
        while not self._stopped:
            given = self._entry(LogLevel.INFO)
            try:
                await self._db.system_logs.append(given)
            except Exception:
                self.failed += 1
                await asyncio.sleep(0.01)
            else:
                self.appended.append(given.context["n"])
                await asyncio.sleep(0.01)  # all that is stored has to be told and compared

    async def _emit(self) -> None:
        levels = list(LogLevel)
        while not self._stopped:
            for _ in range(self._burst):
                self._db.system_logs.emit(self._entry(levels[self.emitted % len(levels)]))
                self.emitted += 1
            await asyncio.sleep(0.005)

    async def tail(self) -> None:
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        async for entry in self._db.system_logs.tail(since=long_ago, service=self._service):
            self.told.append(entry.context["n"])

    async def during(self, work: Callable[[], Any]) -> None:
        tasks = [asyncio.create_task(self._append()) for _ in range(APPENDERS)]
        tasks.append(asyncio.create_task(self._emit()))
        try:
            await work()
        finally:
            self._stopped = True
            await asyncio.gather(*tasks)


async def until(condition: Callable[[], object], seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - at its next turn
            await asyncio.sleep(0.01)


async def outage(settings: Settings, deployment: Deployment, *, pause: float = 0, burst: int = 5) -> None:
    """Kill the server in the midst of the load, bring it back after a pause, and compare what is stored.

    Emitted are `burst` entries at a time, two hundred times a second.
    """
    service = f"{settings.log_overflow}-{os.urandom(4).hex()}"
    await schemas.apply(settings)
    async with MultiDB(settings) as db:
        load = Load(db, service, burst)
        tail = asyncio.create_task(load.tail())

        async def work() -> None:
            await until(
                lambda: len(load.appended) > 500 and load.told and db.system_logs.emitted.stored > 100
            )
            await asyncio.to_thread(deployment.kill)
            # Of three, another takes over, and may do so before a driver's retry has given up.
            if isinstance(deployment, Lone):
                await until(lambda: load.failed)
                await until(lambda: db.system_logs.emitted.shed or db.system_logs.emitted.spilled)
            await asyncio.sleep(pause)
            before = len(load.appended)
            if isinstance(deployment, Three):
                await until(lambda: len(load.appended) > before + 500)
            await asyncio.to_thread(deployment.revive)
            before = len(load.appended)
            await until(lambda: len(load.appended) > before + 500)

        await load.during(work)
        await until(lambda: not db.system_logs.emitted.pending and not db.system_logs.emitted.spilled)
        counts = db.system_logs.emitted
        found: Counter[int] = Counter()
        query = {"service": service}
        async for document in db.mongo.database["system_logs"].find(query, {"context.n": 1}):
            found[document["context"]["n"]] += 1
        assert set(found.values()) == {1}
        assert not set(load.appended) - set(found)
        # Whoever follows has missed nothing, and was told nothing twice.
        await until(lambda: len(load.told) >= len(found))
        tail.cancel()
        await asyncio.wait([tail])
        assert Counter(load.told) == found
        assert counts.emitted == load.emitted
        assert counts.refused == 0
        assert counts.stored + sum(counts.shed.values()) == load.emitted
        if settings.log_overflow == "spill":
            assert counts.stored == load.emitted
        # What is there and was neither emitted nor acknowledged is an append whose answer was lost.
        unacknowledged = len(found) - counts.stored - len(load.appended)
        assert 0 <= unacknowledged <= load.failed


def overflowing(settings: Settings, deployment: Deployment, directory: Path, overflow: str) -> Settings:
    return settings.model_copy(
        update={
            "mongo_url": SecretStr(deployment.url),
            "connect_timeout": timedelta(seconds=1),
            "log_buffer_entries": 200,
            "log_overflow": overflow,
            "log_spill_directory": directory,
        }
    )


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emitter that soon tries again: how long it pauses shows nothing."""
    monkeypatch.setattr(emitting, "Pauses", lambda first, _: Pauses(first, 0.2))


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("overflow", ["spill", "shed"])
async def test_a_lone_server_is_killed(multidb_settings: Settings, lone: Lone, tmp_path: Path, overflow: str):
    await outage(overflowing(multidb_settings, lone, tmp_path, overflow), lone)


@pytest.mark.usefixtures("_impatient")
async def test_the_primary_of_three_is_killed(multidb_settings: Settings, three: Three, tmp_path: Path):
    await outage(overflowing(multidb_settings, three, tmp_path, "spill"), three)


@pytest.mark.torture
@pytest.mark.parametrize("overflow", ["spill", "shed"])
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("kind", ["lone", "three"])
async def test_ten_seconds_without_it(
    multidb_settings: Settings,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    overflow: str,
    driver: str,
    kind: str,
):
    deployment: Deployment = request.getfixturevalue(kind)
    settings = overflowing(multidb_settings, deployment, tmp_path, overflow)
    await outage(settings.model_copy(update={"mongo_driver": driver}), deployment, pause=10, burst=20)


_EMITTER = """
import asyncio
from multidb import MultiDB, SystemLog

async def main():
    async with MultiDB() as db:
        n = 0
        while True:
            for _ in range(50):
                db.system_logs.emit(SystemLog(level="info", service="killed", message="m", context={"n": n}))
                n += 1
            print(db.system_logs.emitted.spilled, flush=True)
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


async def test_a_process_that_emits_is_killed(
    multidb_settings: Settings, tmp_path: Path, unused_tcp_port: int
):
    """What it had written to its files, the next process stores; each entry once."""
    url = multidb_settings.mongo_url.get_secret_value()
    environment = {
        **os.environ,
        "MULTIDB_POSTGRES_URL": multidb_settings.postgres_url.get_secret_value(),
        "MULTIDB_REDIS_URL": multidb_settings.redis_url.get_secret_value(),
        # Of that database, at a server that is away.
        "MULTIDB_MONGO_URL": f"mongodb://127.0.0.1:{unused_tcp_port}/{url.rpartition('/')[2].partition('?')[0]}",
        "MULTIDB_DEGRADABLE_STORES": "mongo",
        "MULTIDB_OPEN_TIMEOUT": "30",
        "MULTIDB_CONNECT_TIMEOUT": "1",
        "MULTIDB_LOG_OVERFLOW": "spill",
        "MULTIDB_LOG_SPILL_DIRECTORY": str(tmp_path),
        "MULTIDB_LOG_BUFFER_ENTRIES": "100",
    }
    with subprocess.Popen(  # noqa: ASYNC220 - a few lines, and then it is killed
        [sys.executable, "-c", _EMITTER], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as emitter:
        assert emitter.stdout is not None
        spilled = 0
        while spilled < 2000:
            spilled = int(await asyncio.to_thread(emitter.stdout.readline))
        emitter.send_signal(signal.SIGKILL)
        told = [line for line in emitter.stdout if line.endswith("\n")]
        spilled = int([str(spilled), *told][-1])
    update = {"log_overflow": "spill", "log_spill_directory": tmp_path}
    async with MultiDB(multidb_settings.model_copy(update=update)) as db:
        await until(lambda: db.system_logs.emitted.recovered >= spilled)
        await until(lambda: not [*tmp_path.rglob("*.spill")])
        found = [
            document["context"]["n"]
            async for document in db.mongo.database["system_logs"].find({"service": "killed"})
        ]
        assert len(found) == len(set(found)) == db.system_logs.emitted.recovered
