"""Usage: what an application counts, for reports and bills. MongoDB `usage_analytics`.

What is recorded becomes tallies, one a key and hour for each process (`stores/mongo/tallies.py`
has why none counts twice); `rollup` adds tallies up to hours, hours to days and days to months,
which the queries read.
"""

import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid5

from multidb.errors import DataError
from multidb.models.ids import uuid7
from multidb.models.usage_analytics import (
    MOST,
    Granularity,
    Usage,
    UsageAnalytics,
    UsageAnalyticsFields,
    UsageShare,
    UsageWindow,
)
from multidb.repositories.mongo_reader import MongoReader
from multidb.repositories.repository import Resources, page_size, validated
from multidb.repositories.usage_pipelines import GRANULARITIES, KEPT, rolled, summed
from multidb.repositories.usage_series import REQUESTS, Series
from multidb.repositories.windows import begin, checked_moment, span, windows

__all__ = ["UsageAnalyticsRepository"]

#: How long after its hour a record is still taken; tallies are kept longer, so that their hour can
#: be added up anew. And how far clocks may be ahead of this one.
_LATEST = timedelta(days=30)
_AHEAD = timedelta(hours=1)

#: Names that are parameters of queries.
_RESERVED = frozenset({"metric", "amount", "at", "first", "last", "by", "of", "limit"})

_HOUR = 3600
_TOTALS = UUID("0198f2f0-5d3c-7b60-9c1e-6d0b7f4a2e12")


