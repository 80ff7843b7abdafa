"""Jobs that a worker holds: their leases kept up, and whoever works on one that is lost, told."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Literal, TypeAlias
from uuid import UUID

from multidb.client import MultiDB
from multidb.errors import MultiDBError
from multidb.models.jobs import Job
from multidb.stores.pauses import nap

__all__ = ["Held", "Hold", "Reason"]

#: Why a handler is cancelled.
Reason: TypeAlias = Literal["lost", "cancelled", "stopping"]

_log = logging.getLogger("multidb.worker")


class Held:
    """A job of this worker's, from its claim until what became of it is stored."""

    __slots__ = ("job", "overdue", "reason", "task", "until", "working")

    def __init__(self, job: Job, until: float) -> None:
        self.job = job
        #: Until when this process trusts in its claim, by the event loop's clock.
        self.until = until
        self.task: asyncio.Task[None] | None = None
        #: Whether the handler is at work, so that there is something to cancel.
        self.working = False
        self.reason: Reason | None = None
        #: When the handler should be done; long after it, the job is nobody's.
        self.overdue: float | None = None

    def begin(self) -> None:
        """Say that the handler is at work. Raises: CancelledError if it was stopped before."""
        if self.reason is not None:
            raise asyncio.CancelledError
        self.working = True

    def stop(self, reason: Reason) -> None:
        """Cancel the handler; the first reason stands, but a lost job is lost."""
        if self.reason is None or reason == "lost":
            self.reason = reason
            if self.working and self.task is not None:
                self.task.cancel()


class Hold:
    """All jobs that a worker holds.

    Trust in a claim ends `lease` after the last request that was answered, counted from before it was
    sent: so it ends no later than the lease itself, also in a process that stood still.
    """

    def __init__(self, db: MultiDB, lease: timedelta) -> None:
        self._db = db
        self._lease = lease.total_seconds()
        self._held: dict[UUID, Held] = {}
        self._now = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def add(self, job: Job, claimed: float) -> Held:
        """Hold a job whose claim was sent at this time."""
        held = self._held[job.id] = Held(job, claimed + self._lease)
        return held

    def drop(self, held: Held) -> None:
        """Let go of a job."""
        if self._held.get(held.job.id) is held:
            del self._held[held.job.id]

    def ask_now(self, id: UUID) -> None:
        """Ask after all of them at once, if this one is among them: somebody wants it to stop."""
        if id in self._held:
            self._now.set()

    async def keep(self) -> None:
        """Keep the leases up, without end: every third of one, and more often while nobody answers."""
        loop = asyncio.get_running_loop()
        while True:
            answered = await self._beat(loop.time())
            self._now.clear()
            await nap(self._now, self._lease / 3 if answered else self._lease / 10)

    async def watch(self) -> None:
        """Stop those whose leases have ended by this process's clock, without end.

        Beside the heartbeats: one that is given up may still wait for a server that says nothing.
        """
        loop = asyncio.get_running_loop()
        while True:
            for held in self:
                if loop.time() >= held.until:
                    held.stop("lost")
            pause = self._lease / 10  # those that are added meanwhile stand for longer than that
            trusted = [held.until for held in self if held.reason != "lost"]
            await asyncio.sleep(max(0.01, min([pause, *(until - loop.time() for until in trusted)])))

    async def _beat(self, now: float) -> bool:
        # A handler that does not heed its timeout keeps its place here, and the job gets another worker.
        beating = [
            held
            for held in self
            if held.reason != "lost" and (held.overdue is None or now < held.overdue + self._lease)
        ]
        try:
            async with asyncio.timeout(self._lease / 2):
                beat = await self._db.jobs.heartbeat(held.job for held in beating)
        except (MultiDBError, TimeoutError) as error:
            _log.warning("a heartbeat was not answered, and is sent again: %s", error)
            return False
        for held in beating:
            if held.job.id in beat.lost:
                held.stop("lost")
            else:
                held.until = now + self._lease
                if held.job.id in beat.cancelled:
                    held.stop("cancelled")
        return True
