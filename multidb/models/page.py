"""A page of results."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Page"]

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """The items of one page, in order, and the cursor of the next.

    `next` is None on the last page; else give it as `after=` to the same query.
    """

    items: tuple[ItemT, ...]
    next: str | None = None

    def __iter__(self) -> Iterator[ItemT]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
