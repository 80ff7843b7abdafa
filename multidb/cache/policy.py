"""How an entity is cached."""

from dataclasses import dataclass
from datetime import timedelta

__all__ = ["CachePolicy"]


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Keeps what `get` returns at `key`, whose one name in braces is the id, for `ttl`."""

    key: str
    ttl: timedelta
