"""What a query is asked for, checked, whatever the store: values, what must be equal, and the order."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import BaseModel

from multidb.errors import DataError
from multidb.models.filters import Comparison, Condition, EntityFields, Field, Fields, Order, Reader
from multidb.repositories.repository import known_fields, known_value, plain_type

__all__ = ["OrderBy", "all_equal", "fields_class", "order_names", "some", "value_reader"]

T = TypeVar("T")

#: A field's name, `-name` for descending, the field itself, or `c.name.desc()`; or several of these.
OrderBy: TypeAlias = str | Field[Any] | Order | Sequence[str | Field[Any] | Order]


def fields_class(cls: type) -> type[Fields]:
    """Return the class that a repository's `c` is annotated with, or that of any entity."""
    for each in cls.__mro__:
        (kind,) = get_args(inspect.get_annotations(each, eval_str=True).get("c")) or (None,)
        if isinstance(kind, type) and issubclass(kind, Fields):
            return kind
    return EntityFields


def value_reader(model: type[BaseModel], operation: str) -> Reader:
    """Return what makes a value of a comparison one of its field's type.

    It raises DataError for a field there is not, or a value of another type.
    """

    def read(comparison: Comparison, value: Any) -> Any:
        name = comparison.field
        _ours(model, comparison.entity, name, operation)
        if comparison.operator in {"like", "ilike"}:
            return _pattern(model, name, value, operation)
        return known_value(model, name, value, operation)

    return read


def all_equal(model: type[BaseModel], equal: Mapping[str, Any], operation: str) -> list[Condition]:
    """Return the conditions that were given by name. Raises: DataError for a field there is not."""
    known_fields(equal, model, operation)
    return [Field(name) == value for name, value in equal.items()]


def some(filters: Sequence[T], equal: Mapping[str, Any], everything: str, operation: str) -> Sequence[T]:
    """Return the filters. Raises: DataError if there is none, for a change of everything must be said."""
    if not filters and not equal:
        raise DataError(f"give a filter; `{everything}` if every one is meant", operation=operation)
    return filters


def order_names(model: type[BaseModel], order_by: OrderBy, operation: str) -> tuple[str, ...]:
    """Return an order as names of fields, `-name` for descending.

    Raises: DataError for what is no order, or a field there is not.
    """
    # What is no sequence has no order of its own, or a meaning that the names alone would lose.
    several = order_by if isinstance(order_by, Sequence) and not isinstance(order_by, str) else [order_by]
    names = []
    for each in several:
        if isinstance(each, Field | Order):
            _ours(model, each.entity, each.name if isinstance(each, Field) else each.field, operation)
        match each:
            case str():
                names.append(each)
            case Field(name=name) | Order(field=name, descending=False):
                names.append(name)
            case Order(field=name):
                names.append(f"-{name}")
            case _:
                raise DataError(
                    "`order_by` takes names of fields, `-name` for descending, or fields of `c`, "
                    f"not {type(each).__name__}",
                    operation=operation,
                )
    known_fields([name.removeprefix("-") for name in names], model, operation)
    return tuple(names)


def _ours(model: type[BaseModel], entity: str, name: str, operation: str) -> None:
    """Raise: DataError for a field there is not, or one of another entity that has its name."""
    if entity not in {"", model.__name__}:
        raise DataError(f"`{name}` of {entity} is not a field of {model.__name__}", operation=operation)
    known_fields([name], model, operation)


def _pattern(model: type[BaseModel], name: str, value: Any, operation: str) -> str | None:
    """Return what a text is to match. Raises: DataError if the field is no text, or this no pattern."""
    kind, _ = plain_type(model.model_fields[name].annotation, nullable=True)
    texts = get_args(kind) if get_origin(kind) is Literal else (kind,)
    if not all(isinstance(each, str) or (isinstance(each, type) and issubclass(each, str)) for each in texts):
        raise DataError(
            f"`{name}` of {model.__name__} is no text, and matches no pattern", operation=operation
        )
    if value is not None and not isinstance(value, str):
        raise DataError(f"`{name}` of {model.__name__}: a pattern must be text", operation=operation)
    if value is not None and (len(value) - len(value.rstrip("\\"))) % 2:
        raise DataError(
            f"`{name}` of {model.__name__}: a pattern must not end in a lone backslash", operation=operation
        )
    return value
