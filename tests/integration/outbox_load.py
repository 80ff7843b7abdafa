"""Transactions whose effects are delivered by relays that are killed, and what must stand in the end."""

import asyncio
import itertools
import os
import random
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self
from uuid import UUID

from multidb import (
    MultiDB,
    NewCompany,
    NewDocument,
    NewDocumentMetadata,
    NewUser,
    RealtimeEvent,
    SystemLog,
    uuid7,
)

__all__ = ["Relays", "Transactions"]


class RolledBack(Exception):  # noqa: N818 - no error
    pass


class Transactions:
    """Transactions on a few documents; of one in ten nothing may be left."""

    def __init__(self, db: MultiDB) -> None:
        self.db = db
        self.service = uuid7().hex
        self.committed = 0
        self.documents: list[UUID] = []
        self.logged: set[UUID] = set()

    async def prepare(self, documents: int) -> None:
        owner = await self.db.users.add(NewUser(email=f"{self.service}@b", name=f"{self.service} 1"))
        self.company = await self.db.companies.add(NewCompany(name="C", slug=self.service))
        new = [
            NewDocument(company_id=self.company.id, owner_id=owner.id, title="D") for _ in range(documents)
        ]
        await self.db.documents.add_many(new)
        self.documents = [each.id for each in new]

    async def run(self, numbers: "itertools.count[int]", total: int) -> None:
        while (number := next(numbers)) < total:
            with suppress(RolledBack):
                await self._one(random.choice(self.documents), fails=number % 10 == 9)

    async def _one(self, id: UUID, *, fails: bool) -> None:
        entry = SystemLog(level="info", service=self.service, message="m")
        async with self.db.transaction() as tx:
            version = (await self.db.documents.update(id, title="E")).version
            tx.realtime_events.publish(RealtimeEvent(channel=str(id), kind="k", payload={"v": version}))
            found = NewDocumentMetadata(id=id, company_id=self.company.id, word_count=version)
            tx.document_metadata.put(found, version=version)
            tx.dynamic_configurations.set(f"kills.{id}", version)
            tx.system_logs.append(entry)
            tx.counters.increment(f"/{self.service}")
            if fails:
                raise RolledBack
        self.committed += 1
        self.logged.add(entry.id)

    async def check(self) -> None:
        """Hold what stands in the stores against what was committed: each once, and in order."""
        stored = self.db.mongo.database["realtime_events"]
        seen = 0
        for id in self.documents:
            events = await stored.find({"channel": str(id)}, sort=[("$natural", 1)]).to_list(None)
            versions = [event["payload"]["v"] for event in events]
            assert versions == list(range(2, 2 + len(versions)))
            assert (await self.db.documents.fetch(id)).version == 1 + len(versions)
            seen += len(versions)
            if versions:
                metadata = await self.db.document_metadata.fetch(id)
                assert (metadata.word_count, metadata.version) == (versions[-1], versions[-1])
                value = await self.db.dynamic_configurations.by_key(f"kills.{id}")
                assert value is not None
                assert (value.value, value.version) == (versions[-1], len(versions))
        assert seen == self.committed
        logs = [each.id async for each in self.db.system_logs.stream(service=self.service)]
        assert sorted(logs) == sorted(self.logged)
        assert await self.db.counters.get(f"/{self.service}", datetime.now(UTC).date()) == self.committed
        assert [each.depth for each in await self.db.outbox.stats()] == [0, 0]


class Relays:
    """Processes of `multidb relay`, killed at random and started anew."""

    def __init__(self, environment: dict[str, str], count: int) -> None:
        given = {name: value for name, value in os.environ.items() if not name.startswith("MULTIDB_")}
        self._environment = {**given, **environment}
        self._count = count
        self._running: list[Process] = []
        self._reading: list[asyncio.Task[bytes]] = []
        self.killed = 0

    async def __aenter__(self) -> Self:
        self._running = [await self._start() for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._running:
            with suppress(ProcessLookupError):  # one that was killed, and none was started in its place
                each.terminate()
        async with asyncio.timeout(60):
            assert {await each.wait() for each in self._running} <= {0}
            await asyncio.gather(*self._reading)

    async def kill(self, times: int) -> None:
        while self.killed < times:
            await asyncio.sleep(random.uniform(0, 0.4))
            place = random.randrange(self._count)
            self._running[place].kill()
            await self._running[place].wait()
            self.killed += 1
            self._running[place] = await self._start()

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "multidb.cli", "relay"),
            env=self._environment,
            stdout=DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        # Then it is open: a relay that is killed before has delivered nothing. It may warn of a store first.
        async for line in process.stderr:
            if line == b"Delivering.\n":
                break
        # What they log must not fill the pipe.
        self._reading.append(asyncio.create_task(process.stderr.read()))
        return process
