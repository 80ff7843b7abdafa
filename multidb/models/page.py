"""A page of results."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Page"]

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """The items of one page, in order, and the cursors of its neighbours.

    `next` is None on the last page; else give it as `after=` to the same query. `previous` is None
    on the first page; else give it as `before=`. A page that is empty, for what stood there is gone,
    leads back to where it was come from. `total` is how many items all pages have, where
    that was asked for.
    """

    items: tuple[ItemT, ...]
    next: str | None = None
    previous: str | None = None
    total: int | None = None

    def __iter__(self) -> Iterator[ItemT]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
