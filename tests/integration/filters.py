"""Conditions at random, and what they mean in Python, whatever the store."""

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from multidb.models.filters import And, Comparison, Condition, Field, Fields, Not, Or

__all__ = ["ORDERINGS", "PATTERNS", "Stored", "conditions", "holds"]

PATTERNS = [
    "",
    "a",
    "%",
    "_",
    "a%",
    "%B",
    "a_",
    "b\\%",
    "b\\_",
    "b\\\\",
    "\\a%",
    "%\n%",
    "É",
    "é",
    "___",
    "a%%b",
    "\\%%",
]

ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


class Stored(list[Any]):
    """What a store holds; of the same few words in every report of a failure."""

    def __repr__(self) -> str:
        return "the rows"


def conditions(
    c: Fields,
    values: Mapping[str, Sequence[Any]],
    *,
    ordered: Collection[str],
    texts: Collection[str],
    lists: Collection[str] = (),
    compared: Collection[str] | None = None,
) -> st.SearchStrategy[Condition]:
    """Return conditions over the fields of `values`, which are compared with these values and null.

    `ordered` are the fields with an order, `texts` those that match patterns, `lists` those without
    `in_`; `compared` those that have an equality, all if it is not given.
    """

    @st.composite
    def comparisons(draw: st.DrawFn) -> Condition:
        name = draw(st.sampled_from(list(values)))
        field: Field[Any] = c[name]
        value = st.sampled_from([None, *values[name]])
        kinds = ["is_null", "is_not_null"]
        kinds += ["==", "!="] if compared is None or name in compared else []
        kinds += ["in_"] if "==" in kinds and name not in lists else []
        kinds += ["<", "<=", ">", ">=", "between"] if name in ordered else []
        kinds += ["like", "ilike"] if name in texts else []
        match draw(st.sampled_from(kinds)):
            case "in_":
                return field.in_(draw(st.lists(value, max_size=4)))
            case "between":
                return field.between(draw(value), draw(value))
            case "like":
                return field.like(draw(st.sampled_from(PATTERNS)))
            case "ilike":
                return field.ilike(draw(st.sampled_from(PATTERNS)))
            case "is_null":
                return field.is_null()
            case "is_not_null":
                return field.is_not_null()
            case sign:
                signs = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
                condition: Condition = getattr(operator, signs[sign])(field, draw(value))
                return condition

    return st.recursive(
        comparisons(),
        lambda inner: st.one_of(
            st.builds(operator.and_, inner, inner),
            st.builds(operator.or_, inner, inner),
            st.builds(Not, inner),
        ),
        max_leaves=6,
    )


def holds(condition: Condition, row: Any, *, folding: int) -> bool:
    """Tell in Python whether a row fulfils a condition; `folding` are the flags of a match in any case."""
    match condition:
        case Comparison(field, "eq", value):
            return bool(getattr(row, field) == value)
        case Comparison(field, "in", several):
            return getattr(row, field) in several
        case Comparison(field, operator_, value):
            has = getattr(row, field)
            if has is None or value is None:
                return False
            if operator_ in {"like", "ilike"}:
                return matches(has, value, folding if operator_ == "ilike" else 0)
            return ORDERINGS[operator_](has, value)
        case And(several):
            return all(holds(each, row, folding=folding) for each in several)
        case Or(several):
            return any(holds(each, row, folding=folding) for each in several)
        case Not(inner):
            return not holds(inner, row, folding=folding)
    raise AssertionError


def matches(text: str, pattern: str, folding: int) -> bool:
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    translated = "".join({"%": ".*", "_": "."}.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(translated, text, re.DOTALL | folding) is not None
