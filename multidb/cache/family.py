"""A family of entries: those of one key pattern, kept in one way, and what has become of them."""

import math
import random
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from multidb.cache.codec import Codec
from multidb.cache.entry import Value, now
from multidb.cache.policy import CachePolicy

__all__ = ["CacheMetrics", "Family"]


@dataclass(slots=True)
class CacheMetrics:
    """What has become of the calls of one family in this process, counted since it began."""

    #: Answered from the cache; of these, without a round trip to Redis.
    hits: int = 0
    local_hits: int = 0
    #: Not found there, and loaded, or waited for.
    misses: int = 0
    #: Calls of the loader, those that failed, and how long all of them took.
    loads: int = 0
    load_errors: int = 0
    load_time: timedelta = field(default_factory=timedelta)
    #: Loaded and not stored: what they were loaded under was invalidated meanwhile.
    fills_refused: int = 0
    #: Old values served because the loader failed.
    stale_served: int = 0
    #: Values loaded anew before they expired.
    refreshed_early: int = 0

    def loaded(self, began: float) -> None:
        """Count a load that began then, by `time.perf_counter`."""
        self.loads += 1
        self.load_time += timedelta(seconds=time.perf_counter() - began)


class Family:
    """How the entries of one key pattern are stored."""

    def __init__(self, policy: CachePolicy, codec: Codec, operation: str) -> None:
        self.policy = policy
        self.operation = operation
        self.metrics = CacheMetrics()
        self._codec = codec
        self.decode = codec.decode

    def encode(self, value: Any) -> bytes | None:
        """Return the body of `value`, or None if it is not to be stored.

        Raises: DataError if it would not come back as it is.
        """
        if value is None and self.policy.negative_ttl is None:
            return None
        return self._codec.encode(value)

    def fresh_for(self, value: Any) -> int:
        """Return for how many milliseconds a value is fresh: less than its ttl by a part at random.

        So entries that were filled at one moment do not expire at one moment.
        """
        ttl = self.policy.ttl if value is not None else self.policy.negative_ttl or self.policy.ttl
        spread = 1 - self.policy.jitter * random.random()  # noqa: S311 - it spreads, and is no secret
        return max(1, int(ttl.total_seconds() * 1000 * spread))

    @property
    def kept_after(self) -> int:
        """For how many milliseconds a value is kept once it is not fresh any more."""
        return int(self.policy.stale_if_error.total_seconds() * 1000)

    @property
    def longest(self) -> int:
        """For how many milliseconds an entry may live, in all."""
        return int(self.policy.ttl.total_seconds() * 1000) + self.kept_after + 1000

    def hardly_due_until(self, value: Value) -> int:
        """Return until when, in Unix milliseconds, hardly one caller in a hundred is told that it is due."""
        return value.fresh_until - int(5 * value.took / 1000 * self.policy.early_refresh)

    def is_due(self, value: Value) -> bool:
        """Tell whether this caller is to load a fresh value anew: the likelier the nearer its end.

        After Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention".
        """
        left, took = value.fresh_until - now(), value.took / 1000 * self.policy.early_refresh
        if not took or left > took * 20:  # which one in five hundred million exceeds
            return False
        return -math.log(1 - random.random()) * took >= left  # noqa: S311
