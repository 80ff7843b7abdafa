"""`cache_race`: readers, writers, crashes, evictions and restarts, and whether a read was ever too old."""

import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from multidb.client import MultiDB
from multidb.models.ids import uuid7
from multidb.models.users import NewUser
from multidb.settings import Settings
from multidb.stack.addresses import free_port
from multidb.stack.process import Process as Server
from multidb.stack.process import spawn
from multidb.stack.redis import RedisServer
from multidb.stores.completion import complete
from multidb.testing.race_board import ERRORS, READS, WRITES, Board

__all__ = ["Race", "StaleRead", "cache_race"]


class StaleRead(NamedTuple):
    """A read that was given an older number than was known to be committed when it began."""

    key: int
    given: int
    committed: int


@dataclass(slots=True)
class Race:
    """What came of a race."""

    reads: int = 0
    writes: int = 0
    #: Calls that failed, as they may while Redis is away.
    errors: int = 0
    #: Processes killed between a COMMIT and its invalidation.
    killed: int = 0
    restarts: int = 0
    evictions: int = 0
    stale: list[StaleRead] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.stale)} stale of {self.reads:,} reads; {self.writes:,} writes, {self.killed} killed, "
            f"{self.restarts} restarts, {self.evictions:,} evictions, {self.errors} errors"
        )


async def cache_race(
    settings: Settings,
    *,
    subject: str = "multidb.testing.race_subjects:users",
    readers: int = 16,
    writers: int = 4,
    processes: int = 2,
    keys: int = 20,
    duration: timedelta = timedelta(seconds=4),
    killed: float = 0.05,
    restart_every: timedelta | None = timedelta(seconds=2),
    evict_every: timedelta | None = timedelta(milliseconds=20),
    write_every: timedelta = timedelta(milliseconds=20),
    tolerance: timedelta = timedelta(0),
) -> Race:
    """Race readers against writers over one cache, and return what came of it.

    `subject` names, as `module:function`, an async context manager that is called with settings and
    `between` and yields a `RaceSubject`; by default users, as `db.users` caches them. Each of
    `processes` runs its share of the readers and writers. Of all writes the part `killed` ends with a
    SIGKILL of its process between COMMIT and invalidation; another takes its place. Redis is a
    server of the race's own, which keeps what it has on disk: it is killed and started again every
    `restart_every`, and something in it is deleted every `evict_every`.

    `race.stale` holds each read that was given less than what was committed when it began; what
    another process has committed, so long before that as `tolerance` says, which for a cache with
    `local` is `Settings.cache_local_staleness`. Users are kept in the process too where
    `Settings.cache_local` names them. PostgreSQL and MongoDB are those of `settings`, with the schema
    applied. It needs a redis-server: that of `multidb[embedded]`, or one on the PATH.
    """
    race = Race()
    with tempfile.TemporaryDirectory(prefix="multidb-race-") as directory:
        home = Path(directory)
        redis = _OwnRedis(home / "redis")
        redis.start()
        try:
            own = settings.model_copy(update={"redis_url": SecretStr(redis.url), **_SHORT})
            ids = await _added(own, keys)
            with Board(home / "board", processes=processes, keys=keys) as board:
                order = {
                    "settings": _as_json(own),
                    "subject": subject,
                    "ids": [str(id) for id in ids],
                    "board": str(home / "board"),
                    "processes": processes,
                    "readers": readers // processes,
                    "writers": writers // processes,
                    "killed": killed,
                    "pause": write_every.total_seconds(),
                    "tolerance": tolerance.total_seconds(),
                }
                async with _at_work(order, duration) as workers:
                    disturbances = [
                        asyncio.ensure_future(_restart(redis, race, restart_every)),
                        asyncio.ensure_future(_evict(redis, race, evict_every)),
                    ]
                    try:
                        await _hear(workers, race)
                    finally:
                        for each in disturbances:
                            each.cancel()
                        await asyncio.wait(disturbances)
                    for each in disturbances:
                        with suppress(asyncio.CancelledError):
                            each.result()
                race.reads, race.writes = board.counted(READS), board.counted(WRITES)
                race.errors = board.counted(ERRORS)
        finally:
            redis.kill()
    return race


