"""Rate limits: how often a user may call what. Redis `rate_limit:user:{user_id}:{endpoint}`."""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias, get_args
from uuid import UUID

from multidb.errors import DataError, RateLimitExceededError, StoreError, StoreName
from multidb.models.ids import uuid7
from multidb.models.rate_limits import Decision, Quota, Rate
from multidb.repositories.local_limits import How, LocalLimits
from multidb.repositories.repository import Repository, Resources, checked_id
from multidb.settings import OutagePolicy
from multidb.stores.redis.commands import Argument
from multidb.stores.redis.keys import KeyPattern
from multidb.stores.redis.outage import Outage

__all__ = ["RateLimitRepository", "Rates", "asked", "checked_limits", "key_of", "told"]

#: One rate, or several that must all admit a call.
Rates: TypeAlias = Rate | Sequence[Rate]

_MAX_LENGTH = 500
_MOST_AT_ONCE = 20
_MICROSECOND = timedelta(microseconds=1)
_NONE = timedelta(0)

_log = logging.getLogger("multidb.rate_limits")


class RateLimitRepository(Repository):
    """The calls on rate limits. Each is one round trip, and atomic; the server's clock tells.

    A limit is a user's, an endpoint's and a rate's: another rate counts for itself. The endpoint is any
    text of 1 to 500 characters; `Rate` says what each algorithm admits. A call counts for `cost`, up to
    the limit, and is admitted whole or not at all; one that is refused counts for nothing.

    While Redis is away `Settings.rate_limit_outage` decides, or `outage` of a call: "open" admits
    all, "closed" refuses all, "local" keeps the same limits in this process, each for itself. A call
    whose answer was lost may have counted. All methods raise DataError for what does not fit.
    """

    store: ClassVar[StoreName] = "redis"
    #: A hash of what counts, by rate.
    key = "rate_limit:user:{user_id}:{endpoint}"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._redis = resources.redis
        self._pattern = self._redis.pattern(self.key)
        self._policy: OutagePolicy = resources.settings.rate_limit_outage
        self._pause = resources.settings.redis_breaker_pause
        self._local = LocalLimits()
        self._outage = Outage(_log, "the outage policy decides of rate limits")

    @classmethod
    def target(cls) -> str:
        return cls.key

    @classmethod
    def entity(cls) -> str:
        return "rate_limits"

    @classmethod
    def check(cls) -> None:
        """There is nothing to hold against each other."""

    async def hit(
        self,
        user_id: UUID,
        endpoint: str,
        rate: Rates,
        *,
        cost: int = 1,
        outage: OutagePolicy | None = None,
    ) -> Decision:
        """Have a call count, if the rate admits it; of several rates, all or none. Not idempotent."""
        return await self._decide(user_id, {endpoint: rate}, "hit", cost, outage, self._operation("hit"))

    async def hit_all(
        self,
        user_id: UUID,
        limits: Mapping[str, Rates],
        *,
        cost: int = 1,
        outage: OutagePolicy | None = None,
    ) -> Decision:
        """Have a call count for several endpoints, if the rates of all of them admit it.

        As in `hit_all(id, {"POST /reports": Rate(5, per=minute), "all": Rate(1000, per=hour)})`. Up to 20
        rates together. Not idempotent.
        """
        return await self._decide(user_id, limits, "hit", cost, outage, self._operation("hit_all"))

    async def require(
        self,
        user_id: UUID,
        endpoint: str,
        rate: Rates,
        *,
        cost: int = 1,
        outage: OutagePolicy | None = None,
    ) -> Decision:
        """Do as `hit`. Raises: RateLimitExceededError, with the decision, if the call is refused."""
        operation = self._operation("require")
        decision = await self._decide(user_id, {endpoint: rate}, "hit", cost, outage, operation)
        if not decision.allowed:
            raise RateLimitExceededError(
                "too many calls: `decision.retry_after` says when the next one is admitted",
                decision=decision,
                store="redis",
                operation=operation,
            )
        return decision

    async def peek(
        self,
        user_id: UUID,
        endpoint: str,
        rate: Rates,
        *,
        cost: int = 1,
        outage: OutagePolicy | None = None,
    ) -> Decision:
        """Return what `hit` would say, but for what is left after it; nothing counts."""
        return await self._decide(user_id, {endpoint: rate}, "peek", cost, outage, self._operation("peek"))

    async def refund(
        self,
        user_id: UUID,
        endpoint: str,
        rate: Rates,
        *,
        cost: int = 1,
        outage: OutagePolicy | None = None,
    ) -> Decision:
        """Give back what the latest call took, say because it failed; return what `peek` would say.

        It is meant for right after that call: what it took comes off the latest that counts, and off a
        fixed window only while that lasts. Not idempotent.
        """
        operation = self._operation("refund")
        return await self._decide(user_id, {endpoint: rate}, "refund", cost, outage, operation)

    async def reset(self, user_id: UUID, endpoint: str) -> None:
        """Let nothing count against a user at an endpoint, whatever the rate. Idempotent.

        Raises: UnavailableError if Redis cannot be reached.
        """
        operation = self._operation("reset")
        checked_id(user_id, operation, "user_id")
        key = key_of(self._pattern, user_id, _checked(endpoint, operation))
        self._local.reset(key)
        await self._redis.delete([key], operation=operation)

    # --- how

    async def _decide(
        self,
        user_id: UUID,
        limits: Mapping[str, Rates],
        how: How,
        cost: int,
        outage: OutagePolicy | None,
        operation: str,
    ) -> Decision:
        checked_id(user_id, operation, "user_id")
        found = [
            (key_of(self._pattern, user_id, endpoint), rate)
            for endpoint, rate in checked_limits(limits, cost, operation)
        ]
        if outage is not None and outage not in get_args(OutagePolicy):
            raise DataError(
                f"`outage` must be one of {', '.join(get_args(OutagePolicy))}", operation=operation
            )
        arguments = [each for _, rate in found for each in asked(rate)]
        try:
            reply = await self._redis.run(
                "rate_limit", [key for key, _ in found], [how, cost, "", *arguments], operation=operation
            )
        except StoreError as error:
            if not error.retryable:
                raise
            self._outage.began(error)
            return self._without(found, how, cost, outage or self._policy)
        self._outage.over()
        return told([rate for _, rate in found], reply)

    def _without(
        self, limits: Sequence[tuple[str, Rate]], how: How, cost: int, policy: OutagePolicy
    ) -> Decision:
        """Decide without Redis."""
        if policy == "local":
            reply = self._local.decide(limits, how, cost)
            return told([rate for _, rate in limits], reply, degraded=True)
        if policy == "closed":
            return Decision(False, 0, self._pause, self._pause, degraded=True)
        left = min(rate.limit for _, rate in limits) - cost
        return Decision(True, left, timedelta(0), timedelta(0), degraded=True)


