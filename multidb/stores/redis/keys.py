"""Key patterns: `session:user:{user_id}` and the like, filled in.

The braces stay in the stored key, where Redis Cluster takes what they enclose as the hash tag:
all keys of one user lie in one slot, and a script may touch several of them.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import quote
from uuid import UUID

from multidb.errors import ConfigurationError, DataError

__all__ = ["KeyPattern"]

_FIELD = re.compile(r"\{([^{}]*)\}")

#: What may stand in a key as it is. Everything else is percent-encoded, so that no value can
#: end its braces, reach into another key's name, or bring in white space.
_SAFE = "@+=,~!*'()/"

_MAX_LENGTH = 1024
_MAX_BITS = 256
#: Characters of a text whose spelling is kept: as a rule there are few of them, endpoints and the like.
_FEW = 100


class KeyPattern:
    """A key with named holes: `KeyPattern("cache:user:{id}").key({"id": 42})` is `cache:user:{42}`.

    Raises: ConfigurationError if the pattern has no hole, or one that is not a name.
    """

    __slots__ = ("_parts", "fields", "pattern")

    def __init__(self, pattern: str, *, prefix: str = "") -> None:
        self.pattern = pattern
        parts = _FIELD.split(prefix + pattern)
        self.fields = tuple(parts[1::2])
        self._parts = parts
        stray = [part for part in parts[::2] if "{" in part or "}" in part]
        if not self.fields or stray or not all(name.isidentifier() for name in self.fields):
            raise ConfigurationError(
                f"key pattern {pattern!r} must name a value in braces, as in 'cache:user:{{user_id}}'"
            )

    @property
    def prefix(self) -> str:
        """What all its keys begin with."""
        return self._parts[0] + "{"

    @property
    def shape(self) -> str:
        """The pattern without the names: two patterns of one shape make the same keys."""
        return _FIELD.sub("{}", self.pattern)

    def key(self, values: Mapping[str, Any]) -> str:
        """Return the key for `values`.

        Raises: DataError if a value is missing, or of a kind that has no one spelling.
        """
        parts = list(self._parts)
        for index, name in enumerate(self.fields):
            parts[2 * index + 1] = "{" + _spell(name, values.get(name)) + "}"
        key = "".join(parts)
        if len(key) > _MAX_LENGTH:
            raise DataError(f"the key for {self.pattern!r} would be longer than {_MAX_LENGTH} characters")
        return key


def _spell(name: str, value: Any) -> str:
    match value:
        case UUID():
            return str(value)
        case Enum():
            return _spell(name, value.value)
        case bool() | None:
            pass
        case int() if value.bit_length() <= _MAX_BITS:
            return str(value)
        case str() if value and _is_text(value):
            return _encoded(value) if len(value) < _FEW else quote(value, safe=_SAFE)
        case date() if not isinstance(value, datetime):
            return value.isoformat()
        case _:
            pass
    raise DataError(
        f"`{name}` cannot stand in a key: it must be a UUID, an int, a date or a string that is not empty"
    )


@lru_cache(maxsize=4096)
def _encoded(value: str) -> str:
    return quote(value, safe=_SAFE)


def _is_text(value: str) -> bool:
    """Tell whether UTF-8 can write it: a lone surrogate it cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