#: So short that the marks of those who were killed are over soon.
_SHORT = {
    "postgres_timeout": timedelta(seconds=1),
    "redis_timeout": timedelta(seconds=1),
    "cache_lease": timedelta(seconds=2),
    "postgres_pool_size": 8,
    "mongo_pool_size": 1,
    "redis_breaker_pause": timedelta(seconds=0.2),
    "open_timeout": timedelta(seconds=30),
    "close_timeout": timedelta(seconds=1),
    "degradable_stores": frozenset({"redis", "mongo"}),
}


_SENT = (
    *("postgres_url", "mongo_url", "redis_url", "secret_key", "mongo_driver", "key_prefix"),
    *("cache_local", "cache_local_staleness"),
)


class _OwnRedis:
    """A server that is killed and started again."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._home = home
        self._server = RedisServer(home, durable=False)
        self.url = f"redis://:{random.randbytes(8).hex()}@127.0.0.1:{free_port()}/0"
        self._server.prepare(self.url)
        self._process: Server

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = spawn(self._server.command(self.url), self._home / "log")
        self._server.wait(self.url, self._pause)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.send(signal.SIGKILL)
        self._process.wait(10)

    def _pause(self) -> None:
        """Pause between two looks at whether it answers."""
        if not self._process.alive():
            raise RuntimeError("the redis-server of the race ended as it began")
        time.sleep(0.01)


async def _added(settings: Settings, keys: int) -> list[UUID]:
    async with MultiDB(settings) as db:
        new = [NewUser(id=(id := uuid7()), email=f"{id}@example.com", name="0") for _ in range(keys)]
        await db.users.add_many(new)
    return [user.id for user in new]


@asynccontextmanager
async def _at_work(order: dict[str, Any], duration: timedelta) -> AsyncIterator[Process]:
    """Yield what looks after the processes, once these have begun."""
    workers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "multidb.testing.race_worker"), stdin=PIPE, stdout=PIPE
    )
    try:
        assert workers.stdin is not None
        assert workers.stdout is not None
        workers.stdin.write(json.dumps(order).encode() + b"\n")
        await workers.stdout.readline()  # everything is imported
        workers.stdin.write(f"{duration.total_seconds()}\n".encode())
        yield workers
    finally:
        if workers.returncode is None:
            workers.terminate()
        await workers.communicate()


async def _hear(workers: Process, race: Race) -> None:
    assert workers.stdout is not None
    async for line in workers.stdout:
        word = json.loads(line)
        if "killed" in word:
            race.killed += 1
        else:
            race.stale.append(StaleRead(*word["stale"]))
    if await workers.wait():
        raise RuntimeError(f"a process of the race ended with {workers.returncode}; see what it wrote")


async def _restart(redis: _OwnRedis, race: Race, every: timedelta | None) -> None:
    while every is not None:
        await asyncio.sleep(random.uniform(0.5, 1.5) * every.total_seconds())
        redis.kill()
        await asyncio.sleep(random.uniform(0, 0.1))
        # A thread goes on when who waits for it is cancelled: the server must not be killed under it.
        await complete(asyncio.to_thread(redis.start))
        race.restarts += 1


async def _evict(redis: _OwnRedis, race: Race, every: timedelta | None) -> None:
    task = asyncio.current_task()
    async with Redis.from_url(redis.url) as client:
        # The driver forgets a cancellation that comes at the wrong moment.
        while every is not None and not (task is not None and task.cancelling()):
            await asyncio.sleep(every.total_seconds())
            with suppress(RedisError, OSError):
                if (key := await client.randomkey()) is not None:
                    race.evictions += await client.delete(key)


def _as_json(settings: Settings) -> dict[str, Any]:
    """Return those of the settings that a process of the race needs, as it can be sent them."""
    sent: dict[str, Any] = {}
    for name in (*_SENT, *_SHORT):
        value = getattr(settings, name)
        match value:
            case SecretStr():
                sent[name] = value.get_secret_value()
            case timedelta():
                sent[name] = value.total_seconds()
            case frozenset():
                sent[name] = sorted(value)
            case _:
                sent[name] = value
    return sent
