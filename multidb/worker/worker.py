"""`Worker`: claims jobs, calls their handlers, and stores what became of them."""

import asyncio
import logging
import os
import random
import signal
import socket
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from datetime import timedelta
from functools import partial
from uuid import UUID

from multidb.client import MultiDB
from multidb.errors import MultiDBError, UnavailableError
from multidb.models.ids import uuid7
from multidb.models.jobs import is_word
from multidb.repositories.job_wakeups import CANCEL
from multidb.repositories.repository import MAX_PAGE
from multidb.stores.completion import complete
from multidb.stores.pauses import Pauses, nap
from multidb.worker.attempt import Attempt
from multidb.worker.declared import check, is_span
from multidb.worker.finisher import Finisher
from multidb.worker.handlers import Function, Handlers
from multidb.worker.held import Held, Hold
from multidb.worker.schedule import keep_time

__all__ = ["Worker"]

_log = logging.getLogger("multidb.worker")

#: Jobs are claimed ahead that will begin within so many seconds, going by those of late; no more than these.
_AHEAD = 0.05
_MOST_AHEAD = 1000
#: They go back, for other workers, if it will take so many seconds: these are slower than those of late.
_TOO_FAR_AHEAD = 0.5
#: How long a free place waits for others, so that they claim together, in seconds.
_GATHERED = 0.005
#: Finished jobs may wait for being stored, so many for each place.
_UNSTORED = 20
#: Old jobs that are deleted before lost ones are looked for again.
_PRUNED = 10 * MAX_PAGE
#: How long a lease may be.
_SHORTEST, _LONGEST = timedelta(milliseconds=100), timedelta(days=1)


