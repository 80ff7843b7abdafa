"""API requests: what services were asked, and how they answered. MongoDB `api_request_logs`."""

from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, TypeAlias, cast

from multidb.errors import DataError
from multidb.models.api_request_logs import (
    ApiRequestLog,
    ApiRequestLogFields,
    HttpMethod,
    RequestShare,
    RequestStats,
    RequestWindow,
)
from multidb.models.fields import utc_now
from multidb.repositories.logs import LogRepository
from multidb.repositories.repository import known_values, page_size, validated
from multidb.repositories.request_pipelines import (
    PERCENTILES,
    from_logs,
    from_rollups,
    hourly,
    middle,
    stats,
)
from multidb.repositories.usage_analytics import UsageAnalyticsRepository
from multidb.repositories.usage_pipelines import GRANULARITIES, KEPT
from multidb.repositories.usage_series import REQUESTS, Series
from multidb.repositories.windows import Unit, begin, checked_moment, end, span, windows

__all__ = ["ApiRequestLogRepository"]

#: What requests can be told apart by, and by what the greatest are found.
Of: TypeAlias = Literal["endpoint", "service", "method"]
Order: TypeAlias = Literal[
    "requests", "errors", "error_rate", "mean_ms", "max_ms", "p50_ms", "p95_ms", "p99_ms"
]

_OF = ("endpoint", "service", "method")
_ORDERS = ("requests", "errors", "error_rate", "mean_ms", "max_ms", *(f"p{each}_ms" for each in PERCENTILES))

#: How far back a rollup begins that is not told since when.
_RECENT = timedelta(hours=2)


