"""What a query is asked for, checked: filters, what must be equal, and the order."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, get_args

import sqlalchemy as sa
from pydantic import BaseModel

from multidb.errors import DataError
from multidb.models.filters import Condition, EntityFields, Field, Fields, Order
from multidb.repositories.repository import known_fields, known_value
from multidb.stores.postgres.filtering import Filter, Where

__all__ = ["OrderBy", "fields_class", "order_names", "some", "where_of"]

#: A field's name, `-name` for descending, the field itself, or `c.name.desc()`; or several of these.
OrderBy: TypeAlias = str | Field[Any] | Order | Sequence[str | Field[Any] | Order]


def fields_class(cls: type) -> type[Fields]:
    """Return the class that a repository's `c` is annotated with, or that of any entity."""
    for each in cls.__mro__:
        (kind,) = get_args(inspect.get_annotations(each, eval_str=True).get("c")) or (None,)
        if isinstance(kind, type) and issubclass(kind, Fields):
            return kind
    return EntityFields


def where_of(
    model: type[BaseModel], filters: Sequence[Filter], equal: Mapping[str, Any], operation: str
) -> Where:
    """Return what rows must fulfil.

    Raises: DataError for what is no filter, a field there is not, or a value of another type.
    """
    for each in filters:
        if not isinstance(each, Condition | sa.ColumnElement):
            raise DataError(
                "a filter must be a condition over `c`, such as `db.users.c.name == value`, or a "
                "SQLAlchemy expression over the table",
                operation=operation,
            )
    known_fields(equal, model, operation)
    named = [Field(name) == value for name, value in equal.items()]
    return Where([*filters, *named], lambda name, value: known_value(model, name, value, operation))


def some(filters: Sequence[Filter], equal: Mapping[str, Any], operation: str) -> Sequence[Filter]:
    """Return the filters. Raises: DataError if there is none, for a change of every row must be said."""
    if not filters and not equal:
        raise DataError("give a filter; `sqlalchemy.true()` if every row is meant", operation=operation)
    return filters


def order_names(model: type[BaseModel], order_by: OrderBy, operation: str) -> tuple[str, ...]:
    """Return an order as names of fields, `-name` for descending.

    Raises: DataError for what is no order, or a field there is not.
    """
    several = [order_by] if isinstance(order_by, str | Field | Order) else list(order_by)
    names = []
    for each in several:
        match each:
            case str():
                names.append(each)
            case Field(name=name) | Order(field=name, descending=False):
                names.append(name)
            case Order(field=name):
                names.append(f"-{name}")
            case _:
                raise DataError(
                    "`order_by` takes names of fields, `-name` for descending, or fields of `c`",
                    operation=operation,
                )
    known_fields([name.removeprefix("-") for name in names], model, operation)
    return tuple(names)
