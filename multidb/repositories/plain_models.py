"""Models that check no more than types and bounds, and so may be put together without validation."""

from collections.abc import Callable
from typing import Any, TypeVar

from annotated_types import BaseMetadata
from pydantic import AllowInfNan, BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from multidb.models.fields import TO_MILLISECONDS, TO_UTC

__all__ = ["assembler", "is_bound", "is_plain"]

ModelT = TypeVar("ModelT", bound=BaseModel)


def is_plain(model: type[BaseModel]) -> bool:
    """Tell whether validating does no more than look at the fields, one by one."""
    decorators = model.__pydantic_decorators__
    return not (
        decorators.validators
        or decorators.field_validators
        or decorators.root_validators
        or decorators.model_validators
        or model.__private_attributes__
        or model.__pydantic_post_init__
    )


def is_bound(metadata: object) -> bool:
    """Tell whether an annotation does no more than bound a value, or changes none that was stored."""
    if isinstance(metadata, FieldInfo):
        return all(map(is_bound, metadata.metadata))
    return isinstance(metadata, BaseMetadata | StringConstraints | AllowInfNan) or metadata in (
        TO_UTC,
        TO_MILLISECONDS,
    )


def assembler(model: type[ModelT]) -> Callable[[dict[str, Any]], ModelT]:
    """Return what makes a model of the values of all its fields; it keeps the dict."""
    new, put = object.__new__, object.__setattr__
    fields = set(model.model_fields)

    def assemble(values: dict[str, Any]) -> ModelT:
        made = new(model)
        put(made, "__dict__", values)
        put(made, "__pydantic_fields_set__", fields)
        put(made, "__pydantic_extra__", None)
        put(made, "__pydantic_private__", None)
        return made

    return assemble
