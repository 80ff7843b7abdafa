"""Counters: how often each endpoint was called, a day. Redis `counter:api_calls:{endpoint}:{date}`."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, cast

from multidb.errors import DataError, StoreName
from multidb.models.counters import EndpointCount
from multidb.repositories.counting import Counting
from multidb.repositories.key_effects import CounterEffects
from multidb.repositories.repository import MAX_PAGE, Repository, Resources, page_size
from multidb.repositories.usage_analytics import UsageAnalyticsRepository

__all__ = ["CounterRepository"]

_MAX_LENGTH = 500
#: So long is what MongoDB takes added up.
_LATEST = timedelta(days=29)
_MAX_BY = 10**12


class CounterRepository(Repository):
    """The calls on counters. Days are those of UTC.

    Calls made at the same time are added up in the process and stored together, exactly: a
    flush whose answer was lost is sent again and counts once. Counters live for
    `Settings.counter_lifetime` after they were last added to. Reading raises UnavailableError if
    Redis cannot be reached; counting does not (`increment`).
    """

    store: ClassVar[StoreName] = "redis"
    key = "counter:api_calls:{endpoint}:{date}"
    effects = CounterEffects
    #: A day's endpoints by how often they were called.
    ranking = "counter:api_calls:{date}"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._redis = resources.redis
        self._counter = self._redis.pattern(self.key)
        self._ranking = self._redis.pattern(self.ranking)
        lifetime = resources.settings.counter_lifetime
        self._counting = Counting(resources, self._counter, self._ranking, lifetime=lifetime)

    @classmethod
    def target(cls) -> str:
        return cls.key

    @classmethod
    def entity(cls) -> str:
        return "counters"

    @classmethod
    def check(cls) -> None:
        """There is nothing to hold against each other."""

    async def increment(self, endpoint: str, *, by: int = 1) -> None:
        """Count a call of `endpoint`, today, or several; return once it is stored.

        While Redis is away it returns at once: the count is kept in this process, stored when Redis
        is back, and lost if the process ends before. A caller that is cancelled has counted.

        Raises: DataError if `endpoint` is not a text of 1 to 500 characters, or `by` not a whole
        number from 1 to 10 ** 12; UnavailableError if Redis is away for so long that 100,000
        different counts are kept.
        """
        operation = self._operation("increment")
        day = self._checked(endpoint, by, operation)
        self._counting.check(endpoint, day, operation)
        await self._counting.add(endpoint, day, by)

    async def get(self, endpoint: str, day: date) -> int:
        """Return how often `endpoint` was called on a day; 0 if never, or too long ago to be known."""
        operation = self._operation("get")
        return (await self._range(endpoint, day, day, operation))[day]

    async def range(self, endpoint: str, first: date, last: date) -> dict[date, int]:
        """Return the count of each day from `first` to `last`, both included, up to 1,000 days.

        Raises: DataError if a day is not a date, the last is before the first, or they are too many.
        """
        return await self._range(endpoint, first, last, self._operation("range"))

    async def top(self, day: date, *, limit: int = 10) -> list[EndpointCount]:
        """Return the endpoints that were called most on a day, the most called first.

        Raises: DataError if `day` is not a date or `limit` not from 1 to 1,000.
        """
        operation = self._operation("top")
        _check_day("day", day, operation)
        last = page_size(limit, operation) - 1
        found: list[Any] = await self._redis.execute(
            *("ZREVRANGE", self._ranking.key({"date": day}), 0, last, "WITHSCORES"), operation=operation
        )
        return [EndpointCount(endpoint=name.decode(), count=int(count)) for name, count in found]

    async def rollup(self, day: date) -> int:
        """Take a day's counts into `usage_analytics`, metric `api_calls` by `endpoint`; return how many.

        `db.usage_analytics.rollup()` adds them up with all else. Idempotent, and safe at any time and in
        any process: what was taken of the day before is replaced, never added to. So take today's
        every so often, and yesterday's once more. A thousand endpoints a round trip.

        Raises: DataError unless `day` is one of the last 29 or today; UnavailableError if Redis or
        MongoDB cannot be reached.
        Source: Redis `counter:api_calls:{date}`, MongoDB `usage_analytics`.
        """
        operation = self._operation("rollup")
        _check_day("day", day, operation)
        if not timedelta(0) <= _today() - day <= _LATEST:
            raise DataError(f"`day` must be one of the last {_LATEST.days}, or today", operation=operation)
        usage = cast(UsageAnalyticsRepository, self._resources.repositories[UsageAnalyticsRepository])
        key = self._ranking.key({"date": day})
        taken = 0
        while True:
            found: list[Any] = await self._redis.execute(
                *("ZRANGE", key, taken, taken + MAX_PAGE - 1, "WITHSCORES"), operation=operation
            )
            totals = {name.decode(): int(count) for name, count in found}
            await usage._keep_totals(  # noqa: SLF001 - one of our own
                "api_calls", totals, of="endpoint", day=day, operation=operation
            )
            taken += len(found)
            if len(found) < MAX_PAGE:
                return taken

    def _countable(self, endpoint: str, operation: str) -> date:
        """Return today if calls of `endpoint` may be counted now. Raises: as `increment`."""
        day = self._checked(endpoint, 1, operation)
        self._counting.check(endpoint, day, operation)
        return day

    def _checked(self, endpoint: str, by: int, operation: str) -> date:
        """Return the day that calls of an endpoint count to now. Raises: DataError."""
        _check_endpoint(endpoint, operation)
        if type(by) is not int or not 1 <= by <= _MAX_BY:
            raise DataError(f"`by` must be a whole number from 1 to {_MAX_BY}", operation=operation)
        self._counter.key({"endpoint": endpoint, "date": date.min})  # or it would fail for all who wait
        return _today()

    def _note(self, endpoint: str, day: date) -> None:
        """Count a call, stored within a second. What is counted when the process is killed, is lost."""
        self._counting.note(endpoint, day)

    async def _range(self, endpoint: str, first: date, last: date, operation: str) -> dict[date, int]:
        _check_endpoint(endpoint, operation)
        _check_day("first", first, operation)
        _check_day("last", last, operation)
        length = (last - first).days + 1
        if not 1 <= length <= MAX_PAGE:
            raise DataError(
                f"`last` must be {MAX_PAGE - 1} days after `first` at most, and not before it",
                operation=operation,
            )
        days = [first + timedelta(days=number) for number in range(length)]
        keys = [self._counter.key({"endpoint": endpoint, "date": day}) for day in days]
        values = await self._redis.get_many(keys, operation=operation)
        return {day: int(value or 0) for day, value in zip(days, values, strict=True)}


def _today() -> date:
    return datetime.now(UTC).date()


def _check_endpoint(endpoint: Any, operation: str) -> None:
    if not isinstance(endpoint, str) or not 1 <= len(endpoint) <= _MAX_LENGTH:
        raise DataError(f"`endpoint` must be a text of 1 to {_MAX_LENGTH} characters", operation=operation)


def _check_day(name: str, day: Any, operation: str) -> None:
    if not isinstance(day, date) or isinstance(day, datetime):
        raise DataError(f"`{name}` must be a date, not {type(day).__name__}", operation=operation)
