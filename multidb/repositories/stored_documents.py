"""Documents as models, by the shortest way that is safe."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel

from multidb.repositories.plain_models import assembler, is_bound, is_plain
from multidb.repositories.repository import plain_type, validated
from multidb.stores.mongo.documents import Long
from multidb.stores.mongo.filtering import stored_name

__all__ = ["document_reader"]

ModelT = TypeVar("ModelT", bound=BaseModel)

#: By the type of a stored value, what makes the field's value of it: None if it is that already.
#: What it makes None of does not fit.
_Accepted: TypeAlias = dict[type, Callable[[Any], Any] | None]

_ABSENT: Any = object()


def _refused(_: object) -> None:
    """Make nothing of it."""


def _in_utc(value: datetime) -> datetime:
    # The driver's zone is UTC too, but of its own class.
    return value.replace(tzinfo=UTC)


_ACCEPTED: dict[Any, _Accepted] = {
    AwareDatetime: {datetime: _in_utc},
    UUID: {UUID: None},
    bool: {bool: None},
    bytes: {bytes: None},
    dict[str, Any]: {dict: None},
    float: {float: None, int: float, Long: float},
    int: {int: None, Long: int},
    str: {str: None},
}


class _Part(NamedTuple):
    """A field, the name it is stored under, what it is where the document lacks it, and what it accepts."""

    name: str
    key: str
    default: Any
    accepted: _Accepted


def document_reader(model: type[ModelT], operation: str) -> Callable[[Mapping[str, Any]], ModelT]:
    """Return what makes a `model` of a document.

    A collection vouches for no types, so each value's is looked at. Where all are those of their
    fields the model is put together without validation, at a third of the cost: bounds were
    checked when the repository wrote it, and what others wrote beyond them is returned as it is.
    Any other document is validated, and what does not fit is a DataError; so is each one of a model
    that checks or changes values by functions of its own, or has fields that are not plain.
    """

    def validate(document: Mapping[str, Any]) -> ModelT:
        values = dict(document)
        values["id"] = values.pop("_id")
        return validated(model, values, operation)

    parts = _parts(model)
    if parts is None:
        return validate
    keys = {part.key for part in parts}
    assemble = assembler(model)

    def read(document: Mapping[str, Any]) -> ModelT:
        values: dict[str, Any] = {}
        for name, key, default, accepted in parts:
            value = document.get(key, default)
            convert = accepted.get(type(value), _refused)
            if convert is not None and (value := convert(value)) is None:
                return validate(document)
            values[name] = value
        return assemble(values) if document.keys() <= keys else validate(document)

    return read


def _parts(model: type[BaseModel]) -> list[_Part] | None:
    """Return the fields of a model; None if one of them, or the model itself, is not plain."""
    if not is_plain(model):
        return None
    parts = []
    for name, field in model.model_fields.items():
        if (accepted := _accepted(field.annotation, field.metadata)) is None:
            return None
        default = None if field.default is None else _ABSENT
        parts.append(_Part(name, stored_name(name), default, accepted))
    return parts


def _accepted(annotation: Any, metadata: Sequence[Any] = ()) -> _Accepted | None:
    """Return what a field of this type accepts; None if it is not plain."""
    kind, more = plain_type(annotation, nullable=True)
    if not all(map(is_bound, (*metadata, *more))):
        return None
    arguments = get_args(kind)
    accepted: _Accepted | None = None
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        accepted = {str: {each.value: each for each in kind}.get}
    elif get_origin(kind) is Literal and all(type(each) is str for each in arguments):
        accepted = {str: {each: each for each in arguments}.get}
    elif get_origin(kind) is tuple and arguments[1:] == (...,):
        items = _accepted(arguments[0])
        accepted = items and {list: partial(_tuple, items)}
    elif kind in _ACCEPTED:
        accepted = _ACCEPTED[kind]
    nullable = plain_type(annotation, nullable=False)[0] is not kind
    return {**accepted, NoneType: None} if accepted and nullable else accepted


def _tuple(accepted: _Accepted, stored: list[Any]) -> tuple[Any, ...] | None:
    """Return the items of a list; None if one of them does not fit."""
    items = []
    for value in stored:
        convert = accepted.get(type(value), _refused)
        if convert is not None and (value := convert(value)) is None:
            return None
        items.append(value)
    return tuple(items)
