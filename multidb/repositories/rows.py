"""Rows as models, by the shortest way that is safe."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from annotated_types import BaseMetadata
from pydantic import AwareDatetime, BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from multidb.models.fields import TO_UTC
from multidb.repositories.repository import plain_type, validated
from multidb.stores.postgres.engine import Record

__all__ = ["row_reader"]

ModelT = TypeVar("ModelT", bound=BaseModel)

#: By the type of a field, the type its column must have for asyncpg to give just that.
_GIVEN_AS: dict[Any, type] = {
    AwareDatetime: datetime,
    UUID: UUID,
    bool: bool,
    float: float,
    int: int,
    str: str,
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
    if not _is_plain(model) or not all(
        _fits(field, table.c[name]) for name, field in model.model_fields.items()
    ):
        return lambda row: validated(model, dict(row), operation)

    new, put = object.__new__, object.__setattr__
    fields = set(model.model_fields)

    def read(row: Record | Mapping[str, Any]) -> ModelT:
        made = new(model)
        put(made, "__dict__", dict(row))
        put(made, "__pydantic_fields_set__", fields)
        put(made, "__pydantic_extra__", None)
        put(made, "__pydantic_private__", None)
        return made

    return read


def _is_plain(model: type[BaseModel]) -> bool:
    """Tell whether validating does no more than check types and bounds."""
    decorators = model.__pydantic_decorators__
    return not (
        decorators.validators
        or decorators.field_validators
        or decorators.root_validators
        or decorators.model_validators
        or model.__private_attributes__
        or model.__pydantic_post_init__
    )


def _fits(field: FieldInfo, column: sa.Column[Any]) -> bool:
    kind, metadata = plain_type(field.annotation, nullable=bool(column.nullable))
    bounds = all(
        isinstance(each, BaseMetadata | StringConstraints) or each is TO_UTC
        for each in (*metadata, *field.metadata)
    )
    return bounds and _GIVEN_AS.get(kind) is column.type.python_type
