"""Counting in memory: whatever is counted between two flushes, each key costs one write.

A tally is a document of one process: it makes the id, and no other writes it. A flush does not add
to what is stored; it sets each tally to all that this process has counted in it so far. So a flush
that lost its answer is sent again, as often as it takes, and nothing counts twice; nothing has to
be remembered about it; and processes that count the same never wait for each other over one
document. Readers add the tallies up.

`count` only grows, so it tells the states of a tally apart: one that arrives after a newer, for its
connection was slow to die, changes nothing (`MongoStore.advance`).

A tally that MongoDB has may be forgotten. What is counted later begins another, with an id of its own.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import TypeAlias

from pymongo import UpdateOne

from multidb.errors import AlreadyExistsError, ConstraintError, DataError, MultiDBError
from multidb.settings import Settings
from multidb.stores.mongo.documents import Document
from multidb.stores.pauses import Pauses

__all__ = ["Tallies", "advances"]

_log = logging.getLogger("multidb.tallies")

#: Sets documents, and returns those that were refused by their place.
Advance: TypeAlias = Callable[[Sequence[Document]], Awaitable[Mapping[int, MultiDBError]]]

#: How many tallies one round trip takes.
_BATCH = 1000
#: After so many records a tally is left as it is, so that no sum grows beyond eight bytes.
_FULL = 2**22


def advances(documents: Iterable[Document], by: str) -> list[UpdateOne]:
    """Return what sets each document, unless the one that is stored has as much in the field `by`."""
    updates: list[UpdateOne] = []
    for document in documents:
        later = {"$cond": [{"$lt": [f"${by}", document[by]]}, {"$literal": document}, "$$ROOT"]}
        updates.append(UpdateOne({"_id": document["_id"]}, [{"$replaceWith": later}], upsert=True))
    return updates


class _Tally:
    __slots__ = ("count", "document", "max", "min", "stored", "sum")

    def __init__(self, document: Document, amount: int) -> None:
        self.document = document
        self.count = self.stored = 0
        self.sum = 0
        self.min = self.max = amount

    def add(self, amount: int) -> None:
        self.count += 1
        self.sum += amount
        if amount < self.min:
            self.min = amount
        elif amount > self.max:
            self.max = amount

    def state(self) -> Document:
        return {**self.document, "count": self.count, "sum": self.sum, "min": self.min, "max": self.max}


class Tallies:
    """What is counted, from any thread, before the event loop runs and after it.

    `advance` stores the tallies; at most `Settings.usage_tallies` are in memory, those with nothing
    new to store included. A flush begins `Settings.usage_flush_interval` after the first record
    since the last one.
    """

    def __init__(self, advance: Advance, *, operation: str, settings: Settings) -> None:
        self._advance = advance
        self._operation = operation
        self._most = settings.usage_tallies
        self._interval = settings.usage_flush_interval.total_seconds()
        self._drain = settings.log_drain_timeout.total_seconds()
        self._lock = threading.Lock()
        #: With records that MongoDB has not acknowledged, and without.
        self._changed: dict[Hashable, _Tally] = {}
        self._stored: dict[Hashable, _Tally] = {}
        #: How many records were lost: for want of room, or because MongoDB refused the tally.
        self.lost = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._flushing = asyncio.Lock()
        #: Whether a flush is to come, or under way.
        self._armed = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def add(self, key: Hashable, amount: int, begin: Callable[[], Document]) -> None:
        """Count a record; `begin` makes the document of a key that is new. Waits for nothing."""
        with self._lock:
            tally = self._changed.get(key)
            if tally is None:
                tally = self._stored.pop(key, None)
                if tally is None and (tally := self._begun(begin, amount)) is None:
                    return
                self._changed[key] = tally
            tally.add(amount)
            if tally.count == _FULL:
                self._changed[tally] = self._changed.pop(key)
            idle, self._armed = not self._armed, True
        if idle:
            self._ring()

    def _begun(self, begin: Callable[[], Document], amount: int) -> _Tally | None:
        if len(self._changed) >= self._most:
            if not self.lost:
                _log.warning(
                    "%s: no room for more keys until MongoDB has stored some: records are lost",
                    self._operation,
                )
            self.lost += 1
            return None
        if len(self._changed) + len(self._stored) >= self._most:
            del self._stored[next(iter(self._stored))]
        return _Tally(begin(), amount)

    async def flush(self) -> None:
        """Store what was counted before the call; return once it is.

        May be cancelled at any time: what is not known to be stored is sent again.
        Raises: what MongoDB said of the first that is not stored.
        """
        async with self._flushing:
            with self._lock:
                keys = list(self._changed)
            failed: MultiDBError | None = None
            for at in range(0, len(keys), _BATCH):
                with self._lock:
                    states = [
                        (key, tally, tally.state())
                        for key in keys[at : at + _BATCH]
                        if (tally := self._changed.get(key))
                    ]
                refused = await self._advance([state for _, _, state in states])
                failed = failed or next(iter(refused.values()), None)
                self._settle(states, refused)
            if failed is not None:
                raise failed

    def _settle(
        self, states: Sequence[tuple[Hashable, _Tally, Document]], refused: Mapping[int, MultiDBError]
    ) -> None:
        with self._lock:
            for place, (key, tally, state) in enumerate(states):
                error = refused.get(place)
                if error is None:
                    tally.stored = state["count"]
                    if tally.count == tally.stored:
                        self._stored[key] = self._changed.pop(key)
                elif isinstance(error, ConstraintError | DataError) and not isinstance(
                    error, AlreadyExistsError
                ):
                    # Another try would meet the same.
                    self.lost += tally.count - tally.stored
                    del self._changed[key]

    # --- for as long as the store is open

    def start(self) -> None:
        """Begin to store what is counted, on the running loop; what was counted before, soon."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._flushing = asyncio.Lock()
        with self._lock:
            self._armed = bool(self._changed)
        if self._armed:
            self._ring()

    async def close(self) -> None:
        """Store what was counted, in time; what is left waits for the next `start`. Idempotent."""
        if self._loop is None:
            return
        try:
            if self._changed:
                async with asyncio.timeout(self._drain):
                    await self._flush_surely()
        except (TimeoutError, MultiDBError) as error:
            with self._lock:
                left = sum(tally.count - tally.stored for tally in self._changed.values())
            problem = error if isinstance(error, MultiDBError) else "MongoDB did not take them in time"
            _log.warning("%s: closed with %d records not stored: %s", self._operation, left, problem)
        finally:
            task = self._task
            self.forget()
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    async def _flush_surely(self) -> None:
        """Flush, again while MongoDB is away. Raises: what another try would meet too."""
        pauses = Pauses(0.1)
        while True:
            try:
                return await self.flush()
            except MultiDBError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(pauses.next())  # nothing tells when MongoDB is back

    def forget(self) -> None:
        """Let go of an event loop that is gone; what was counted waits for the next."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = self._task = None

    def _ring(self) -> None:
        loop = self._loop
        if loop is None:
            return
        if threading.get_ident() == self._thread:
            self._wait()
        else:
            with suppress(RuntimeError):  # the loop has ended: `start` will look
                loop.call_soon_threadsafe(self._wait)

    def _wait(self) -> None:
        if self._loop is not None:
            self._timer = self._loop.call_later(self._interval, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._loop is not None:
            # In a context of its own: what is counted inside a transaction is not part of it.
            self._task = self._loop.create_task(self._run(), name=self._operation, context=Context())

    async def _run(self) -> None:
        try:
            await self.flush()
        except Exception as error:  # whatever it is, what was counted waits until it is over
            if not self._away:
                problem = error if isinstance(error, MultiDBError) else repr(error)
                _log.warning("%s: records wait until MongoDB takes them: %s", self._operation, problem)
            self._away = True
        else:
            self._away = False
        self._task = None
        with self._lock:
            self._armed = bool(self._changed)
        if self._armed:
            self._ring()
