"""Keyset pages: the rows after a position in an order, found by index and not by counting.

Every order ends in `id`, so no two rows are equal in it. Null counts as greater than every value,
last in ascending and first in descending order: PostgreSQL's own default, which its indexes serve.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy.types import TypeEngine

from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.statements import unbounded

__all__ = ["Keyset"]


class Keyset:
    """An order over a table's rows. `names` are columns, `-name` for descending.

    A position in it is that of a row, the row's values. With one value more it is the place beside
    that row: just before it if that is true, else just after it.
    """

    def __init__(self, table: sa.Table, names: Sequence[str]) -> None:
        keys = [(name.removeprefix("-"), name.startswith("-")) for name in names]
        if "id" not in (name for name, _ in keys):
            keys.append(("id", bool(keys) and keys[-1][1]))
        self._keys = [(table.c[name], descending) for name, descending in keys]
        #: The same order has the same names.
        self.names = tuple(keys)

    @staticmethod
    @lru_cache(maxsize=1000)
    def of(table: sa.Table, names: tuple[str, ...]) -> "Keyset":
        """Return the order, made once for all who ask for it."""
        return Keyset(table, names)

    def ordered(self, query: sa.Select[Any], *, backwards: bool = False) -> sa.Select[Any]:
        """Return the query in this order, or in the opposite one."""
        return query.order_by(
            *(column.desc() if descending is not backwards else column for column, descending in self._keys)
        )

    def position(self, row: Record) -> list[Any]:
        """Return where a row stands in the order, as JSON values."""
        return [_told(row[column.name]) for column, _ in self._keys]

    def read(self, position: Sequence[Any]) -> dict[str, Any]:
        """Return a position as the columns' own values, by the names of `beyond`'s parameters."""
        return {
            f"_k{number}": None if value is None else _reader(column.type)(value)
            for number, ((column, _), value) in enumerate(zip(self._keys, position, strict=True))
        }

    def beyond(
        self, nulls: Sequence[bool], *, backwards: bool = False, inclusive: bool = False
    ) -> sa.ColumnElement[bool]:
        """Return the condition of coming after a position, or before it; or of standing there, if inclusive.

        `nulls` tells which of its values are null; the others are parameters `_k0`, `_k1`, …
        """
        keys = [(column, descending is not backwards) for column, descending in self._keys]
        bounds = [
            None if null else sa.bindparam(f"_k{number}", None, type_=unbounded(column.type))
            for number, ((column, _), null) in enumerate(zip(keys, nulls, strict=True))
        ]
        one_way = len({descending for _, descending in keys}) == 1
        if one_way and not any(column.nullable for column, _ in keys):
            # As a comparison of rows one range scan of an index answers it.
            row = sa.tuple_(*(column for column, _ in keys))
            bound = sa.tuple_(*(each for each in bounds if each is not None))
            if inclusive:
                return row <= bound if keys[0][1] else row >= bound
            return row < bound if keys[0][1] else row > bound
        condition: sa.ColumnElement[bool] = sa.true() if inclusive else sa.false()
        for (column, descending), value in reversed(list(zip(keys, bounds, strict=True))):
            same = column.is_(None) if value is None else column == value
            condition = sa.or_(_beyond(column, descending, value), sa.and_(same, condition))
        (column, descending), value = keys[0], bounds[0]
        if value is not None and (descending or not column.nullable):
            # Says nothing new, but is a range that an index can begin at.
            condition = sa.and_(column <= value if descending else column >= value, condition)
        return condition


def _beyond(
    column: sa.Column[Any], descending: bool, value: sa.BindParameter[Any] | None
) -> sa.ColumnElement[bool]:
    if value is None:
        return column.is_not(None) if descending else sa.false()
    beyond: sa.ColumnElement[bool] = column < value if descending else column > value
    # Null is greater than every value.
    return sa.or_(beyond, column.is_(None)) if column.nullable and not descending else beyond


def _told(value: Any) -> Any:
    # Bytes are no text as a rule.
    return value.hex() if isinstance(value, bytes) else to_jsonable_python(value)


@cache
def _reader(type_: TypeEngine[Any]) -> Callable[[Any], Any]:
    kind = type_.python_type
    return bytes.fromhex if kind is bytes else TypeAdapter(kind).validate_python
