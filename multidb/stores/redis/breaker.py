"""Calls fail at once while a server does not answer, instead of each waiting for a timeout."""

import asyncio
import logging

__all__ = ["Breaker"]

_log = logging.getLogger("multidb.redis")


class Breaker:
    """Opens after `limit` round trips in a row without an answer, and then refuses all for `pause` seconds.

    After that one round trip may try: answered, it closes, and all go again; else the pause begins
    anew. Round trips that fail at the same moment tell of one failure and count once.
    """

    def __init__(self, *, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._failures = 0
        self._failed_at = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether the server has not answered lately."""
        return self._failures >= self._limit

    @property
    def refuses(self) -> bool:
        """Whether a call made now would be refused."""
        return self.is_open and (self._trying or self._now() < self._failed_at + self._pause)

    def admit(self) -> bool:
        """Tell whether a round trip may begin. If so, `answered`, `failed` or `given_up` is to follow."""
        if self.refuses:
            return False
        self._trying = self.is_open
        return True

    def answered(self) -> None:
        """The server has answered."""
        if self.is_open:
            _log.warning("Redis answers again")
        self._failures = 0
        self._trying = False

    def failed(self, began: float) -> None:
        """A round trip that began then, by the loop's clock, was not answered."""
        if began < self._failed_at:
            return
        self._trying = False
        self._failures += 1
        self._failed_at = self._now()
        if self._failures == self._limit:
            _log.warning("Redis does not answer: calls fail at once, one every %g s tries", self._pause)

    def given_up(self, began: float) -> None:
        """A round trip that began then was cancelled before it could tell."""
        if began >= self._failed_at:
            self._trying = False

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