class UsageAnalyticsRepository(MongoReader[UsageAnalytics]):
    """The calls on usage. Windows are those of UTC; inside `db.tenant(...)` they are about that company."""

    c: ClassVar[UsageAnalyticsFields]
    collection = "usage_analytics"
    order_by = "-start"
    tenant = "company_id"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._tallies = resources.mongo.tallies(self.collection, operation=self._operation("record"))

    # --- recording

    def record(
        self,
        metric: str,
        *,
        amount: int = 1,
        at: datetime | None = None,
        company_id: UUID | None = None,
        user_id: UUID | None = None,
        **dimensions: str,
    ) -> None:
        """Count `amount` of something, now or `at` a moment of the last 30 days. Waits for nothing.

        It is added up in memory, by hour and by what it is for, and stored soon
        (`Settings.usage_flush_interval`) and exactly once, however often that must be tried. What
        is not stored yet is lost with a process that is killed: at most what it recorded since the
        last flush; await `flush` where that must not be. Closing stores it. There is room for
        `Settings.usage_tallies` keys: while MongoDB is away, records of further ones are `lost`. Each
        user and each combination of dimensions is a key, so name those that queries are about,
        and no dimension with a value of its own for each record. May be called from any thread.

        Raises: DataError for an amount that is no whole number up to 10**12 either way, a name
        or a value that does not fit, or a moment too long ago or ahead.
        """
        operation = self._operation("record")
        company = self._whose(company_id, operation)
        if type(amount) is not int or not -MOST <= amount <= MOST:
            raise DataError(
                f"`amount` must be a whole number, from -{MOST:,} to {MOST:,}; choose the unit for that",
                operation=operation,
            )
        # Of a moment by its hour, which a float tells exactly.
        moment = time.time() if at is None else begin(checked_moment(at, "at", operation), "hour").timestamp()
        hour = int(moment // _HOUR)

        def document() -> dict[str, Any]:
            series = {"metric": metric, "company_id": company, "user_id": user_id, "dimensions": dimensions}
            return self._tally(series, hour, operation)

        key = (metric, hour, company, user_id, tuple(sorted(dimensions.items())) if dimensions else ())
        try:
            self._tallies.add(key, amount, document)
        except TypeError:  # it has no hash, so it is of no type that fits
            document()
            raise

    async def flush(self) -> None:
        """Return once everything recorded before the call is stored by a majority.

        Raises: UnavailableError; it waits in memory then, to be stored once MongoDB is back.
        """
        _ = self._resources.mongo.opened  # or it says that it is not
        await self._tallies.flush()

    @property
    def lost(self) -> int:
        """How many records this process lost, for want of room or because MongoDB refused them."""
        return self._tallies.lost

    def _tally(self, values: Mapping[str, Any], hour: int, operation: str) -> dict[str, Any]:
        """Return the document of a tally that has counted nothing yet."""
        series = validated(Series, values, operation)
        if series.metric == REQUESTS:
            raise DataError(f"`{REQUESTS}` is what `api_request_logs` rolls up", operation=operation)
        if taken := _RESERVED.intersection(series.dimensions):
            raise DataError(f"`{min(taken)}` is a parameter, and cannot be a dimension", operation=operation)
        start, now = datetime.fromtimestamp(hour * _HOUR, UTC), datetime.now(UTC)
        if not begin(now - _LATEST, "hour") <= start <= now + _AHEAD:
            raise DataError(
                f"`at` must be within the last {_LATEST.days} days: "
                "hours longer ago than that are no longer added up",
                operation=operation,
            )
        id = uuid7()
        return {
            "_id": id,
            "by": "tally",
            "start": start,
            **series.model_dump(exclude_none=True),
            "part_of": series.part_of(start, GRANULARITIES),
            # Until a rollup has taken it.
            "pending": id,
            "expires_at": start + KEPT["tally"],
        }

    async def _keep_totals(
        self, metric: str, totals: Mapping[str, int], *, of: str, day: date, operation: str
    ) -> None:
        """Store how often each value of a dimension was counted on a day, in the place of what is less."""
        hour = int(datetime.combine(day, datetime.min.time(), UTC).timestamp() // _HOUR)
        whose = self._resources.settings.key_prefix
        documents = [
            {
                **self._tally({"metric": metric, "dimensions": {of: value}}, hour, operation),
                # The same in all processes, so that it is replaced and never added to.
                "_id": uuid5(_TOTALS, f"{whose}:{metric}:{day}:{value}"),
                "count": total,
                "sum": total,
                "min": 1,
                "max": 1,
            }
            for value, total in totals.items()
        ]
        refused = await self._resources.mongo.advance(
            self.collection, documents, by="count", operation=operation
        )
        for error in refused.values():
            raise error

    # --- adding up

    async def rollup(self) -> int:
        """Add up the hours, days and months in which something was stored since they last were.

        Returns how many windows of a metric that were. Idempotent, and safe while records arrive
        and while others roll up: what comes between is taken by the next. If it fails, the next
        begins anew. Run it every few minutes, in whichever process: queries know what it has added
        up. Takes a few milliseconds a window, and as long as the server needs to add up what is in it.

        Raises: TransactionError inside `db.mongo_transaction()`.
        """
        operation, mongo = self._operation("rollup"), self._resources.mongo
        mongo.transactions.refuse(operation)
        mark = uuid7()
        if not await mongo.change_many(
            self.collection, {"pending": {"$exists": True}}, {"$set": {"pending": mark}}, operation=operation
        ):
            return 0
        changed = await mongo.aggregate(
            self.collection,
            [{"$match": {"pending": mark}}, {"$group": {"_id": {"metric": "$metric", "start": "$start"}}}],
            operation=operation,
        )
        count = 0
        for by in GRANULARITIES:
            spans = {(each["_id"]["metric"], begin(each["_id"]["start"], by)) for each in changed}
            for metric, start in sorted(spans):
                pipeline = rolled(self.collection, metric, by, start)
                await mongo.aggregate(self.collection, pipeline, operation=operation)
            count += len(spans)
        # What was stored meanwhile has another mark, and stays for the next.
        await mongo.change_many(
            self.collection, {"pending": mark}, {"$unset": {"pending": ""}}, operation=operation
        )
        return count

    # --- queries

    async def range(
        self,
        metric: str,
        first: datetime,
        last: datetime,
        *,
        by: Granularity = "day",
        company_id: UUID | None = None,
        user_id: UUID | None = None,
        **dimensions: str,
    ) -> list[UsageWindow]:
        """Return each window that has a moment from `first` up to and without `last`, whole, in order.

        One in which nothing was counted has zeros. `company_id`, `user_id` and `dimensions` select;
        what is not named is added up. At most 10,000 windows.

        Raises: DataError for a name, a value or a span that does not fit.
        Source: MongoDB, as of the last `rollup`. The cost grows with the keys that were counted in
        the span.
        """
        operation = self._operation("range")
        query = self._asked(metric, first, last, by, company_id, user_id, dimensions, operation)
        found = await self._summed(query, "$start", operation)
        each = {document.pop("_id"): document for document in found}
        return [
            UsageWindow.model_validate({"start": start, **each.get(start, {})})
            for start in windows(query["start"]["$gte"], query["start"]["$lt"], by)
        ]

    async def total(
        self,
        metric: str,
        first: datetime,
        last: datetime,
        *,
        by: Granularity = "day",
        company_id: UUID | None = None,
        user_id: UUID | None = None,
        **dimensions: str,
    ) -> Usage:
        """Return what was counted in all the windows that `range` gives for the same.

        A user who was counted in several is one user. Source: MongoDB, as of the last `rollup`.
        """
        operation = self._operation("total")
        query = self._asked(metric, first, last, by, company_id, user_id, dimensions, operation)
        (found,) = await self._summed(query, None, operation) or [{"_id": None}]
        return Usage.model_validate({name: value for name, value in found.items() if name != "_id"})

    async def top(
        self,
        metric: str,
        first: datetime,
        last: datetime,
        *,
        of: str,
        limit: int = 10,
        by: Granularity = "day",
        company_id: UUID | None = None,
        user_id: UUID | None = None,
        **dimensions: str,
    ) -> list[UsageShare]:
        """Return for which values of `of` the sums are greatest: `company_id`, `user_id` or a dimension.

        The greatest first; of those that are equal, the least value. Windows and selection are
        those of `range`; what names no such value is left out. Source: MongoDB, as of the last `rollup`.
        """
        operation = self._operation("top")
        size = page_size(limit, operation)
        query = self._asked(metric, first, last, by, company_id, user_id, dimensions, operation)
        if not isinstance(of, str):
            raise DataError("`of` must be the name of a dimension, or of who it was", operation=operation)
        if of not in {"company_id", "user_id"}:
            validated(Series, {"metric": metric, "dimensions": {of: "value"}}, operation)
            of = f"dimensions.{of}"
        query = {"$and": [query, {of: {"$exists": True}}]}
        order = {"$sort": {"sum": -1, "_id": 1}}
        found = await self._summed(query, f"${of}", operation, order, {"$limit": size})
        return [UsageShare.model_validate({"value": each.pop("_id"), **each}) for each in found]

    def _asked(
        self,
        metric: str,
        first: datetime,
        last: datetime,
        by: Granularity,
        company_id: UUID | None,
        user_id: UUID | None,
        dimensions: Mapping[str, str],
        operation: str,
    ) -> dict[str, Any]:
        """Return what selects the documents that a question is about."""
        if by not in GRANULARITIES:
            raise DataError(f"`by` must be one of {', '.join(GRANULARITIES)}", operation=operation)
        values = {"metric": metric, "user_id": user_id, "dimensions": dimensions}
        values["company_id"] = self._whose(company_id, operation)
        series = validated(Series, values, operation)
        start, stop = span(first, last, by, operation)
        query: dict[str, Any] = series.model_dump(exclude_none=True, exclude={"dimensions"})
        query |= {f"dimensions.{name}": value for name, value in series.dimensions.items()}
        return {**query, "by": by, "start": {"$gte": begin(start, by), "$lt": stop}}

    async def _summed(
        self, query: Mapping[str, Any], of: str | None, operation: str, *then: dict[str, Any]
    ) -> list[dict[str, Any]]:
        return await self._resources.mongo.aggregate(
            self.collection, [*summed(query, of), *then], operation=operation
        )

    def _whose(self, company_id: UUID | None, operation: str) -> UUID | None:
        """Return whose usage a call is about; None for everybody's."""
        tenant = self._resources.tenant(operation)
        if tenant is not None and company_id not in (None, tenant):
            raise DataError("`company_id` is not the company of `db.tenant(...)`", operation=operation)
        return tenant or company_id