class Worker:
    """Does the jobs of some queues, `concurrency` at a time, until it is told to stop.

    ::

        worker = Worker(db, queues=["documents"], handlers=handlers)
        await worker.run()  # or `multidb worker module:worker`, which opens `db` and heeds SIGTERM

    A job runs as its company's: `db.tenant(...)` is around its handler. Its result goes to
    `ai_processing_results`. Of several queues each is first in turn; with `fair`, so are a queue's
    companies. `lease` is how long a job stays with a worker that has died; handlers may take longer. Told
    to stop, it claims no more, lets handlers finish for `stop_within`, then cancels them and puts their
    jobs back. With `retention`, completed and cancelled jobs are deleted that long after.

    A handler that does not give way to the event loop keeps the leases from being extended: what
    computes belongs into `asyncio.to_thread`.
    """

    def __init__(
        self,
        db: MultiDB,
        *,
        queues: Sequence[str],
        handlers: Handlers | Mapping[str, Function],
        concurrency: int = 10,
        lease: timedelta = timedelta(seconds=30),
        poll: timedelta = timedelta(seconds=1),
        stop_within: timedelta = timedelta(seconds=25),
        fair: bool = False,
        retention: timedelta | None = None,
        name: str | None = None,
    ) -> None:
        named: object = queues
        listed = isinstance(named, Collection) and not isinstance(named, str)
        at_a_time = type(concurrency) is int and 1 <= concurrency <= MAX_PAGE
        check(
            "Worker",
            (
                "queues",
                "the names of one queue or more, in a list",
                listed and queues and all(map(is_word, queues)),
            ),
            ("handlers", "`Handlers`, or a mapping of functions by kind", isinstance(handlers, Mapping)),
            ("concurrency", f"a whole number from 1 to {MAX_PAGE}", at_a_time),
            ("lease", "a timedelta from 100 milliseconds to a day", is_span(lease, _SHORTEST, _LONGEST)),
            ("poll", "a timedelta from 1 millisecond to 366 days", is_span(poll, timedelta(milliseconds=1))),
            ("stop_within", "a timedelta from zero to 366 days", is_span(stop_within)),
            ("fair", "True or False", isinstance(fair, bool)),
            (
                "retention",
                "a timedelta from zero to 366 days, or None",
                retention is None or is_span(retention),
            ),
            ("name", "a text of 1 to 200 characters, or None", name is None or is_word(name)),
        )
        self.db = db
        #: What this worker is called where its jobs are shown: machine, process, and a number.
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{uuid7().hex[-6:]}"
        self._queues = list(queues)
        self._handlers = handlers if isinstance(handlers, Handlers) else Handlers(handlers)
        #: How many jobs at a time.
        self.concurrency = concurrency
        self._lease = lease
        self._poll = poll.total_seconds()
        self._stop_within = stop_within.total_seconds()
        self._fair = fair
        self._retention = retention
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._hold = Hold(self.db, self._lease)
        self._ended_of_run = partial(self._ended, self._hold)
        self._finisher = Finisher(self.db, self._stored)
        self._ahead: deque[Held] = deque()
        self._working = 0
        #: How long handlers took of late, in seconds.
        self._took: float | None = None
        #: Since when none of those that are at work has ended.
        self._none_ended_since = 0.0
        self._woken = asyncio.Event()
        self._freed = asyncio.Event()
        self._stopping = asyncio.Event()

    # --- from outside

    def main(self) -> None:
        """Open the database, work until SIGTERM or SIGINT, and close it. A second signal stops at once."""
        asyncio.run(self._main())

    async def run(self) -> None:
        """Work until `stop()`, or until cancelled, which gives handlers no time to finish.

        While PostgreSQL is away it waits for it. May be run again.
        """
        # In an empty context: what it calls is part of nobody's transaction, and for all companies.
        task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await complete(asyncio.wait([task]))
            raise

    def stop(self) -> None:
        """Claim no more, finish what has begun, and return from `run`. Idempotent."""
        self._stopping.set()
        self._woken.set()
        self._freed.set()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        async with self.db:
            running = asyncio.ensure_future(self.run())

            def stop() -> None:
                if self._stopping.is_set():
                    running.cancel()
                self.stop()

            for each in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(each, stop)
            with suppress(asyncio.CancelledError):
                await running

    # --- claiming

    async def _run(self) -> None:
        with self.db.unscoped():
            loop = asyncio.get_running_loop()
            self._context = copy_context()
            beside = [
                loop.create_task(each)
                for each in (
                    self._hold.keep(),
                    self._hold.watch(),
                    self._finisher.run(),
                    self._sweep(),
                    keep_time(self.db, self._handlers.schedules),
                )
            ]
            for task in beside:
                task.add_done_callback(self._beside_ended)
            try:
                async with self.db.jobs.listen(self._heard):
                    await self._claim_on()
                await self._let_finish()
            finally:
                await complete(self._wind_up(beside))
            for task in beside:
                if not task.cancelled():
                    task.result()

    def _beside_ended(self, task: asyncio.Task[None]) -> None:
        # By an error of ours; without heartbeats or endings, say, no job is done.
        if not task.cancelled() and task.exception() is not None:
            self.stop()

    async def _claim_on(self) -> None:
        pauses = Pauses()
        while not self._stopping.is_set():
            keep = self._done_within(_TOO_FAR_AHEAD)
            if len(self._ahead) > keep:
                await complete(self._put_back(keep=keep))
            if not self._room():
                self._freed.clear()
                await nap(self._freed, _TOO_FAR_AHEAD if self._ahead else None)
            elif self._working and not self._fair and self._room() < self.concurrency // 2:
                await asyncio.sleep(_GATHERED)
            self._woken.clear()
            try:
                idle = not await self._claim()
            except MultiDBError as error:
                if not error.retryable:
                    raise
                _log.warning("no jobs can be claimed, and it is tried again: %s", error)
                await nap(self._woken, pauses.next())
                continue
            pauses.restart()
            if idle:
                pause = self._poll * random.uniform(0.8, 1.2)  # noqa: S311 - it spreads, and is no secret
                await nap(self._woken, min(pause, _TOO_FAR_AHEAD) if self._ahead else pause)

    async def _claim(self) -> bool:
        """Claim from each queue in turn; return whether any had as many jobs as there was room for."""
        full = False
        for queue in self._queues:
            room = min(self._room(), MAX_PAGE)
            if room <= 0 or self._stopping.is_set():
                return True
            # To its end: what was claimed must not be forgotten.
            full = await complete(self._claim_from(queue, room)) == room or full
        self._queues.append(self._queues.pop(0))
        return full

    async def _claim_from(self, queue: str, room: int) -> int:
        # Much in two halves: one is begun with while the server looks for the other.
        halves = [room] if room <= self.concurrency else [room - room // 2, room // 2]
        counts = await asyncio.gather(
            *(self._claim_at_once(queue, half) for half in halves), return_exceptions=True
        )
        claimed = 0
        for count in counts:
            if isinstance(count, BaseException):
                raise count
            claimed += count
        return claimed

    async def _claim_at_once(self, queue: str, room: int) -> int:
        began = asyncio.get_running_loop().time()
        jobs = await self.db.jobs.claim(
            queue, limit=room, worker=self.name, lease=self._lease, fair=self._fair
        )
        self._ahead.extend(self._hold.add(job, began) for job in jobs)
        self._begin()
        return len(jobs)

    def _room(self) -> int:
        """Return how many jobs to claim now: for the places that are free, and some ahead."""
        ahead = 0
        # In turns of companies none is claimed ahead: whoever comes next would wait for all of them.
        if self._took is not None and not self._fair:
            ahead = min(self._done_within(_AHEAD), _MOST_AHEAD)
        unstored = len(self._hold) - self._working - len(self._ahead)
        if unstored > self.concurrency * _UNSTORED:
            return 0
        room = self.concurrency + ahead - self._working - len(self._ahead)
        # What there is ahead lasts for a moment yet: a claim of few is not worth its round trip.
        return room if room > ahead // 2 else 0

    def _done_within(self, seconds: float) -> int:
        """Return how many jobs are done in so long, going by those of late."""
        unheard = asyncio.get_running_loop().time() - self._none_ended_since if self._working else 0
        return int(self.concurrency * seconds / max(self._took or 0, unheard, 1e-6))

    def _heard(self, payload: str | None) -> None:
        if payload is not None and payload.startswith(CANCEL):
            with suppress(ValueError):
                self._hold.ask_now(UUID(payload.removeprefix(CANCEL)))
        elif payload is None or payload in self._queues:
            self._woken.set()

    # --- working

    def _begin(self) -> None:
        """Begin with as many jobs as there are free places."""
        if not self._working:
            self._none_ended_since = asyncio.get_running_loop().time()
        while self._ahead and self._working < self.concurrency:
            held = self._ahead.popleft()
            if held.reason == "lost":
                self._hold.drop(held)
                continue
            self._working += 1
            attempt = Attempt(
                self.db,
                held,
                self._handlers.get(held.job.kind),
                ended=self._ended_of_run,
                finish=self._finisher.put,
            )
            # Not in the context of whose end made room for it.
            context = self._context.copy()
            held.task = asyncio.get_running_loop().create_task(attempt.make(), context=context)

    def _ended(self, hold: Hold, seconds: float) -> None:
        """Give the place of a handler that has ended to the next job; the last one is still to be stored."""
        if hold is not self._hold:
            return  # left behind by a run that is over
        self._working -= 1
        self._took = seconds if self._took is None else 0.9 * self._took + 0.1 * seconds
        self._none_ended_since = asyncio.get_running_loop().time()
        if not self._stopping.is_set():
            self._begin()
        self._freed.set()

    def _stored(self, held: Held) -> None:
        self._hold.drop(held)
        self._freed.set()

    async def _let_finish(self) -> None:
        """Give the handlers time to finish. A cancellation ends it."""
        await complete(self._put_back())
        if under_way := self._under_way():
            await asyncio.wait(under_way, timeout=self._stop_within)

    async def _put_back(self, *, keep: int = 0) -> None:
        """Put back what nobody has begun, but for so many. What cannot be is kept, or its lease ends."""
        ahead = [self._ahead.pop() for _ in range(len(self._ahead) - keep)][::-1]
        put_back = [self.db.jobs.release(held.job) for held in ahead]
        for held, error in zip(ahead, await asyncio.gather(*put_back, return_exceptions=True), strict=True):
            if isinstance(error, UnavailableError) and not self._stopping.is_set():
                self._ahead.append(held)
            else:
                self._hold.drop(held)

    def _under_way(self) -> list[asyncio.Task[None]]:
        return [held.task for held in self._hold if held.task is not None and not held.task.done()]

    async def _wind_up(self, beside: Sequence[asyncio.Task[None]]) -> None:
        """Cancel the handlers there are, wait until all is stored, and be as new, for another run."""
        self._stopping.set()
        await self._put_back()
        for held in self._hold:
            held.stop("stopping")
        if left := self._under_way():
            # What does not heed its cancellation is left behind: its lease ends, and it changes nothing more.
            _, stuck = await asyncio.wait(left, timeout=self._lease.total_seconds())
            for task in stuck:
                _log.error("a handler did not heed its cancellation: %s", task.get_name())
        with suppress(TimeoutError):  # what is not stored by then, was for too long
            async with asyncio.timeout(self._lease.total_seconds()):
                await self._finisher.done()
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        self._begin_anew()

    async def _sweep(self) -> None:
        """Look after the jobs of workers that died, and those that are kept no longer."""
        loop, pruned = asyncio.get_running_loop(), 0.0
        while True:
            try:
                await self.db.jobs.rescue()
                if self._retention is not None and loop.time() > pruned:
                    if await self.db.jobs.prune(self._retention, most=_PRUNED) == _PRUNED:
                        continue  # more is finished than one is done with
                    pruned = loop.time() + 60 * random.uniform(0.5, 1)  # noqa: S311 - it spreads, and is no secret
            except MultiDBError as error:
                _log.warning("lost jobs could not be looked for, and will be: %s", error)
            # All workers do it: together they look more often than one does.
            await asyncio.sleep(self._lease.total_seconds() / 3 * random.uniform(0.7, 1.3))  # noqa: S311 - as above
