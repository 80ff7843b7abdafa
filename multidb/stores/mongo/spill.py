"""Documents that wait on the disk: files that are only appended to, read again once there is room.

A segment begins with a magic word; then records, each its length, its CRC-32 and the document as
BSON. Its maker holds a lock on it for as long as it lives, so a segment that can be locked belongs
to nobody: whoever locks it first replays it, and removes it at its end. A process that is killed
loses nothing that was written; a machine that fails may lose what was not synced. A record cut
short ends its segment; one that was altered keeps the rest for a person to look at.
"""

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from multidb.models.ids import uuid7

__all__ = ["Chunk", "Segment", "Spill"]

_log = logging.getLogger("multidb.emitting")

_MAGIC = b"MDBSPIL1"
_RECORD = struct.Struct("<II")
_SEGMENT_BYTES = 16 * 1024 * 1024
_LONGEST = 16 * 1024 * 1024 + 16 * 1024


@dataclass(eq=False)
class Segment:
    """One file, locked by this process."""

    path: Path
    descriptor: int
    #: Whether this process wrote it, and not one that is gone.
    own: bool
    size: int
    #: Everything before has been stored.
    done: int = len(_MAGIC)


class Chunk(NamedTuple):
    """Some records of a segment, and where they end in it."""

    segment: Segment
    documents: list[bytes]
    end: int


