"""What rows are asked for, checked: conditions and SQLAlchemy expressions."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel

from multidb.errors import DataError
from multidb.models.filters import Comparison, Condition
from multidb.repositories.criteria import all_equal, value_reader
from multidb.stores.postgres.filtering import Filter, Where

__all__ = ["where_of"]


def where_of(
    model: type[BaseModel],
    table: sa.Table,
    filters: Sequence[Filter],
    equal: Mapping[str, Any],
    operation: str,
) -> Where:
    """Return what rows must fulfil.

    Raises: DataError for what is no filter, a field there is not, or a value of another type.
    """
    known = value_reader(model, operation)

    def read(comparison: Comparison, value: Any) -> Any:
        value = known(comparison, value)
        name = comparison.field
        if comparison.operator == "in" and isinstance(table.c[name].type, sa.ARRAY):
            raise DataError(f"`{name}` holds several values itself: it has no `in_`", operation=operation)
        return value

    for each in filters:
        if not isinstance(each, Condition | sa.ColumnElement):
            raise DataError(
                "a filter must be a condition over `c`, such as `db.users.c.name == value`, or a "
                "SQLAlchemy expression over the table",
                operation=operation,
            )
        if isinstance(each, sa.ColumnElement) and not {table}.issuperset(each._from_objects):  # noqa: SLF001
            # Another table would stand beside this one, each row of it with each of the other's.
            raise DataError(
                f"a filter must be about `{table.name}` alone; of other tables take `.exists()`",
                operation=operation,
            )
    return Where([*filters, *all_equal(model, equal, operation)], read)
