"""Documents stored behind the caller's back: one task an emitter brings them to MongoDB.

What is on its way is BSON already, with its `_id`, and is sent again until MongoDB has answered.
One that is there already is one that was stored, so a retry after a lost acknowledgement stores
nothing twice. While MongoDB is away the task spills what is above half of the buffer, and replays
it once it is back; only a burst that leaves the event loop no turn makes its caller write.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from threading import get_ident
from typing import Any, TypeAlias

from bson.raw_bson import RawBSONDocument

from multidb.errors import ConstraintError, DataError, MultiDBError
from multidb.models.emitted import Emitted
from multidb.settings import Settings
from multidb.stores.completion import complete
from multidb.stores.mongo.backlog import BATCH, LOG, Backlog, Entry
from multidb.stores.mongo.documents import Encoded
from multidb.stores.pauses import Pauses, nap

__all__ = ["Emitter"]

#: Stores documents, and returns by place those that were not, and why.
StoreAll: TypeAlias = Callable[[Sequence[Encoded]], Awaitable[Mapping[int, MultiDBError]]]

#: How often the buffer is looked at while MongoDB is away.
_RELIEF = 0.05
#: How often to look for spill files that other processes have left.
_SEARCH = 60.0


class Emitter:
    """What is emitted to one collection, from any thread, before the loop runs and after it.

    `ranks` names how grave a document can be, the least first; `prepare` returns what may be
    stored of one, and is called in worker threads.
    """

    def __init__(
        self,
        operation: str,
        store: StoreAll,
        *,
        ranks: Sequence[str],
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        directory: Path | None,
        settings: Settings,
    ) -> None:
        self._operation = operation
        self._store = store
        self._interval = settings.log_flush_interval.total_seconds()
        self._drain_timeout = settings.log_drain_timeout.total_seconds()
        self._backlog = Backlog(
            operation, ranks=ranks, prepare=prepare, alarm=self._ring, directory=directory, settings=settings
        )
        self.put = self._backlog.put
        self.refuse = self._backlog.refuse
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._away = False

    @property
    def counts(self) -> Emitted:
        """What became of everything that was emitted."""
        return self._backlog.counts

    def start(self) -> None:
        """Begin to bring what is emitted to MongoDB, on the running loop; what waits already, at once."""
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._wake = asyncio.Event()
        self._closing = False
        if self._backlog.on_the_way or self._backlog.spill is not None or not self._backlog.arm(1):
            self._begin()

    async def close(self) -> None:
        """Bring what is left to MongoDB until `Settings.log_drain_timeout`, then spill or shed it.

        Idempotent. Shed counts what is on its way at that moment too, though it may arrive.
        """
        if self._loop is None:
            return
        self._closing = True
        if self._task is not None or self._backlog.fullness:
            self._begin()
        try:
            if self._task is not None:
                await asyncio.wait([self._task], timeout=self._drain_timeout)
        finally:
            await complete(self._end())

    def forget(self) -> None:
        """Let go of an event loop that is gone; what was emitted waits for the next."""
        self._loop, self._task = None, None
        self._backlog.disarm()

    async def _end(self) -> None:
        task = self._task
        self.forget()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                LOG.error("%s ended", self._operation, exc_info=error)
        await asyncio.to_thread(self._backlog.abandon)

    def _ring(self) -> None:
        """Have the task go on, from whatever thread."""
        loop = self._loop
        if loop is None:
            return
        if get_ident() == self._thread:
            self._begin()
        else:
            with suppress(RuntimeError):  # the loop has ended: `start` will look
                loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._wake.set()
        if self._task is None and self._loop is not None:
            # In an empty context, so that it is part of nobody's transaction.
            self._task = self._loop.create_task(self._run(), name=self._operation, context=Context())

    async def _run(self) -> None:
        backlog, spill = self._backlog, self._backlog.spill
        if spill is not None:
            await complete(asyncio.to_thread(spill.claim))
        while True:
            await self._take()
            while backlog.on_the_way:
                # While these are stored, the next are encoded, if they fill a round trip.
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send(backlog.on_the_way, self._settle))
                    if self._closing or backlog.plenty:
                        group.create_task(self._take())
            if spill is not None and spill.waiting:
                await self._replay()
            elif self._closing and not backlog.fullness:
                return
            elif not await self._until(1, None if spill is None else _SEARCH) and spill is not None:
                await complete(asyncio.to_thread(spill.claim))
            await self._until(BATCH, self._interval)

    async def _take(self) -> bool:
        return await complete(asyncio.to_thread(self._backlog.take))

    async def _until(self, count: int, seconds: float | None) -> bool:
        """Wait until so many are in the buffer, or it is to be closed; False if that took too long."""
        self._wake.clear()
        if self._closing or not self._backlog.arm(count):
            return True
        try:
            return await nap(self._wake, seconds)
        finally:
            self._backlog.disarm()

    def _settle(self, batch: Sequence[Entry], refused: Sequence[Exception]) -> None:
        self._backlog.settle(stored=len(batch) - len(refused), refused=refused)

    async def _send(
        self, batches: list[list[Entry]], settle: Callable[[Sequence[Entry], Sequence[Exception]], None]
    ) -> None:
        """Store batches; each leaves the list once it is, and is settled."""
        pauses = Pauses(0.1, 5.0)
        while batches:
            batch = batches[0]
            errors = await self._outcome(batch)
            refused = [error for error in errors.values() if isinstance(error, DataError | ConstraintError)]
            if len(refused) == len(batch) > 1 and refused[0] is refused[-1]:
                # One of them makes MongoDB refuse them all: halve them until it is found.
                half = len(batch) // 2
                batches[:1] = [batch[:half], batch[half:]]
                continue
            # The others are not at fault, and wait until it is over.
            waiting = {place: error for place, error in errors.items() if error not in refused}
            batches[:1] = [[batch[place] for place in waiting]] if waiting else []
            settle([entry for place, entry in enumerate(batch) if place not in waiting], refused)
            if waiting:
                self._is_away(next(iter(waiting.values())))
                await self._pause(pauses.next())
            else:
                self._is_back()
                pauses.restart()

    async def _outcome(self, batch: Sequence[Entry]) -> Mapping[int, Exception]:
        try:
            return await self._store([entry.document for entry in batch])
        except Exception as error:  # whatever it is, what was emitted waits until it is over
            return dict.fromkeys(range(len(batch)), error)

    async def _pause(self, seconds: float) -> None:
        """Let MongoDB come back; meanwhile spill what would soon have no room."""
        if self._backlog.spill is None:
            await asyncio.sleep(seconds)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            if self._backlog.fullness > 0.5:
                await complete(asyncio.to_thread(self._backlog.relieve))
            await asyncio.sleep(min(left, _RELIEF))

    async def _replay(self) -> None:
        """Store what comes next in the spill files."""
        spill = self._backlog.spill
        assert spill is not None
        chunk = await complete(asyncio.to_thread(spill.next))
        if chunk is not None:
            entries = [Entry(RawBSONDocument(document), 0) for document in chunk.documents]
            batches = [entries[at : at + BATCH] for at in range(0, len(entries), BATCH)]
            errors: list[Exception] = []
            await self._send(batches, lambda _, refused: errors.extend(refused))
            await complete(asyncio.to_thread(self._backlog.settle_chunk, chunk, errors))

    def _is_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            problem = error if isinstance(error, MultiDBError) else type(error).__name__
            LOG.warning("%s: entries wait until MongoDB takes them: %s", self._operation, problem)

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            LOG.warning("%s: MongoDB takes entries again", self._operation)