class Spill:
    """The segments of one collection in one directory. Safe in threads; every call may wait for the disk."""

    def __init__(self, directory: Path, *, limit: int, sync: bool) -> None:
        self._directory = directory
        self._limit = limit
        self._sync = sync
        self._lock = RLock()
        self._active: Segment | None = None
        #: Those to be replayed, the oldest first.
        self._sealed: list[Segment] = []
        #: What this process wrote, and how much of it has been stored.
        self._made: dict[Path, int] = {}

    @property
    def waiting(self) -> bool:
        """Whether something is to be replayed."""
        return self._active is not None or bool(self._sealed)

    def write(self, documents: Iterable[bytes]) -> int:
        """Append documents, up to the first that does not fit; return how many. Never raises."""
        written = 0
        with self._lock:
            for part in _parts(documents):
                try:
                    room = self._limit - sum(each.size - each.done for each in self._segments() if each.own)
                    if len(part.data) > room:
                        break
                    self._append(part.data)
                except OSError as error:
                    _log.error("the spill file could not be written: %s", error.strerror)
                    break
                written += part.documents
        return written

    def claim(self) -> None:
        """Take over the segments that nobody holds."""
        with self._lock:
            known = {each.path for each in self._segments()}
            for path in sorted(self._directory.glob("*.spill")):
                if path not in known and (segment := self._claimed(path)) is not None:
                    self._sealed.append(segment)

    def next(self, most: int = 4 * 1024 * 1024) -> Chunk | None:
        """Return the oldest records that are not done, or None. The same again until `finish`."""
        with self._lock:
            if not self._sealed and self._active is not None:
                self._sealed.append(self._active)
                self._active = None
            while self._sealed:
                segment = self._sealed[0]
                try:
                    chunk = self._read(segment, most)
                except _Altered:
                    self._set_aside(segment)
                    continue
                if chunk.documents:
                    return chunk
                self._remove(segment)
            return None

    def finish(self, chunk: Chunk) -> None:
        """Never give these records again."""
        with self._lock:
            chunk.segment.done = chunk.end
            if chunk.end >= chunk.segment.size and chunk.segment in self._sealed:
                self._remove(chunk.segment)

    def close(self) -> None:
        """Leave what waits to whoever claims it next."""
        with self._lock:
            for segment in self._segments():
                if segment.own:
                    self._made[segment.path] = segment.done
                os.close(segment.descriptor)
            self._active = None
            self._sealed.clear()

    def _segments(self) -> list[Segment]:
        return [*self._sealed, *([self._active] if self._active else [])]

    def _append(self, data: bytes) -> None:
        segment = self._active
        if segment is not None and segment.size + len(data) > _SEGMENT_BYTES:
            self._sealed.append(segment)
            segment = None
        if segment is None:
            segment = self._active = self._new()
        try:
            _write(segment.descriptor, data)
            if self._sync:
                os.fsync(segment.descriptor)
        except OSError:
            os.ftruncate(segment.descriptor, segment.size)  # half a record would end the segment
            raise
        segment.size += len(data)

    def _new(self) -> Segment:
        self._active = None
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = self._directory / f"{uuid7().hex}.spill"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            try:
                # Another process may find it before it is locked, take it for one that was left,
                # and remove it.
                if not _locked(descriptor):
                    os.close(descriptor)
                    continue
                _write(descriptor, _MAGIC)
                if self._sync:
                    os.fsync(descriptor)
            except BaseException:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
            self._made[path] = len(_MAGIC)
            return Segment(path, descriptor, own=True, size=len(_MAGIC))

    def _claimed(self, path: Path) -> Segment | None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None  # somebody removed it, or it is not ours to read
        if not _locked(descriptor):
            os.close(descriptor)
            return None
        size, done = os.fstat(descriptor).st_size, self._made.get(path)
        return Segment(path, descriptor, own=done is not None, size=size, done=done or len(_MAGIC))

    def _read(self, segment: Segment, most: int) -> Chunk:
        """Return the next records. Raises: _Altered if what comes next is no record."""
        if segment.done == len(_MAGIC) and os.pread(segment.descriptor, len(_MAGIC), 0) != _MAGIC:
            if segment.size >= len(_MAGIC):
                raise _Altered
            return Chunk(segment, [], segment.size)
        data = os.pread(segment.descriptor, most, segment.done)
        documents: list[bytes] = []
        place = 0
        while len(data) - place >= _RECORD.size:
            length, check = _RECORD.unpack_from(data, place)
            if length > _LONGEST:
                raise _Altered
            if place + _RECORD.size + length > len(data):
                if not documents and segment.done + _RECORD.size + length <= segment.size:
                    return self._read(segment, _RECORD.size + length)  # one that is longer than a chunk
                break
            document = data[place + _RECORD.size : place + _RECORD.size + length]
            if zlib.crc32(document) != check:
                if documents:
                    break  # these first
                raise _Altered
            documents.append(document)
            place += _RECORD.size + length
        return Chunk(segment, documents, segment.done + place)

    def _remove(self, segment: Segment) -> None:
        if segment.done < segment.size:
            _log.warning("a spill file ended in half a record, which is lost: its writer was cut off")
        segment.path.unlink(missing_ok=True)
        self._sealed.remove(segment)
        os.close(segment.descriptor)
        self._made.pop(segment.path, None)

    def _set_aside(self, segment: Segment) -> None:
        kept = segment.path.with_suffix(".damaged")
        _log.error(
            "a spill file was altered: what it holds from byte %d on is kept as %s", segment.done, kept.name
        )
        segment.path.rename(kept)
        self._sealed.remove(segment)
        os.close(segment.descriptor)


class _Part(NamedTuple):
    data: bytes
    documents: int


def _parts(documents: Iterable[bytes]) -> Iterator[_Part]:
    """Yield the records of documents, about a megabyte at a time."""
    records: list[bytes] = []
    size = 0
    for document in documents:
        records += (_RECORD.pack(len(document), zlib.crc32(document)), document)
        size += _RECORD.size + len(document)
        if size >= 1024 * 1024:
            yield _Part(b"".join(records), len(records) // 2)
            records, size = [], 0
    if records:
        yield _Part(b"".join(records), len(records) // 2)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _locked(descriptor: int) -> bool:
    """Take the lock of an open file; return whether it is ours now, and the file still has its name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(descriptor).st_nlink > 0


class _Altered(Exception):  # noqa: N818 - handled here, and never seen outside
    pass
