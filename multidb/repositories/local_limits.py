"""Rate limits of this process alone, for while Redis is away: `scripts/shared/limits.lua` in Python.

What counts against a limit is a list of entries, each some calls and the moment at which they stop
counting: all at once, or with GCRA one after the other, the last of them at that moment. Moments are in
Unix microseconds, durations in microseconds.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Literal, TypeAlias

from multidb.models.rate_limits import Rate

__all__ = ["How", "LocalLimits"]

#: What to do about a limit.
How: TypeAlias = Literal["hit", "peek", "refund"]

#: As many entries a period has a sliding window at most: what comes closer together shares one.
_CELLS = 50
#: How many limits are kept; of more, those that were written the longest ago are forgotten.
_MOST_KEPT = 100_000


class _Entry:
    """Calls that count, and the moment at which they stop."""

    __slots__ = ("count", "leaves")

    def __init__(self, leaves: int, count: int) -> None:
        self.leaves = leaves
        self.count = count


class _Limit:
    """A limit, and what of its entries counts against it now."""

    def __init__(self, rate: Rate, entries: Iterable[_Entry], now: int) -> None:
        self.rate = rate
        self.per = per = rate.per // timedelta(microseconds=1)
        #: The time between two calls that stop counting; 0 if those of an entry do so together.
        self.spacing = spacing = -(-per // rate.limit) if rate.algorithm == "gcra" else 0
        self.entries = [
            _Entry(each.leaves, min(each.count, -((now - each.leaves) // spacing)) if spacing else each.count)
            for each in entries
            if each.leaves > now
        ]
        self.used = sum(entry.count for entry in self.entries)

    def until_admitted(self, cost: int, now: int) -> int:
        """Return how long it is until so many more would be admitted."""
        excess = self.used + cost - self.rate.limit
        for entry in self.entries:
            if excess <= 0:
                break
            if excess <= entry.count:
                return entry.leaves - (entry.count - excess) * self.spacing - now
            excess -= entry.count
        return 0

    def take(self, cost: int, now: int) -> None:
        """Let so many more count."""
        per, spacing = self.per, self.spacing
        last = self.entries[-1] if self.entries else None
        match self.rate.algorithm:
            case "fixed_window":
                leaves = now - now % per + per
                joins = last is not None
            case "sliding_window":
                cell = -(-per // _CELLS)
                leaves = now + per
                joins = last is not None and (last.leaves - per) // cell == now // cell
            case "gcra":
                after = last.leaves + spacing if last is not None else 0
                leaves = max(now + per, after) + (cost - 1) * spacing
                joins = len(self.entries) > 1
        if last is not None:
            leaves = max(leaves, last.leaves)  # the clock may have gone back
        if joins and last is not None:
            last.leaves, last.count = leaves, last.count + cost
        else:
            self.entries.append(_Entry(leaves, cost))
        self.used += cost

    def give_back(self, cost: int) -> None:
        """Let so many of the latest count no more."""
        while cost and self.entries:
            last = self.entries[-1]
            some = min(cost, last.count)
            last.leaves, last.count = last.leaves - some * self.spacing, last.count - some
            if not last.count:
                self.entries.pop()
            self.used, cost = self.used - some, cost - some


class LocalLimits:
    """Limits by key and rate."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, Rate], list[_Entry]] = OrderedDict()

    def decide(
        self, limits: Sequence[tuple[str, Rate]], how: How, cost: int, now: int | None = None
    ) -> Sequence[int]:
        """Do as `scripts/rate_limit.lua`, and return what it returns."""
        if now is None:
            now = time.time_ns() // 1000
        found = [_Limit(each[1], self._kept.get(each, ()), now) for each in limits]
        if how == "refund":
            for limit in found:
                limit.give_back(cost)
        waits = [limit.until_admitted(cost, now) for limit in found]
        admitted = not any(waits)
        if how == "hit" and admitted:
            for limit in found:
                limit.take(cost, now)
        if how == "refund" or (how == "hit" and admitted):
            self._keep(limits, found)
        reply = [int(admitted)]
        for limit, wait in zip(found, waits, strict=True):
            reset = limit.entries[-1].leaves - now if limit.entries else 0
            reply += [limit.rate.limit - limit.used, wait, reset]
        return reply

    def reset(self, key: str) -> None:
        """Let nothing count of what is kept at `key`."""
        for each in [each for each in self._kept if each[0] == key]:
            del self._kept[each]

    def _keep(self, limits: Sequence[tuple[str, Rate]], found: Sequence[_Limit]) -> None:
        for each, limit in zip(limits, found, strict=True):
            self._kept[each] = limit.entries
            self._kept.move_to_end(each)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
