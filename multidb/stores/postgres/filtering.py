"""Conditions as SQL, in two steps: a shape, by which the compiled statement is kept, and its values.

Negation is pushed down to the comparisons, where `~(age < 18)` becomes `age >= 18 OR age IS NULL`:
so no condition is ever unknown, and those over columns without nulls stay what an index serves.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from operator import ge, gt, le, lt
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.sql.visitors import replacement_traverse

from multidb.models.filters import And, Comparison, Condition, Not, Or, Reader
from multidb.stores.postgres.statements import unbounded

__all__ = ["Filter", "Where"]

#: What `find` and the others take: a condition over fields, or a SQLAlchemy expression over the table.
Filter: TypeAlias = Condition | sa.ColumnElement[bool]

Shape: TypeAlias = tuple[Any, ...]

_ORDERINGS: dict[str, tuple[Any, Any]] = {"lt": (lt, ge), "le": (le, gt), "gt": (gt, le), "ge": (ge, lt)}


class Where:
    """What rows must fulfil, taken apart: filters of one shape differ in their values alone."""

    __slots__ = ("_filters", "shape", "values")

    def __init__(self, filters: Sequence[Filter], read: Reader) -> None:
        #: Hashable; None if the statement cannot be kept.
        self.shape: Shape | None
        #: The values by the name of their parameter.
        self.values: dict[str, Any]
        self._filters = filters

        values: list[Any] = []
        shapes: list[Shape | None] = []
        for each in filters:
            if isinstance(each, Condition):
                shapes.append(_shape(each, values, read, negated=False))
            else:
                shapes.append(_raw_shape(each, values))
        self.shape = None if None in shapes else tuple(shapes)
        self.values = {f"_f{number}": value for number, value in enumerate(values)}

    def expression(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """Return the condition, its values left open as parameters named as in `values`."""
        names = (f"_f{number}" for number in count())
        parts = [
            _built(_shape(each, [], _as_it_is, negated=False), table, names)
            if isinstance(each, Condition)
            else _opened(each, names)
            for each in self._filters
        ]
        return sa.and_(sa.true(), *parts)


def _as_it_is(_: Comparison, value: Any) -> Any:
    return value


def _shape(condition: Condition, values: list[Any], read: Reader, *, negated: bool) -> Shape:
    """Return the shape of a condition or of its opposite, and append its values."""
    match condition:
        case Comparison(field, "in", given):
            read(condition, None)
            present = [read(condition, value) for value in given if value is not None]
            values.append(present)
            return ("in", field, negated, len(present) < len(given))
        case Comparison(field, operator, value):
            value = read(condition, value)
            if value is None:
                return ("null", field, negated) if operator == "eq" else ("constant", negated)
            values.append(value)
            return (operator, field, negated)
        case And(conditions) | Or(conditions):
            connective = "and" if isinstance(condition, And) is not negated else "or"
            return (connective, *(_shape(each, values, read, negated=negated) for each in conditions))
        case Not(inner):
            return _shape(inner, values, read, negated=not negated)
    raise TypeError(f"{type(condition).__name__} is not a condition of multidb's")


def _raw_shape(expression: sa.ColumnElement[bool], values: list[Any]) -> Shape | None:
    """Return what SQLAlchemy itself caches an expression by, and append its values."""
    key = expression._generate_cache_key()  # noqa: SLF001 - SQLAlchemy offers no other way to it
    if key is None or any(bind.expanding for bind in key.bindparams):
        return None  # an IN has as many parameters as values
    values += [bind.effective_value for bind in key.bindparams]
    return ("raw", key.key)


def _built(shape: Shape, table: sa.Table, names: Iterator[str]) -> sa.ColumnElement[bool]:
    kind, *rest = shape
    if kind in {"and", "or"}:
        parts = [_built(each, table, names) for each in rest]
        return sa.and_(sa.true(), *parts) if kind == "and" else sa.or_(sa.false(), *parts)
    if kind == "constant":
        return sa.true() if rest[0] else sa.false()
    name, negated, *null_too = rest
    column = table.c[name]
    if kind == "null":
        return column.is_not(None) if negated else column.is_(None)
    if kind == "in":
        return _in(column, next(names), negated=negated, null_too=null_too[0])
    type_ = sa.Text() if kind in {"like", "ilike"} else unbounded(column.type)
    value = sa.bindparam(next(names), None, type_=type_)
    test: sa.ColumnElement[bool]
    if kind == "eq":
        test = column != value if negated else column == value
    elif kind in _ORDERINGS:
        test = _ORDERINGS[kind][negated](column, value)
    else:
        test = column.ilike(value) if kind == "ilike" else column.like(value)
        test = sa.not_(test) if negated else test
    return sa.or_(test, column.is_(None)) if negated and column.nullable else test


def _in(column: sa.Column[Any], name: str, *, negated: bool, null_too: bool) -> sa.ColumnElement[bool]:
    values = sa.bindparam(name, None, type_=sa.ARRAY(unbounded(column.type), dimensions=1))
    if negated:
        test: sa.ColumnElement[bool] = column != sa.all_(values)
        if not column.nullable:
            return test
        return sa.and_(test, column.is_not(None)) if null_too else sa.or_(test, column.is_(None))
    test = column == sa.any_(values)
    return sa.or_(test, column.is_(None)) if null_too else test


def _opened(expression: sa.ColumnElement[bool], names: Iterator[str]) -> sa.ColumnElement[bool]:
    """Return an expression of the caller's with its values left open, where it can be kept."""
    key = expression._generate_cache_key()  # noqa: SLF001
    if key is None or any(bind.expanding for bind in key.bindparams):
        return expression
    opened = {id(bind): sa.bindparam(next(names), None, type_=bind.type) for bind in key.bindparams}
    return replacement_traverse(expression, {}, lambda element, **_: opened.get(id(element)))