class ApiRequestLogRepository(LogRepository[ApiRequestLog]):
    """The calls on API requests. `find` gives the newest first.

    Windows are those of UTC. Percentiles are of the nearest rank, and at most 1% away
    (`request_pipelines.py` says why); counts are exact. With `rolled` a question is answered by
    what `rollup` has stored, in whole windows of the length `by`, however long ago the logs were
    deleted; without it by the logs themselves, and its cost grows with the requests in the span.
    """

    c: ClassVar[ApiRequestLogFields]
    collection = "api_request_logs"
    order_by = "-timestamp"

    async def range(
        self,
        first: datetime,
        last: datetime,
        *,
        by: Unit = "hour",
        rolled: bool = False,
        service: str | None = None,
        method: HttpMethod | None = None,
        endpoint: str | None = None,
    ) -> list[RequestWindow]:
        """Return each window that has a moment from `first` up to and without `last`, whole, in order.

        One without requests has zeros. At most 10,000 windows.

        Raises: DataError for a value or a span that does not fit.
        Source: MongoDB.
        """
        operation = self._operation("range")
        start, stop = span(first, last, by, operation)
        starts = list(windows(start, stop, by))
        selected = self._selected(service, method, endpoint, operation)
        unit = {"$dateTrunc": {"date": "$timestamp", "unit": by, "startOfWeek": "monday"}}
        found = await self._stats(
            (starts[0], end(starts[-1], by)), "$start" if rolled else unit, by, rolled, selected, operation
        )
        each = {document.pop("_id"): document for document in found}
        return [RequestWindow(start=start, **_stats_of(each.get(start))) for start in starts]

    async def total(
        self,
        first: datetime,
        last: datetime,
        *,
        by: Unit = "hour",
        rolled: bool = False,
        service: str | None = None,
        method: HttpMethod | None = None,
        endpoint: str | None = None,
    ) -> RequestStats:
        """Return what the requests from `first` up to and without `last` are in all.

        Raises and source: as `range`.
        """
        operation = self._operation("total")
        between = self._between(first, last, by, rolled, operation)
        selected = self._selected(service, method, endpoint, operation)
        found = await self._stats(between, None, by, rolled, selected, operation)
        return RequestStats(**_stats_of(found[0] if found else None))

    async def top(
        self,
        first: datetime,
        last: datetime,
        *,
        of: Of = "endpoint",
        order_by: Order = "requests",
        limit: int = 10,
        by: Unit = "hour",
        rolled: bool = False,
        service: str | None = None,
        method: HttpMethod | None = None,
        endpoint: str | None = None,
    ) -> list[RequestShare]:
        """Return the endpoints, services or methods with the most requests, errors or milliseconds.

        The greatest first; of those that are equal, by the alphabet. Raises and source: as `range`.
        """
        operation = self._operation("top")
        size = page_size(limit, operation)
        _one_of("of", of, _OF, operation)
        _one_of("order_by", order_by, _ORDERS, operation)
        between = self._between(first, last, by, rolled, operation)
        selected = self._selected(service, method, endpoint, operation)
        # Percentiles are told by their buckets until they are here.
        field = order_by.removesuffix("_ms") if order_by.startswith("p") else order_by
        then: list[dict[str, Any]] = [{"$sort": {field: -1, "_id": 1}}, {"$limit": size}]
        found = await self._stats(
            between, f"$dimensions.{of}" if rolled else f"${of}", by, rolled, selected, operation, *then
        )
        return [RequestShare(value=each["_id"], **_stats_of(each)) for each in found]

    async def rollup(self, *, since: datetime | None = None) -> int:
        """Add up the requests of each hour since the one `since` falls in, and of its day and month.

        Without `since`, of this hour and the two before it: run it every few minutes, and with
        `since` after logs came late. Returns how many hours it added up. Idempotent, and safe while
        requests are logged and while others roll up: an hour is replaced as a whole, and never by
        one with fewer requests. What is stored is in `usage_analytics`, metric `api_requests`, by
        service, method, endpoint and class of status, such as `5xx`; hours for 400 days, days and
        months for ever. The client holds one hour at a time, which grows with the endpoints and not
        with the requests.

        Raises: DataError if `since` is no moment, or longer ago than hours are kept; TransactionError
        inside `db.mongo_transaction()`.
        """
        operation = self._operation("rollup")
        now = utc_now()
        first = now - _RECENT if since is None else checked_moment(since, "since", operation)
        if first < now - KEPT["hour"]:
            raise DataError(f"`since` must be within {KEPT['hour'].days} days", operation=operation)
        self._resources.mongo.transactions.refuse(operation)
        usage = cast(UsageAnalyticsRepository, self._resources.repository("usage_analytics"))
        hours = list(windows(first, now + timedelta(hours=1), "hour"))
        for start in hours:
            logs = {"timestamp": {"$gte": start, "$lt": end(start, "hour")}}
            found = await self._resources.mongo.aggregate(self.collection, hourly(logs), operation=operation)
            stored = [_hour_of(each, start, operation) for each in found]
            refused = await self._resources.mongo.advance(
                usage.collection, stored, by="count", operation=operation
            )
            for error in refused.values():
                raise error
        await usage.rollup()
        return len(hours)

    def _selected(
        self, service: str | None, method: str | None, endpoint: str | None, operation: str
    ) -> dict[str, Any]:
        given = {"service": service, "method": method, "endpoint": endpoint}
        values = {name: value for name, value in given.items() if value is not None}
        return known_values(ApiRequestLog, values, operation)

    def _between(
        self, first: datetime, last: datetime, by: Unit, rolled: bool, operation: str
    ) -> tuple[datetime, datetime]:
        """Return the span; of what is rolled up, the windows that have a moment of it."""
        start, stop = span(first, last, by, operation)
        return (begin(start, by), stop) if rolled else (start, stop)

    async def _stats(
        self,
        between: tuple[datetime, datetime],
        of: Any,
        by: Unit,
        rolled: bool,
        selected: dict[str, Any],
        operation: str,
        *then: dict[str, Any],
    ) -> list[dict[str, Any]]:
        moments = {"$gte": between[0], "$lt": between[1]}
        if rolled:
            _one_of("by", by, GRANULARITIES, operation)
            chosen = {f"dimensions.{name}": value for name, value in selected.items()}
            query = {"metric": REQUESTS, "by": by, "start": moments, **chosen}
            collection, counted = UsageAnalyticsRepository.collection, from_rollups(query, of)
        else:
            collection = self.collection
            counted = from_logs({"timestamp": moments, **selected}, of)
        return await self._resources.mongo.aggregate(
            collection, [*counted, *stats(), *then], operation=operation
        )


def _stats_of(found: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a `RequestStats`."""
    if found is None:
        return {}
    low, high = found["min_ms"], found["max_ms"]
    taken = {name: found[name] for name in ("requests", "errors", "mean_ms", "min_ms", "max_ms")}
    # The middle of the first or last bucket may lie beyond what is in it.
    return taken | {f"p{each}_ms": min(max(middle(found[f"p{each}"]), low), high) for each in PERCENTILES}


def _hour_of(found: dict[str, Any], start: datetime, operation: str) -> dict[str, Any]:
    """Return the document of an hour of one endpoint."""
    series = validated(Series, {"metric": REQUESTS, "dimensions": found.pop("_id")}, operation)
    part_of = series.part_of(start, GRANULARITIES)
    id = part_of.pop("hour")
    return {
        "_id": id,
        "by": "hour",
        "start": start,
        **series.model_dump(exclude_none=True),
        **found,
        "part_of": part_of,
        "pending": id,
        "expires_at": start + KEPT["hour"],
    }


def _one_of(name: str, value: Any, values: tuple[str, ...], operation: str) -> None:
    if value not in values:
        raise DataError(f"`{name}` must be one of {', '.join(values)}", operation=operation)
