"""Keyset pages: the documents after a position in an order, found by index and not by counting.

Every order ends in `_id`, so no two documents are equal in it. An absent field counts as null,
and null as less than every value: MongoDB's own order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bson import json_util

__all__ = ["Keyset"]

#: Keeps each value's BSON type, which decides its place in the order.
_JSON = json_util.CANONICAL_JSON_OPTIONS.with_options(tz_aware=True, uuid_representation=4)


class Keyset:
    """An order over a collection's documents: field and direction, 1 or -1."""

    def __init__(self, order: Sequence[tuple[str, int]]) -> None:
        self.sort = list(order)
        if "_id" not in (name for name, _ in self.sort):
            self.sort.append(("_id", self.sort[-1][1] if self.sort else 1))

    def position(self, document: Mapping[str, Any]) -> list[str]:
        """Return where a document stands in the order."""
        return [json_util.dumps(document.get(name), json_options=_JSON) for name, _ in self.sort]

    def after(self, position: Sequence[str]) -> dict[str, Any]:
        """Return the condition of coming after `position`."""
        condition: dict[str, Any] | None = None
        for (name, direction), text in reversed(list(zip(self.sort, position, strict=True))):
            value = json_util.loads(text, json_options=_JSON)
            ways = [_beyond(name, direction, value)]
            if condition is not None:
                ways.append({"$and": [{name: value}, condition]})
            # Without an answer of its own, such as "less than null", a way drops out.
            ways = [way for way in ways if way is not None]
            condition = {"$or": ways} if ways else None
        assert condition is not None  # `_id` is never null
        return condition


def _beyond(name: str, direction: int, value: Any) -> dict[str, Any] | None:
    if value is None:
        return {name: {"$ne": None}} if direction > 0 else None
    if direction > 0:
        return {name: {"$gt": value}}
    return {"$or": [{name: {"$lt": value}}, {name: None}]}
