"""A page's cursors: where it ends, and where it began."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from multidb.errors import DataError
from multidb.models.page import Page
from multidb.stores.cursor import CursorCodec

__all__ = ["Asked", "page_of"]

RowT = TypeVar("RowT")
ItemT = TypeVar("ItemT")


class Asked:
    """Which page of a query was asked for: the first, the one after a cursor, or the one before it."""

    def __init__(self, after: str | None, before: str | None, operation: str) -> None:
        """Raises: DataError if both are given."""
        if after is not None and before is not None:
            raise DataError("give `after` or `before`, not both", operation=operation)
        self.cursor = after if before is None else before
        self.backwards = before is not None

    def position(self, cursors: CursorCodec, query: bytes) -> list[Any] | None:
        """Return where the cursor stands, or None for the first page. Raises: InvalidCursorError."""
        return None if self.cursor is None else cursors.decode(self.cursor, query=query)


def page_of(
    items: Sequence[ItemT],
    rows: Sequence[RowT],
    position: Callable[[RowT], Sequence[Any]],
    *,
    asked: Asked,
    more: bool,
    cursors: CursorCodec,
    query: bytes,
    total: int | None,
) -> Page[ItemT]:
    """Return a page of `items`, made of `rows`; `more` tells whether there are others beyond them."""

    def cursor_at(row: RowT, there: bool) -> str | None:
        return cursors.encode(position(row), query=query) if there else None

    return Page(
        tuple(items),
        # Where it came from there is more: the row that the cursor tells.
        next=cursor_at(rows[-1], asked.backwards or more) if rows else None,
        previous=cursor_at(rows[0], more if asked.backwards else asked.cursor is not None) if rows else None,
        total=total,
    )
