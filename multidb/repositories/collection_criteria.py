"""What documents are asked for, checked: conditions, MongoDB queries, and the order."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from types import NoneType
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel

from multidb.errors import DataError
from multidb.models.filters import Comparison, Condition
from multidb.repositories.criteria import OrderBy, all_equal, order_names, value_reader
from multidb.repositories.repository import plain_type
from multidb.stores.mongo.filtering import Filter, Query, conjunction, query_of, stored_name
from multidb.stores.mongo.keyset import Key, Keyset

__all__ = ["is_nullable", "keyset_of", "matching"]

#: Of these MongoDB keeps one value a field, and orders them as Python does.
_PLAIN = {UUID, str, int, bool, float, bytes, datetime, AwareDatetime}


def matching(
    model: type[BaseModel], filters: Sequence[Filter], equal: Mapping[str, Any], operation: str
) -> Query:
    """Return what documents must fulfil.

    Raises: DataError for what is no filter, a field there is not, or a value of another type.
    """
    known = value_reader(model, operation)

    def read(comparison: Comparison, value: Any) -> Any:
        value = known(comparison, value)
        name, operator = comparison.field, comparison.operator
        if value is not None and not _is_plain(model, name):
            several = get_origin(_kind(model, name)) in {tuple, list}
            if operator == "in" and several:
                raise DataError(f"`{name}` holds several values itself: it has no `in_`", operation=operation)
            if operator not in {"eq", "in"}:
                raise DataError(f"`{name}` has no order: it holds no single plain value", operation=operation)
            if not several:
                # To MongoDB it is another one if its keys stand in another order.
                raise DataError(
                    f"`{name}` holds a document: ask for what is in it by a MongoDB query, "
                    f'{{"{name}.key": value}}',
                    operation=operation,
                )
        return value

    parts: list[Mapping[str, Any]] = []
    for each in (*filters, *all_equal(model, equal, operation)):
        if not isinstance(each, Condition | Mapping):
            raise DataError(
                "a filter must be a condition over `c`, such as `db.system_logs.c.level == value`, or a "
                "MongoDB query, such as {'level': 'error'}",
                operation=operation,
            )
        parts.append(query_of(each, read) if isinstance(each, Condition) else each)
    return conjunction(parts)


def keyset_of(model: type[BaseModel], order_by: OrderBy, operation: str) -> Keyset:
    """Return an order over documents.

    Raises: DataError for what is no order, a field there is not, or one without an order.
    """
    names = order_names(model, order_by, operation)
    for name in names:
        if not _is_plain(model, name.removeprefix("-")):
            # MongoDB orders lists by one item and kinds apart, and a page could not go on there.
            raise DataError(
                f"`{name.removeprefix('-')}` has no order: it holds no single plain value",
                operation=operation,
            )
    return Keyset(
        [
            Key(stored_name(field), descending=name.startswith("-"), nullable=is_nullable(model, field))
            for name in names
            for field in [name.removeprefix("-")]
        ]
    )


def is_nullable(model: type[BaseModel], name: str) -> bool:
    """Tell whether a field may be None."""
    annotation = model.model_fields[name].annotation
    return annotation is Any or NoneType in get_args(annotation)


def _kind(model: type[BaseModel], name: str) -> Any:
    return plain_type(model.model_fields[name].annotation, nullable=True)[0]


def _is_plain(model: type[BaseModel], name: str) -> bool:
    """Tell whether a field holds one plain value."""
    kind = _kind(model, name)
    kinds = {type(each) for each in get_args(kind)} if get_origin(kind) is Literal else {kind}
    return all(each in _PLAIN or (isinstance(each, type) and issubclass(each, Enum)) for each in kinds)
