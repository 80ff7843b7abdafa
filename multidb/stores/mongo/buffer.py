"""What was emitted and is not on its way yet: in memory, bounded by count and by bytes."""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Buffer", "Item"]


class Item(NamedTuple):
    """A document, roughly the bytes of memory it takes, and how grave it is: 0 is the least."""

    document: dict[str, Any]
    size: int
    rank: int


class Buffer:
    """Documents by rank, the oldest of each first. Not safe in itself: its owner holds a lock."""

    def __init__(self, ranks: int, *, most: int, most_bytes: int) -> None:
        self._queues: tuple[deque[Item], ...] = tuple(deque() for _ in range(ranks))
        self._most = most
        self._most_bytes = most_bytes
        self.count = 0
        self.size = 0

    def fits(self, size: int) -> bool:
        """Return whether a document of this size has room."""
        return self.count < self._most and self.size + size <= self._most_bytes

    def fullness(self) -> float:
        """Return which part of the room is taken, 0 to 1."""
        return max(self.count / self._most, self.size / self._most_bytes)

    def put(self, item: Item) -> None:
        """Keep a document, whatever its size."""
        self._queues[item.rank].append(item)
        self.count += 1
        self.size += item.size

    def take(self, most: int, weight: int) -> list[Item]:
        """Return so many of the gravest, and so heavy together; at least one, if there is any."""
        return list(self._leaving(range(len(self._queues) - 1, -1, -1), most, weight))

    def give_up(self, rank: int, most: int) -> list[Item]:
        """Return so many of the least grave, none graver than `rank`."""
        return list(self._leaving(range(rank + 1), most, self.size + 1))

    def _leaving(self, ranks: range, most: int, weight: int) -> Iterator[Item]:
        for rank in ranks:
            queue = self._queues[rank]
            while queue and most > 0 and weight > 0:
                item = queue.popleft()
                self.count -= 1
                self.size -= item.size
                most -= 1
                weight -= item.size
                yield item
