"""How long to wait before something is tried again that failed because a server is away; and waiting."""

import asyncio
import random

__all__ = ["Pauses", "nap"]


class Pauses:
    """The pauses between tries, in seconds: each up to twice the one before, and never above `longest`.

    Each is shortened by up to a half at random: who lost a server at one moment must not all come back
    at one moment.
    """

    def __init__(self, first: float = 0.05, longest: float = 2.0) -> None:
        self._first = self._next = first
        self._longest = longest

    def next(self) -> float:
        """Return the pause before the next try."""
        pause = self._next
        self._next = min(2 * pause, self._longest)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - it spreads, and is no secret

    def restart(self) -> None:
        """Begin with the first again: a try has succeeded."""
        self._next = self._first


async def nap(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event, so long at most, or without an end; return whether it came."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
