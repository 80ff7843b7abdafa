"""Rate limits: how many calls are admitted, and what became of one."""

import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from multidb.errors import DataError

__all__ = ["Algorithm", "Decision", "Quota", "Rate"]

Algorithm: TypeAlias = Literal["gcra", "sliding_window", "fixed_window"]

_MOST = 10**9
_SHORTEST, _LONGEST = timedelta(milliseconds=1), timedelta(days=366)
_NAME = re.compile(r"[A-Za-z0-9_./ -]{0,50}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls in any time of length `per`: `Rate(100, per=timedelta(minutes=1))`.

    All may come at once, and no window of that length ever admits more. What differs is when they come
    back. `gcra`: one after the other, evenly spaced, from a period after the first; a caller who keeps
    that pace is never refused. `sliding_window`: each a period after it was admitted, or up to a
    fiftieth later. `fixed_window`: all of them when the clock begins another period, and it is those
    periods, of Unix time, that admit no more than the limit; across the border of two, twice as many
    may come.

    `name` is what clients read in the header fields; without one the rate itself. Raises: DataError.
    """

    limit: int
    per: timedelta = field(kw_only=True)
    algorithm: Algorithm = field(default="gcra", kw_only=True)
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        limit, per, name = _of(self.limit, int), _of(self.per, timedelta), _of(self.name, str)
        if limit is None or not 1 <= limit <= _MOST:
            raise DataError(f"`limit` of Rate must be a whole number from 1 to {_MOST}")
        if per is None or not _SHORTEST <= per <= _LONGEST:
            raise DataError("`per` of Rate must be a timedelta from a millisecond to 366 days")
        if limit > per // timedelta(microseconds=1):
            raise DataError("`limit` of Rate must not be more than one call a microsecond")
        if self.algorithm not in get_args(Algorithm):
            raise DataError(f"`algorithm` of Rate must be one of {', '.join(get_args(Algorithm))}")
        if name is None or not _NAME.fullmatch(name):
            raise DataError("`name` of Rate must be up to 50 ASCII letters, digits, spaces and _ . / -")

    @property
    def policy(self) -> str:
        """The rate as the `RateLimit-Policy` field tells it."""
        return f"{self.title};q={self.limit};w={_seconds(self.per)}"

    @property
    def title(self) -> str:
        """Its name in the header fields, quoted."""
        return f'"{self.name or f"{self.limit}/{self.per.total_seconds():g}s"}"'


class Quota(NamedTuple):
    """What is left of one rate."""

    rate: Rate
    #: How many calls it would admit now.
    remaining: int
    #: When it would admit this call; zero if it has, or would.
    retry_after: timedelta
    #: When the whole limit is there again, if nothing is called until then.
    reset_after: timedelta


class Decision(NamedTuple):
    """Whether a call was admitted, and what is left.

    Over several rates, `remaining` is the least and the times are the longest.
    """

    allowed: bool
    remaining: int
    #: A call like this one is admitted after so long, if nobody else is before it; zero if this one was.
    retry_after: timedelta
    reset_after: timedelta
    #: Of each rate, in the order they were given; empty if Redis was away and nothing is known.
    quotas: tuple[Quota, ...] = ()
    #: Whether Redis was away, so that the outage policy decided.
    degraded: bool = False

    def headers(self) -> dict[str, str]:
        """Return the fields `RateLimit-Policy` and `RateLimit`, and `Retry-After` of a refused call.

        As in draft-ietf-httpapi-ratelimit-headers-11, in whole seconds, rounded up.
        """
        fields: dict[str, str] = {}
        if self.quotas:
            fields["RateLimit-Policy"] = ", ".join(quota.rate.policy for quota in self.quotas)
            fields["RateLimit"] = ", ".join(
                f"{quota.rate.title};r={quota.remaining};t={_seconds(quota.reset_after)}"
                for quota in self.quotas
            )
        if not self.allowed:
            fields["Retry-After"] = str(max(1, _seconds(self.retry_after)))
        return fields


def _of(value: Any, kind: type) -> Any:
    """Return `value` if it is of that kind, and no bool that passes for a number; else None."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _seconds(duration: timedelta) -> int:
    return math.ceil(duration / timedelta(seconds=1))
