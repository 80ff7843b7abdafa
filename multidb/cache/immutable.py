"""Values that nobody can change: several may hold one and the same."""

import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any
from uuid import UUID

from pydantic import BaseModel

__all__ = ["immutable_size"]

_ATOMS = frozenset(
    {str, bytes, int, float, complex, bool, type(None), Decimal, UUID}
    | {date, datetime, time, timedelta, timezone}
)


def immutable_size(value: Any) -> int | None:
    """Return about how many bytes a value takes, or None if it, or something in it, can be changed.

    Nobody can change builtins that have no items, and tuples, frozen sets, enumerations, and frozen
    models and dataclasses of such.
    """
    kind = type(value)
    if kind in _ATOMS:
        return sys.getsizeof(value)
    if isinstance(value, Enum):
        return 0  # there is only the one
    parts: Iterable[Any]
    if kind is tuple or kind is frozenset or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        parts = value
        size = sys.getsizeof(value)
    elif (names := _frozen_fields(kind)) is not None:  # type: ignore[arg-type]  # mypy takes no class for hashable
        parts = [getattr(value, name) for name in names]
        size = sys.getsizeof(value) + sys.getsizeof(getattr(value, "__dict__", None))
    else:
        return None
    for part in parts:
        if (more := immutable_size(part)) is None:
            return None
        size += more
    return size


@lru_cache(maxsize=1024)
def _frozen_fields(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a class whose objects hold these and nothing else, and keep them."""
    if any(isinstance(each, cached_property) for base in kind.__mro__ for each in vars(base).values()):
        return None
    if issubclass(kind, BaseModel):
        config = kind.model_config
        if config.get("frozen") and config.get("extra") != "allow" and not kind.__private_attributes__:
            return tuple(kind.model_fields)
    elif is_dataclass(kind) and getattr(vars(kind).get("__dataclass_params__"), "frozen", False):
        return tuple(each.name for each in fields(kind))
    return None
