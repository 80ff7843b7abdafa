"""How a request begins: session, rate limits, presence and a counter, in one round trip.

The script decides all that is on the slot of the user whom the token tells. Two things lie elsewhere
and follow behind the caller's back: the register of who is there, told once in a quarter of
`Settings.presence_timeout`, and the counter, which is added up in the process for half a second.
"""

from typing import Any, cast

from multidb.models.prologue import Prologue
from multidb.repositories.counters import CounterRepository
from multidb.repositories.presence import MAX_DEVICES, PresenceRepository
from multidb.repositories.rate_limits import RateLimitRepository, Rates, asked, checked_limits, key_of, told
from multidb.repositories.repository import Resources
from multidb.repositories.session_use import to_milliseconds
from multidb.repositories.sessions import SessionRepository

__all__ = ["Requests"]

_OPERATION = "request"


class Requests:
    """Begins requests, for the repositories it needs."""

    def __init__(self, resources: Resources) -> None:
        self._redis = resources.redis
        wired = resources.repositories
        self._use = cast(SessionRepository, wired[SessionRepository]).use
        self._presence = cast(PresenceRepository, wired[PresenceRepository])
        self._counters = cast(CounterRepository, wired[CounterRepository])
        self._devices = self._redis.pattern(PresenceRepository.key)
        self._endpoints = self._redis.pattern(RateLimitRepository.key)
        self._there = to_milliseconds(resources.settings.presence_timeout), MAX_DEVICES

    async def begin(self, token: str, endpoint: str, rate: Rates | None, cost: int) -> Prologue:
        """Do as `MultiDB.request` says."""
        day = self._counters._countable(endpoint, _OPERATION)  # noqa: SLF001 - one of our own
        # Whatever the token: who gives a wrong rate must not hear of it at the first sign-in only.
        limits = [] if rate is None else checked_limits({endpoint: rate}, cost, _OPERATION)
        known = self._use.read(token)
        if known is None:
            return Prologue(None, None)
        user_id = known.user_id
        keys = [key_of(self._endpoints, user_id, each) for each, _ in limits]
        rates = [rate for _, rate in limits]
        devices = self._devices.key({"user_id": user_id})
        reply: list[Any] | None = await self._redis.run(
            "request",
            [*self._use.keys(user_id, known.id), devices, *keys],
            [*self._use.asked(known), *self._there, cost, *(each for rate in rates for each in asked(rate))],
            operation=_OPERATION,
        )
        session = None if reply is None else self._use.told(known, reply[0], _OPERATION)
        if reply is None or session is None:
            return Prologue(None, None)
        _, noted, *decided = reply
        if noted:
            self._presence._arrived(user_id)  # noqa: SLF001 - as above
        begun = Prologue(session, told(rates, decided[0]) if decided else None)
        if begun.allowed:
            self._counters._note(endpoint, day)  # noqa: SLF001 - as above
        return begun
