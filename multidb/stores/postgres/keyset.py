"""Keyset pages: the rows after a position in an order, found by index and not by counting.

Every order ends in `id`, so no two rows are equal in it. Null counts as greater than every value,
last in ascending and first in descending order: PostgreSQL's own default, which its indexes serve.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy.types import TypeEngine

from multidb.stores.postgres.engine import Record

__all__ = ["Keyset"]


class Keyset:
    """An order over a table's rows. `names` are columns, `-name` for descending."""

    def __init__(self, table: sa.Table, names: Sequence[str]) -> None:
        keys = [(name.removeprefix("-"), name.startswith("-")) for name in names]
        if "id" not in (name for name, _ in keys):
            keys.append(("id", bool(keys) and keys[-1][1]))
        self._keys = [(table.c[name], descending) for name, descending in keys]

    def ordered(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return the query in this order."""
        return query.order_by(*(column.desc() if descending else column for column, descending in self._keys))

    def position(self, row: Record) -> list[Any]:
        """Return where a row stands in the order, as JSON values."""
        return [to_jsonable_python(row[column.name]) for column, _ in self._keys]

    def read(self, position: Sequence[Any]) -> list[Any]:
        """Return a position as the columns' own values."""
        return [
            None if value is None else _reader(column.type).validate_python(value)
            for (column, _), value in zip(self._keys, position, strict=True)
        ]

    def after(self, position: Sequence[Any]) -> sa.ColumnElement[bool]:
        """Return the condition of coming after `position`."""
        here = list(zip(self._keys, position, strict=True))
        one_way = len({descending for (_, descending), _ in here}) == 1
        if one_way and not any(column.nullable for (column, _), _ in here):
            # As a comparison of rows one range scan of an index answers it.
            row = sa.tuple_(*(column for (column, _), _ in here))
            bound = sa.tuple_(*(sa.literal(value, column.type) for (column, _), value in here))
            descending = self._keys[0][1]
            comparison: sa.ColumnElement[bool] = row < bound if descending else row > bound
            return comparison
        condition: sa.ColumnElement[bool] = sa.false()
        for (column, descending), value in reversed(here):
            condition = sa.or_(_beyond(column, descending, value), sa.and_(_equal(column, value), condition))
        return condition


def _beyond(column: sa.Column[Any], descending: bool, value: Any) -> sa.ColumnElement[bool]:
    if value is None:
        return column.is_not(None) if descending else sa.false()
    bound = sa.literal(value, column.type)
    beyond: sa.ColumnElement[bool] = column < bound if descending else column > bound
    # Null is greater than every value.
    return sa.or_(beyond, column.is_(None)) if column.nullable and not descending else beyond


def _equal(column: sa.Column[Any], value: Any) -> sa.ColumnElement[bool]:
    return column.is_(None) if value is None else column == sa.literal(value, column.type)


@cache
def _reader(type_: TypeEngine[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(type_.python_type)
