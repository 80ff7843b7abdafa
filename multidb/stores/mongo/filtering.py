"""Conditions as MongoDB's queries, with the truth they have everywhere.

MongoDB's own matching knows no unknown either: a comparison by order is false of null and of an
absent field, which are one to it, and `$not` is the exact opposite. Negation is pushed down to the
comparisons all the same, where an index serves it.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from multidb.models.filters import And, Comparison, Condition, Not, Or, Reader

__all__ = ["NOTHING", "Filter", "Query", "conjunction", "query_of", "stored_name"]

Query: TypeAlias = dict[str, Any]
#: What `find` and the others take: a condition over fields, or a query in MongoDB's own language,
#: `{"level": {"$in": ["error", "critical"]}}`.
Filter: TypeAlias = Condition | Mapping[str, Any]

#: What no document fulfils; answered without looking at one.
NOTHING: Query = {"_id": {"$in": []}}

_ORDERINGS = {"lt": "$lt", "le": "$lte", "gt": "$gt", "ge": "$gte"}
_MILLISECOND = timedelta(milliseconds=1)
_LATEST = datetime.max.replace(tzinfo=UTC) - _MILLISECOND


def stored_name(field: str) -> str:
    """Return the name a document keeps a field under."""
    return "_id" if field == "id" else field


def conjunction(parts: Sequence[Mapping[str, Any]]) -> Query:
    """Return the query that all of `parts` are fulfilled."""
    parts = [part for part in parts if part]
    return {"$and": parts} if len(parts) > 1 else dict(parts[0]) if parts else {}


def query_of(condition: Condition, read: Reader, *, negated: bool = False) -> Query:
    """Return a condition, or its opposite, as a query; its values are never taken for operators."""
    match condition:
        case Comparison(field, operator, value):
            return _compared(stored_name(field), operator, _read(condition, value, read), negated=negated)
        case And(conditions) | Or(conditions):
            parts = [query_of(each, read, negated=negated) for each in conditions]
            if isinstance(condition, And) is not negated:
                return conjunction(parts)
            return {"$or": parts} if parts else NOTHING
        case Not(inner):
            return query_of(inner, read, negated=not negated)
    raise TypeError(f"{type(condition).__name__} is not a condition of multidb's")


def _read(condition: Comparison, value: Any, read: Reader) -> Any:
    if condition.operator == "in":
        read(condition, None)
        return [read(condition, each) for each in value]
    return read(condition, value)


def _compared(name: str, operator: str, value: Any, *, negated: bool) -> Query:
    if operator == "in":
        return {name: {"$nin" if negated else "$in": [each for each in value if _is_storable(each)]}}
    if operator == "eq":
        if not _is_storable(value):
            return {} if negated else NOTHING
        return {name: {"$ne" if negated else "$eq": value}}
    if value is None:
        return {} if negated else NOTHING
    if operator in _ORDERINGS:
        test: Query = {_ORDERINGS[operator]: _bound(operator, value)}
    else:
        test = {"$regex": _regex(value), "$options": "si" if operator == "ilike" else "s"}
    return {name: {"$not": test} if negated else test}


def _is_storable(value: Any) -> bool:
    """Tell whether a document can hold just this: no more than milliseconds, no more than 64 bits."""
    if isinstance(value, datetime):
        return value.microsecond % 1000 == 0
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _bound(operator: str, value: Any) -> Any:
    """Return what to compare with, so that nothing is lost where it becomes BSON."""
    if _is_storable(value):
        return value
    if isinstance(value, int):
        return float("inf") if value > 0 else float("-inf")  # beyond every whole number there is
    if operator in {"lt", "ge"} and value < _LATEST:
        return value + _MILLISECOND - timedelta(microseconds=value.microsecond % 1000)
    return value


def _regex(pattern: str) -> str:
    """Return what `like` means by a pattern, from the text's begin to its very end."""
    parts = re.findall(r"\\.|.", re.sub(r"(?<!\\)%+", "%", pattern), re.DOTALL)
    return "^" + "".join(_WILDCARDS.get(part) or _literal(part[-1]) for part in parts) + r"\z"


_WILDCARDS = {"%": ".*", "_": "."}


def _literal(character: str) -> str:
    return r"\x00" if character == "\0" else re.escape(character)
