"""How something is cached."""

from dataclasses import KW_ONLY, dataclass
from datetime import timedelta

from multidb.errors import ConfigurationError

__all__ = ["CachePolicy"]


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Keeps what `get` returns at `key`, whose one name in braces is the id, for `ttl`."""

    key: str
    ttl: timedelta
    _: KW_ONLY
    #: By how much of it a ttl may be shortened at random, lest many entries expire at one moment.
    jitter: float = 0.1
    #: How eagerly an entry is loaded anew before it expires, in the background; 0 for never.
    early_refresh: float = 1.0
    #: How long an old value may be served while the loader fails and nothing was invalidated.
    stale_if_error: timedelta = timedelta(0)
    #: For how long None is kept; None for not at all.
    negative_ttl: timedelta | None = None
    #: Whether a copy is kept in the process too, if `Settings.cache_local_bytes` gives room for it.
    local: bool = False

    def check(self, owner: str) -> None:
        """Raise: ConfigurationError for a value that is out of bounds."""
        zero = timedelta(0)
        if self.ttl <= zero:
            raise ConfigurationError(f"{owner}: `ttl` must be more than zero")
        if self.negative_ttl is not None and self.negative_ttl <= zero:
            raise ConfigurationError(f"{owner}: `negative_ttl` must be more than zero, or None")
        if self.stale_if_error < zero:
            raise ConfigurationError(f"{owner}: `stale_if_error` must be zero or more")
        if not 0 <= self.jitter < 1:
            raise ConfigurationError(f"{owner}: `jitter` must be at least 0 and less than 1")
        if self.early_refresh < 0:
            raise ConfigurationError(f"{owner}: `early_refresh` must be 0 or more")
