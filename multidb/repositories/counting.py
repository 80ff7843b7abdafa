"""Counts on their way to Redis: added up in this process, stored by one flush at a time.

A flush has a number, greater than all before it, and Redis keeps the last number of each process
beside each counter. So a flush whose answer was lost is sent again as it was, and counts once. As
only one is under way, none overtakes another. What is counted meanwhile goes with the next.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Mapping
from copy import copy
from datetime import date, timedelta
from itertools import count

from multidb.errors import MultiDBError, NotOpenError, UnavailableError
from multidb.repositories.repository import Resources
from multidb.stores.background import Background
from multidb.stores.redis.commands import Command, scripted
from multidb.stores.redis.keys import KeyPattern
from multidb.stores.redis.outage import Outage

__all__ = ["Counting"]

_log = logging.getLogger("multidb.counters")

#: Seconds until a flush is sent again.
_PAUSE = 0.5
#: Seconds for which counts wait that nobody waits for.
_INTERVAL = 0.5

#: How many commands share a round trip.
_TOGETHER = 5000

#: How many different counts are kept while Redis is away.
_MOST_KEPT = 100_000


class Counting:
    """Adds up counts, and stores them: all that came together in one round trip."""

    def __init__(
        self, resources: Resources, counter: KeyPattern, ranking: KeyPattern, *, lifetime: timedelta
    ) -> None:
        self._resources = resources
        self._counter = counter
        self._ranking = ranking
        self._lifetime = int(lifetime.total_seconds() * 1000)
        self._process = secrets.token_hex(8)
        self._numbers = count(1)
        self._counted: Counter[tuple[str, date]] = Counter()
        #: Those who wait until what they counted is stored.
        self._waiting: list[asyncio.Future[None]] = []
        #: The flush that is under way, or to be sent again.
        self._flush: list[Command] = []
        self._storing = Background(self._store_all)
        #: Flushes what was noted.
        self._later: asyncio.TimerHandle | None = None
        self._outage = Outage(_log, "counts are kept and stored later")
        resources.before_closing.append(self._drain)
        resources.after_closing.append(self._give_up)

    async def add(self, endpoint: str, day: date, by: int) -> None:
        """Count, and return once it is stored; while Redis is away, at once."""
        self._counted[endpoint, day] += by
        self._run()
        if not self._outage.is_on:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting

    def note(self, endpoint: str, day: date) -> None:
        """Count one, and have it stored within a second, with all that is counted until then."""
        self._counted[endpoint, day] += 1
        loop = asyncio.get_running_loop()
        # One that is overdue was to run on an event loop that is gone.
        if self._later is None or self._later.when() < loop.time() - _INTERVAL:
            self._later = loop.call_later(_INTERVAL, self._run)

    def check(self, endpoint: str, day: date, operation: str) -> None:
        """Raise: NotOpenError; UnavailableError if Redis is away and there is no room."""
        _ = self._resources.redis.opened
        if self._outage.is_on and len(self._counted) >= _MOST_KEPT and (endpoint, day) not in self._counted:
            raise UnavailableError("Redis is away, and too much is counted already", operation=operation)

    async def add_numbered(self, endpoint: str, day: date, by: int, number: int) -> None:
        """Store a count, unless one of this endpoint and day with this number, or a later one, was."""
        count, day_of_all = self._commands(
            "outbox", number, {(endpoint, day): by}, ranks=f"outbox {endpoint}"
        )
        await self._resources.redis.send([count, day_of_all], operation="counters.increment")

    def _run(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._storing.begin()

    async def _store_all(self) -> None:
        waiting: list[asyncio.Future[None]] = []
        while self._flush or self._counted:
            if not self._flush:
                self._flush, waiting = self._taken(), self._waiting
                self._waiting = []
            try:
                refused = await self._send()
            except MultiDBError as error:
                self._outage.began(error)
                _answer([*waiting, *self._waiting], None)
                waiting, self._waiting = [], []
                await self._storing.pause(_PAUSE)
            except asyncio.CancelledError:
                text = "closed before Redis answered; it may have been counted"
                _answer([*waiting, *self._waiting], UnavailableError(text, operation="counters.increment"))
                raise
            else:
                _answer(waiting, refused)

    async def _send(self) -> MultiDBError | None:
        """Send the flush, and return why some of it was refused for good. Raises: what may pass."""
        refused: MultiDBError | None = None
        while self._flush:
            # All of a long outage at once might take longer than a round trip may, and so each time.
            some = self._flush[:_TOGETHER]
            try:
                await self._resources.redis.send(some, operation="counters.increment")
                self._outage.over()
            except MultiDBError as error:
                if error.retryable or isinstance(error, NotOpenError):
                    raise
                refused = error
            del self._flush[:_TOGETHER]
        return refused

    def _taken(self) -> list[Command]:
        """Return the commands that store what has been counted, which is then no more to be."""
        counted, self._counted = self._counted, Counter()
        return self._commands(self._process, next(self._numbers), counted, ranks=self._process)

    def _commands(
        self, process: str, number: int, counted: Mapping[tuple[str, date], int], *, ranks: str
    ) -> list[Command]:
        flush = str(number)
        commands: list[Command] = []
        ranked: dict[date, list[str | int]] = {}
        for (endpoint, day), by in counted.items():
            key = self._counter.key({"endpoint": endpoint, "date": day})
            added = process, flush, by, self._lifetime
            commands.append(scripted("counter_add", [key, f"{key}:flushes"], added, repeatable=True))
            ranked.setdefault(day, []).extend((endpoint, by))
        for day, pairs in ranked.items():
            key = self._ranking.key({"date": day})
            added_to = ranks, flush, self._lifetime, *pairs
            commands.append(scripted("counter_rank", [key, f"{key}:flushes"], added_to, repeatable=True))
        return commands

    async def _drain(self) -> None:
        """Store what is left, within `Settings.close_timeout`."""
        if self._flush or self._counted:
            self._run()
            self._storing.wake()  # the next try is made at once
        await self._storing.end(within=self._resources.settings.close_timeout.total_seconds())

    async def _give_up(self) -> None:
        """Store no more; what is left is lost."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        await self._storing.end(within=0)
        if self._flush or self._counted:
            _log.warning(
                "closed before Redis took all counts: those of %d endpoints are lost", len(self._lost())
            )

    def _lost(self) -> set[str]:
        """Forget what is left, and return the keys it was for."""
        lost = {command.key for command in (*self._flush, *self._taken())}
        self._flush = []
        return lost


def _answer(waiting: list[asyncio.Future[None]], error: MultiDBError | None) -> None:
    for each in waiting:
        if not each.done():
            if error is None:
                each.set_result(None)
            else:
                each.set_exception(copy(error))