def checked_limits(limits: Mapping[str, Rates], cost: int, operation: str) -> list[tuple[str, Rate]]:
    """Return the endpoint and the rate of each limit. Raises: DataError."""
    found = [
        (_checked(endpoint, operation), rate)
        for endpoint, rates in limits.items()
        for rate in _each(rates, operation)
    ]
    if not 1 <= len(found) <= _MOST_AT_ONCE:
        raise DataError(f"give 1 to {_MOST_AT_ONCE} rates", operation=operation)
    if len(found) > 1 and len({(endpoint, asked(rate)) for endpoint, rate in found}) < len(found):
        raise DataError("a rate is given twice", operation=operation)
    if type(cost) is not int or not 1 <= cost <= min(rate.limit for _, rate in found):
        raise DataError("`cost` must be a whole number from 1 to the limit", operation=operation)
    return found


def key_of(pattern: KeyPattern, user_id: UUID, endpoint: str) -> str:
    """Return where the limits of a user at an endpoint are."""
    before, after = _around_user(pattern, endpoint)
    return f"{before}{user_id}{after}"


def _checked(endpoint: Any, operation: str) -> str:
    if not isinstance(endpoint, str) or not 1 <= len(endpoint) <= _MAX_LENGTH:
        raise DataError(f"`endpoint` must be a text of 1 to {_MAX_LENGTH} characters", operation=operation)
    return endpoint


@lru_cache(maxsize=1000)
def _around_user(pattern: KeyPattern, endpoint: str) -> tuple[str, str]:
    """Return what stands in the key of an endpoint before and after the user."""
    sample = uuid7()
    before, after = pattern.key({"user_id": sample, "endpoint": endpoint}).split(str(sample))
    return before, after


@lru_cache(maxsize=1000)
def asked(rate: Rate) -> tuple[Argument, ...]:
    """Return a rate as the scripts take it: algorithm, limit, and time in microseconds."""
    return rate.algorithm, rate.limit, rate.per // _MICROSECOND


def told(rates: Sequence[Rate], reply: Sequence[int], *, degraded: bool = False) -> Decision:
    """Return the decision that a script tells: 1 or 0, then three numbers for each rate."""
    if len(rates) == 1:
        allowed, left, wait, reset = reply
        waits, resets = timedelta(0, 0, wait) if wait else _NONE, timedelta(0, 0, reset)
        quota = Quota(rates[0], left, waits, resets)
        return Decision(bool(allowed), left, waits, resets, (quota,), degraded)
    numbers = iter(reply)
    allowed = next(numbers)
    quotas = tuple(
        Quota(rate, left, timedelta(microseconds=wait), timedelta(microseconds=reset))
        for rate, left, wait, reset in zip(rates, numbers, numbers, numbers, strict=True)
    )
    return Decision(
        bool(allowed),
        min(quota.remaining for quota in quotas),
        max(quota.retry_after for quota in quotas),
        max(quota.reset_after for quota in quotas),
        quotas,
        degraded,
    )


def _each(rates: Any, operation: str) -> Sequence[Rate]:
    several = rates if isinstance(rates, Sequence) else [rates]
    for rate in several:
        if not isinstance(rate, Rate):
            raise DataError(
                f"`rate` must be a Rate or several, not {type(rate).__name__}", operation=operation
            )
    return several
