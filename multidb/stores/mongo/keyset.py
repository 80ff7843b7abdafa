"""Keyset pages: the documents after a position in an order, found by index and not by counting.

Every order ends in `_id`, so no two documents are equal in it. An absent field counts as null,
and null as less than every value: MongoDB's own order, which its indexes serve. NaN is less than
every number there, and yet no number is `$gt` NaN, nor is NaN `$lt` one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bson import json_util

__all__ = ["Key", "Keyset"]

#: Keeps each value's BSON type, which decides its place in the order.
_JSON = json_util.CANONICAL_JSON_OPTIONS.with_options(tz_aware=True, uuid_representation=4)


class Key(NamedTuple):
    """One field of an order."""

    name: str
    descending: bool = False
    nullable: bool = True


class Keyset:
    """An order over a collection's documents."""

    def __init__(self, keys: Sequence[Key]) -> None:
        first: dict[str, Key] = {}
        for key in keys:
            first.setdefault(key.name, key)  # named again, it decides nothing more
        self._keys = list(first.values())
        if "_id" not in first:
            self._keys.append(Key("_id", bool(keys) and self._keys[-1].descending, nullable=False))

    def sort(self, *, backwards: bool = False) -> list[tuple[str, int]]:
        """Return the order, or the opposite one, as MongoDB takes it."""
        return [(key.name, -1 if key.descending is not backwards else 1) for key in self._keys]

    def position(self, document: Mapping[str, Any]) -> list[str]:
        """Return where a document stands in the order, as JSON values."""
        return [json_util.dumps(document.get(key.name), json_options=_JSON) for key in self._keys]

    def beyond(
        self, position: Sequence[str], *, backwards: bool = False, inclusive: bool = False
    ) -> dict[str, Any]:
        """Return the condition of coming after a position, or before it; or of being there, if inclusive."""
        values = [json_util.loads(text, json_options=_JSON) for text in position]
        keys = [
            (key.name, key.descending is not backwards, key.nullable, value)
            for key, value in zip(self._keys, values, strict=True)
        ]
        condition: dict[str, Any] | None = None
        for name, descending, nullable, value in reversed(keys):
            ways = _beyond(name, value, descending=descending, nullable=nullable)
            if condition is not None:
                ways.append({"$and": [{name: {"$eq": value}}, condition]})
            elif inclusive:
                ways.append({name: {"$eq": value}})
            condition = {"$or": ways} if len(ways) > 1 else ways[0] if ways else None
        assert condition is not None  # `_id` is never null
        name, descending, nullable, value = keys[0]
        in_one_range = not (descending and (nullable or isinstance(value, float))) and not _is_nan(value)
        if len(keys) > 1 and value is not None and in_one_range:
            # Says nothing new, but is a range that an index can begin at.
            condition = {"$and": [{name: {"$lte" if descending else "$gte": value}}, condition]}
        return condition


def _beyond(name: str, value: Any, *, descending: bool, nullable: bool) -> list[dict[str, Any]]:
    """Return the ways to be beyond a value; null is less than every other, and then NaN."""
    if value is None:
        return [] if descending else [{name: {"$ne": None}}]
    if not descending:
        return [{name: {"$gte": -math.inf} if _is_nan(value) else {"$gt": value}}]
    ways: list[dict[str, Any]] = [{name: {"$lt": value}}]
    if isinstance(value, float) and not _is_nan(value):
        ways.append({name: math.nan})
    return [*ways, *([{name: None}] if nullable else [])]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
