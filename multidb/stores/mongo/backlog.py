"""What was emitted and is not stored yet, and what became of the rest. Safe in threads.

Every emitted document is in one place at a time: in the buffer, on its way, in a spill file, or
gone, and then it was counted as stored, shed or refused. What does not fit in the buffer pushes
out the least grave, which is shed, or written to the spill file.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from multidb.errors import MultiDBError
from multidb.models.emitted import Emitted
from multidb.settings import Settings
from multidb.stores.mongo.buffer import Buffer, Item
from multidb.stores.mongo.documents import Encoded, encoded

if TYPE_CHECKING:
    from multidb.stores.mongo.spill import Chunk, Spill

__all__ = ["BATCH", "LOG", "Backlog", "Entry"]

#: Its own logger, which nothing that feeds an emitter may listen to.
LOG = logging.getLogger("multidb.emitting")

#: What leaves in one round trip, and how much memory it may be.
BATCH = 1000
_BATCH_BYTES = 8 * 1024 * 1024
_SPILLED_AT_ONCE = 100
_NEVER = float("inf")


class Entry(NamedTuple):
    """A document as it is sent, and how grave it is."""

    document: Encoded
    rank: int


class Backlog:
    """The documents of one emitter.

    `ranks` names how grave a document can be, the least first; `prepare` returns what may be
    stored of one. `alarm` is called, once, when the buffer holds as many as it was armed for.
    """

    def __init__(
        self,
        operation: str,
        *,
        ranks: Sequence[str],
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        alarm: Callable[[], None],
        directory: Path | None,
        settings: Settings,
    ) -> None:
        self._operation = operation
        self._ranks = tuple(ranks)
        self._prepare = prepare
        self._alarm = alarm
        self._armed = _NEVER
        # An emit may interrupt another in its own thread: a signal, or what a collected object logs.
        self._lock = RLock()
        self._encoding = RLock()
        self._making_room = False
        self._buffer = Buffer(
            len(ranks), most=settings.log_buffer_entries, most_bytes=settings.log_buffer_bytes
        )
        #: Encoded and not stored yet, a round trip each, the next one first.
        self.on_the_way: list[list[Entry]] = []
        self.spill = _spill(directory, settings)
        self._emitted = self._stored = self._refused = self._spilled = self._recovered = 0
        self._shed = [0] * len(ranks)
        self._told: set[str] = set()

    def put(self, document: dict[str, Any], size: int, rank: int) -> None:
        """Take a document, which is the backlog's from now on. Waits for nothing but the spill file."""
        with self._lock:
            self._emitted += 1
            buffer = self._buffer
            item = Item(document, size, rank)
            if not buffer.fits(size) and not self._making_room and not self._make_room(item):
                return
            buffer.put(item)
            if buffer.count >= self._armed or (self._armed != _NEVER and self.plenty):
                self._armed = _NEVER
                self._alarm()

    def refuse(self, error: Exception, *, emitted: int = 1) -> None:
        """Count a document that cannot be stored, and log the first of each kind."""
        with self._lock:
            self._emitted += emitted
            self._refused += 1
            # What others raise may hold the value in its text.
            known = isinstance(error, MultiDBError)
            problem = str(error) if known else f"{self._operation}: {type(error).__name__}"
            if problem in self._told or len(self._told) >= 100:
                return
            self._told.add(problem)
        LOG.error("refused, and so are others like it: %s", problem)

    def arm(self, count: float) -> bool:
        """Have the alarm called at so many documents; False if there are as many already."""
        with self._lock:
            if self._buffer.count >= count or self.plenty:
                return False
            self._armed = count
            return True

    def disarm(self) -> None:
        """Have the alarm not called."""
        self._armed = _NEVER

    @property
    def plenty(self) -> bool:
        """Whether the buffer fills a round trip."""
        return self._buffer.count >= BATCH or self._buffer.size > _BATCH_BYTES

    @property
    def fullness(self) -> float:
        """Which part of the buffer's room is taken, 0 to 1."""
        return self._buffer.fullness()

    def take(self) -> bool:
        """Put the gravest of the buffer on their way, a round trip full; False if there are none. Blocks."""
        with self._encoding:
            with self._lock:
                items = self._buffer.take(BATCH, _BATCH_BYTES)
            if entries := self._entries(items):
                self.on_the_way.append(entries)
            return bool(items)

    def settle(self, *, stored: int, refused: Iterable[Exception] = ()) -> None:
        """Count what came of documents that were on their way."""
        with self._lock:
            self._stored += stored
        for error in refused:
            self.refuse(error, emitted=0)

    def settle_chunk(self, chunk: "Chunk", refused: Sequence[Exception]) -> None:
        """Count what came of documents of a spill file. Blocks."""
        assert self.spill is not None
        self.spill.finish(chunk)
        with self._lock:
            stored = len(chunk.documents) - len(refused)
            if chunk.segment.own:
                self._spilled -= len(chunk.documents)
                self._stored += stored
                for error in refused:
                    self.refuse(error, emitted=0)
            else:
                self._recovered += stored

    def relieve(self) -> None:
        """Write to the spill file what is above half of the buffer's room. Blocks."""
        while self.fullness > 0.5:
            with self._encoding:
                with self._lock:
                    items = self._buffer.give_up(len(self._ranks) - 1, _SPILLED_AT_ONCE)
                self._push_out(items)

    def abandon(self) -> None:
        """Spill or shed all that is in memory. Blocks."""
        with self._encoding, self._lock:
            while self.on_the_way:
                self._lose(self.on_the_way.pop(0))
            while items := self._buffer.give_up(len(self._ranks) - 1, _SPILLED_AT_ONCE):
                self._push_out(items)
            if self.spill is not None:
                self.spill.close()

    @property
    def counts(self) -> Emitted:
        """What became of everything that was emitted."""
        with self._lock:
            gone = self._stored + self._refused + self._spilled + sum(self._shed)
            return Emitted(
                emitted=self._emitted,
                stored=self._stored,
                shed={rank: n for rank, n in zip(self._ranks, self._shed, strict=True) if n},
                refused=self._refused,
                spilled=self._spilled,
                pending=self._emitted - gone,
                recovered=self._recovered,
            )

    def _make_room(self, item: Item) -> bool:
        """Push out what is least grave until `item` fits; False if that is the item itself."""
        self._making_room = True  # what is called here may log, and so emit
        try:
            while not self._buffer.fits(item.size):
                victims = self._buffer.give_up(item.rank, 1 if self.spill is None else _SPILLED_AT_ONCE)
                if not victims:
                    self._push_out([item])
                    return False
                self._push_out(victims)
            return True
        finally:
            self._making_room = False

    def _entries(self, items: Iterable[Item]) -> list[Entry]:
        """Return what can be stored of these, redacted; the others are refused."""
        entries: list[Entry] = []
        for item in items:
            try:
                document = encoded(self._prepare(item.document), operation=self._operation)
            except Exception as error:  # whatever a redactor raises
                self.refuse(error, emitted=0)
            else:
                entries.append(Entry(document, item.rank))
        return entries

    def _push_out(self, items: Sequence[Item]) -> None:
        if self.spill is not None:
            self._lose(self._entries(items))
            return
        with self._lock:
            for item in items:
                self._shed[item.rank] += 1

    def _lose(self, entries: Sequence[Entry]) -> None:
        """Write these to the spill file, and shed those that are not."""
        written = (
            self.spill.write(bytes(entry.document.raw) for entry in entries) if self.spill is not None else 0
        )
        with self._lock:
            self._spilled += written
            for entry in entries[written:]:
                self._shed[entry.rank] += 1


def _spill(directory: Path | None, settings: Settings) -> "Spill | None":
    if directory is None:
        return None
    # Imported here, for its locks are not on every platform.
    from multidb.stores.mongo.spill import Spill

    return Spill(directory, limit=settings.log_spill_bytes, sync=settings.log_spill_sync)
