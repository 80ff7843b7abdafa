"""Redis is away: what a feature that can do without it says of that, and counts."""

import logging

from multidb.errors import MultiDBError

__all__ = ["Outage"]


class Outage:
    """Tells the log once that a feature does without Redis, and once that Redis is back.

    For a feature that degrades: it calls Redis, and on an error of it `began` and does what it does
    without; what has succeeded is `over`. One that must not, such as sessions and locks, raises.
    """

    def __init__(self, log: logging.Logger, instead: str) -> None:
        self._log = log
        #: What the feature does meanwhile, `reads go to the store`.
        self._instead = instead
        #: Calls that were made without Redis, ever.
        self.calls = 0
        self._before: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether the last call was made without Redis."""
        return self._before is not None

    def began(self, error: MultiDBError) -> None:
        """A call is made without Redis because of this error."""
        if not self.is_on:
            self._before = self.calls
            self._log.warning("Redis is away, %s: %s", self._instead, error)
        self.calls += 1

    def over(self) -> None:
        """A call was answered by Redis."""
        if self._before is not None:
            self._log.warning("Redis is back after %d calls without it", self.calls - self._before)
            self._before = None
