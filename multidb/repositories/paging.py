"""A page's cursors: where it ends, and where it began."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from multidb.errors import DataError
from multidb.models.page import Page
from multidb.stores.cursor import CursorCodec

__all__ = ["Asked", "Place", "page_of"]

RowT = TypeVar("RowT")
ItemT = TypeVar("ItemT")


class Place(NamedTuple):
    """Where in an order a page begins: beyond the row of a position, or, if `inclusive`, at it."""

    position: list[Any]
    inclusive: bool = False


class Asked:
    """Which page of a query was asked for: the first, the one after a cursor, or the one before it."""

    def __init__(self, after: str | None, before: str | None, operation: str) -> None:
        """Raises: DataError if both are given."""
        if after is not None and before is not None:
            raise DataError("give `after` or `before`, not both", operation=operation)
        self.cursor = after if before is None else before
        self.backwards = before is not None

    def place(self, cursors: CursorCodec, query: bytes) -> Place | None:
        """Return where the cursor stands, or None for the first page. Raises: InvalidCursorError."""
        if self.cursor is None:
            return None
        *position, side = cursors.decode(self.cursor, query=query)
        # Just before its row, it has the row before it on the way forward, and not on the way back.
        return Place(position, inclusive=side == (_JUST_AFTER if self.backwards else _JUST_BEFORE))


#: On which side of its row a cursor stands. Only what leads back from a page that turned out empty
#: does not stand at it, for then the row itself is on the way.
_JUST_BEFORE, _AT, _JUST_AFTER = -1, 0, 1


def page_of(
    items: Sequence[ItemT],
    rows: Sequence[RowT],
    position: Callable[[RowT], Sequence[Any]],
    *,
    asked: Asked,
    place: Place | None,
    more: bool,
    cursors: CursorCodec,
    query: bytes,
    total: int | None,
) -> Page[ItemT]:
    """Return a page of `items`, made of `rows`, from `place` on; `more` tells if there are others beyond."""

    def cursor(position: Sequence[Any], side: int = _AT) -> str:
        return cursors.encode([*position, side], query=query)

    ahead = behind = None
    # Where it came from there is more: the row that the cursor tells.
    origin = place is not None and not place.inclusive
    if rows:
        first, last = (rows[-1], rows[0]) if asked.backwards else (rows[0], rows[-1])
        ahead = cursor(position(last)) if more else None
        behind = cursor(position(first)) if origin else None
    elif place is not None and origin:
        behind = cursor(place.position, _JUST_BEFORE if asked.backwards else _JUST_AFTER)
    following, previous = (behind, ahead) if asked.backwards else (ahead, behind)
    return Page(tuple(items), next=following, previous=previous, total=total)
