"""How something is cached."""

from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from math import inf

from typing_extensions import TypedDict

from multidb.errors import ConfigurationError

__all__ = ["CacheOptions", "CachePolicy"]


class CacheOptions(TypedDict, total=False):
    """What may be said of how something is cached, besides its key and its ttl."""

    #: By how much of it the ttl may be shortened at random, lest many entries expire at one moment; 0.1.
    jitter: float
    #: How eagerly an entry that is read is loaded anew before it expires, in the background: 1, 0 for never.
    early_refresh: float
    #: How long past its ttl an old value is served while its loader fails with an error that may pass, if
    #: nothing was invalidated; zero.
    stale_if_error: timedelta
    #: For how long None is kept; None for not at all, as it is.
    negative_ttl: timedelta | None
    #: Whether copies are kept in the process too, which may be served for a moment after another process's
    #: commit, `Settings.cache_local_staleness` at most; False.
    local: bool


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Keeps what `get` returns at `key`, whose one name in braces is the id, for `ttl`.

    The other fields are those of `CacheOptions`.
    """

    key: str
    ttl: timedelta
    _: KW_ONLY
    jitter: float = 0.1
    early_refresh: float = 1.0
    stale_if_error: timedelta = timedelta(0)
    negative_ttl: timedelta | None = None
    local: bool = False

    def check(self, owner: str) -> None:
        """Raise: ConfigurationError for a value that is of the wrong type, or out of bounds."""
        zero = timedelta(0)
        for name, right, fits in (
            ("key", "a string", isinstance(self.key, str)),
            ("ttl", "a timedelta of more than zero", _is_time(self.ttl) and self.ttl > zero),
            ("jitter", "at least 0 and less than 1", _is_number(self.jitter) and 0 <= self.jitter < 1),
            ("early_refresh", "0 or more", _is_number(self.early_refresh) and 0 <= self.early_refresh < inf),
            (
                "stale_if_error",
                "a timedelta of zero or more",
                _is_time(self.stale_if_error) and self.stale_if_error >= zero,
            ),
            (
                "negative_ttl",
                "a timedelta of more than zero, or None",
                self.negative_ttl is None or (_is_time(self.negative_ttl) and self.negative_ttl > zero),
            ),
            ("local", "True or False", isinstance(self.local, bool)),
        ):
            if not fits:
                raise ConfigurationError(f"{owner}: `{name}` must be {right}, not {getattr(self, name)!r}")


def _is_time(value: object) -> bool:
    return isinstance(value, timedelta)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
