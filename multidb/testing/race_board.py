"""What the processes of a race tell each other: what was committed, and what they have done."""

import mmap
import struct
from pathlib import Path
from typing import Self

__all__ = ["ERRORS", "READS", "WRITES", "Board"]

#: What is counted.
READS, WRITES, ERRORS = range(3)
COUNTED = 3

_CELL = struct.Struct("=Q")


class Board:
    """Numbers in a file that all processes have in memory; each has cells of its own, which it alone writes.

    So what one has written stands there for all at once, also if it is killed in the next moment.
    """

    def __init__(self, path: Path, *, processes: int, keys: int) -> None:
        self._processes, self._keys = processes, keys
        size = processes * (keys + COUNTED) * _CELL.size
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._cells = mmap.mmap(file.fileno(), size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cells.close()

    def committed(self, process: int, key: int, number: int) -> None:
        """Note that this number, or a greater one, is committed at a key."""
        place = process * self._keys + key
        self._put(place, max(number, self._get(place)))

    def floor(self, key: int) -> int:
        """Return what is known to be committed: no read that begins now may be given less."""
        return max(self.floor_of(process, key) for process in range(self._processes))

    def floor_of(self, process: int, key: int) -> int:
        """Return what is known to be committed by one process."""
        return self._get(process * self._keys + key)

    def count(self, process: int, what: int) -> None:
        """Count a read, a write or an error."""
        place = self._processes * self._keys + COUNTED * process + what
        self._put(place, self._get(place) + 1)

    def counted(self, what: int) -> int:
        """Return how many all have counted."""
        first = self._processes * self._keys + what
        return sum(self._get(first + COUNTED * process) for process in range(self._processes))

    def _get(self, place: int) -> int:
        number: int = _CELL.unpack_from(self._cells, place * _CELL.size)[0]
        return number

    def _put(self, place: int, number: int) -> None:
        _CELL.pack_into(self._cells, place * _CELL.size, number)
