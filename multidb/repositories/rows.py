"""Rows as models, by the shortest way that is safe."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, TypeVar, get_args, get_origin
from uuid import UUID

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo
from sqlalchemy.types import TypeEngine

from multidb.repositories.plain_models import assembler, is_bound, is_plain
from multidb.repositories.repository import plain_type, validated
from multidb.stores.postgres.engine import Record

__all__ = ["row_reader"]

ModelT = TypeVar("ModelT", bound=BaseModel)

#: By the type of a field, the type its column must have for asyncpg to give just that.
_GIVEN_AS: dict[Any, type] = {
    AwareDatetime: datetime,
    UUID: UUID,
    bool: bool,
    date: date,
    float: float,
    int: int,
    str: str,
    timedelta: timedelta,
}


def row_reader(
    model: type[ModelT], table: sa.Table, operation: str
) -> Callable[[Record | Mapping[str, Any]], ModelT]:
    """Return what makes a `model` of a row that has exactly its fields.

    Where every column gives the very type of its field, the model is put together without
    validation, at a third of the cost: what is stored was checked when the repository wrote it, and
    what others wrote is returned as it is. Where one does not, or the model checks or changes
    values by functions of its own, the row is validated, and what does not fit is a DataError.
    """
    types = {name: table.c[name].type for name in model.model_fields}
    moments = [name for name, type_ in types.items() if isinstance(type_, sa.DateTime) and type_.timezone]

    def values_of(row: Record | Mapping[str, Any]) -> dict[str, Any]:
        values = dict(row)
        for name in moments:
            # The very first and last moment are `infinity` to asyncpg, which gives them without a zone.
            if (moment := values[name]) is not None and moment.tzinfo is None:
                values[name] = moment.replace(tzinfo=UTC)
        return values

    if not is_plain(model) or not all(
        _fits(field, table.c[name]) for name, field in model.model_fields.items()
    ):
        return lambda row: validated(model, values_of(row), operation)

    assemble = assembler(model)
    arrays = [name for name, type_ in types.items() if isinstance(type_, sa.ARRAY)]

    def read(row: Record | Mapping[str, Any]) -> ModelT:
        values = values_of(row)
        for name in arrays:
            if values[name] is not None:
                values[name] = tuple(values[name])
        return assemble(values)

    return read


def _fits(field: FieldInfo, column: sa.Column[Any]) -> bool:
    kind, metadata = plain_type(field.annotation, nullable=bool(column.nullable))
    return all(map(is_bound, (*metadata, *field.metadata))) and _gives(column.type, kind)


def _gives(type_: TypeEngine[Any], kind: Any) -> bool:
    """Tell whether a column of this type gives just what a field of `kind` holds."""
    if isinstance(type_, sa.ARRAY):
        # Its lists are made tuples, for what is frozen shall not change by its parts.
        items = get_args(kind) if get_origin(kind) is tuple else ()
        return len(items) == 2 and items[1] is ... and _gives(type_.item_type, items[0])
    if isinstance(type_, sa.JSON):
        return bool(kind == dict[str, Any])
    if get_origin(kind) is Literal:
        # That it is one of these, the table's own check sees to.
        kinds = {type(each) for each in get_args(kind)}
        kind = kinds.pop() if len(kinds) == 1 else kind
    return _GIVEN_AS.get(kind) is type_.python_type
