"""Log entries as documents of their own: copied, so that nothing of the caller's is kept, and weighed."""

from collections.abc import Mapping
from datetime import datetime
from enum import Enum, StrEnum
from functools import lru_cache
from sys import getsizeof
from types import NoneType
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from multidb.errors import DataError
from multidb.models.fields import PERSONAL, SECRET, Masked
from multidb.repositories.redaction import REDACTED
from multidb.repositories.repository import plain_type

__all__ = ["Snapshot", "masked_fields", "misfit", "snapshot"]

#: What weighs the same, whatever its value, and a guess how much, the key it stands under included.
_PLAIN = frozenset({NoneType, bool, int, float, UUID, datetime})
_WEIGHT = 90
_MAPPING_WEIGHT = 240
#: What MongoDB takes at all is less deep; and a value that contains itself must end somewhere.
_DEEPEST = 100
_MOST_VALUES = 100_000
_TOO_MUCH = f"nested more than {_DEEPEST} deep, or more than {_MOST_VALUES:,} values"


class Snapshot(NamedTuple):
    """A document, and roughly how many bytes of memory it takes."""

    document: dict[str, Any]
    size: int


def snapshot(entry: BaseModel, operation: str) -> Snapshot:
    """Return an entry as the document to store; what its model or another in it marks is left out.

    What MongoDB has no type for is left to whoever encodes it. Raises: DataError for a field that is
    nested too deep, or within itself.
    """
    model = type(entry)
    values = vars(entry)
    document: dict[str, Any] = {"_id": values["id"]}
    size = _MAPPING_WEIGHT
    name = ""
    try:
        for name, value in values.items():
            kind = type(value)
            if kind is str:
                size += getsizeof(value)
                document[name] = value
            elif kind in _PLAIN:
                if value is not None:
                    document[name] = value
            elif isinstance(value, StrEnum):
                document[name] = value._value_
            else:
                walk = _Walk()
                document[name] = walk.copy(value, 1)
                size += walk.size
    except _Unfit as unfit:
        raise DataError(f"`{name}`: {unfit}", operation=operation) from None
    del document["id"]
    for name, required in _own_masked(model).items():
        if required:
            document[name] = REDACTED
        else:
            document.pop(name, None)
    return Snapshot(document, size + _WEIGHT * len(document))


class _Unfit(Exception):  # noqa: N818 - a way out of the walk, and no error of its own
    pass


class _Walk:
    """Copies values, and adds up what they weigh. What is plain is not called for: it is in a hurry."""

    __slots__ = ("_left", "size")

    def __init__(self) -> None:
        self.size = 0
        self._left = _MOST_VALUES

    def copy(self, value: Any, depth: int) -> Any:
        """Return a copy of what is no text."""
        kind = type(value)
        if kind is dict:
            return self._mapping(value, depth)
        if kind is list or kind is tuple:
            return self._list(value, depth)
        if isinstance(value, Enum):
            plain = value._value_
            return plain if type(plain) is str else self.copy(plain, depth)
        if isinstance(value, BaseModel):
            return self._model(value, depth)
        if isinstance(value, Mapping):
            return self._mapping(dict(value), depth)
        self.size += getsizeof(value)
        return value

    def _mapping(self, values: dict[Any, Any], depth: int) -> dict[str, Any]:
        self._left -= len(values)
        if self._left < 0 or depth > _DEEPEST:
            raise _Unfit(_TOO_MUCH)
        copied = values.copy()  # in one step, for another thread may be at it
        size = _MAPPING_WEIGHT + _WEIGHT * len(copied)
        for key, value in copied.items():
            kind = type(value)
            if kind is str:
                size += getsizeof(value)
            elif kind not in _PLAIN:
                copied[key] = self.copy(value, depth + 1)
        self.size += size
        return copied

    def _list(self, values: Any, depth: int) -> list[Any]:
        self._left -= len(values)
        if self._left < 0 or depth > _DEEPEST:
            raise _Unfit(_TOO_MUCH)
        copied = list(values)
        size = _WEIGHT * len(copied)
        for place, value in enumerate(copied):
            kind = type(value)
            if kind is str:
                size += getsizeof(value)
            elif kind not in _PLAIN:
                copied[place] = self.copy(value, depth + 1)
        self.size += size
        return copied

    def _model(self, model: BaseModel, depth: int) -> dict[str, Any]:
        masked = masked_fields(type(model))
        values = {name: REDACTED if name in masked else value for name, value in vars(model).items()}
        return self._mapping(values, depth)


@lru_cache(maxsize=1024)
def masked_fields(model: type[BaseModel]) -> Mapping[str, bool]:
    """Return the fields of a model that are marked as PERSONAL or SECRET, and whether each is required."""
    return _marked(model, {PERSONAL, SECRET})


@lru_cache(maxsize=1024)
def _own_masked(model: type[BaseModel]) -> Mapping[str, bool]:
    """Return the same of an entry's own fields: what is personal there was declared to be stored."""
    return _marked(model, {SECRET})


def _marked(model: type[BaseModel], marks: set[Masked]) -> dict[str, bool]:
    return {
        name: field.is_required()
        for name, field in model.model_fields.items()
        if any(
            isinstance(mark, Masked) and mark in marks
            for mark in (*field.metadata, *plain_type(field.annotation, nullable=True)[1])
        )
    }


def misfit(model: type[BaseModel]) -> str | None:
    """Return why entries of this model cannot be stored as they are, or None."""
    decorators = model.__pydantic_decorators__
    if decorators.field_serializers or decorators.model_serializers:
        return "its entries are stored as they are, and serializers would not be asked"
    for name, required in _own_masked(model).items():
        if required and not _is_text(model, name):
            return f"`{name}` is marked as {REDACTED}, so it must be optional or text"
    return None


def _is_text(model: type[BaseModel], name: str) -> bool:
    kind, _ = plain_type(model.model_fields[name].annotation, nullable=False)
    return isinstance(kind, type) and issubclass(kind, str)
