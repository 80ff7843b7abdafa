"""System logs: what the services of an application report. MongoDB `system_logs`."""

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from multidb.errors import DataError
from multidb.models.page import Page
from multidb.models.system_logs import LogLevel, SystemLog, SystemLogFields
from multidb.repositories.logs import LogRepository
from multidb.repositories.repository import known_values
from multidb.repositories.windows import begin, checked_moment, end, windows

__all__ = ["SystemLogRepository"]

#: Those whose words are indexed.
_SEARCHED = (LogLevel.WARNING, LogLevel.ERROR, LogLevel.CRITICAL)
_MINUTE = timedelta(minutes=1)
_MOST_MINUTES = 10_000


class SystemLogRepository(LogRepository[SystemLog]):
    """The calls on system logs. `find` gives the newest first; each of these has its index:
    `level`, `service`, `user_id`, `request_id`, and a time range.
    """

    c: ClassVar[SystemLogFields]
    collection = "system_logs"
    order_by = "-timestamp"
    severity = "level"

    async def search(
        self,
        text: str,
        *,
        level: LogLevel | None = None,
        limit: int = 50,
        after: str | None = None,
        **equal: Any,
    ) -> Page[SystemLog]:
        """Return a page of the warnings and worse that have any of these words, the newest first.

        `"two words"` in quotes are a phrase, and `-word` must not be in it. `equal` is as for `find`.
        Of `level`, debug and info have no index of their words: give `find` a pattern for these,
        within a time range, `find(c.message.ilike("%word%"), c.timestamp > since)`.

        Raises: InvalidCursorError. DataError for one of these levels, or if `text` holds no word.
        Source: MongoDB `system_logs`, index `message_text`; the cost grows with how many match.
        """
        operation = self._operation("search")
        if not isinstance(text, str):
            raise DataError("`text` must be a text", operation=operation)
        if not text.strip():
            raise DataError("`text` must hold a word", operation=operation)
        # The index is partial: it serves what says so in its own words.
        levels: dict[str, Any] = {"level": {"$in": list(_SEARCHED)}}
        if level is not None:
            levels = known_values(self.model, {"level": level}, operation)
            if levels["level"] not in _SEARCHED:
                raise DataError(f"`level` must be one of {', '.join(_SEARCHED)}", operation=operation)
        query = {"$text": {"$search": text}, **levels}
        return await self.find(query, limit=limit, after=after, **equal)

    async def per_minute(
        self, *, since: datetime, until: datetime | None = None, **equal: Any
    ) -> dict[datetime, int]:
        """Return how many entries each minute has, from that of `since` to that of `until`, or of now.

        The minutes without any are there, with 0; of the first and the last, all of the minute is
        counted. `equal` is as for `find`: `per_minute(since=..., level="error")`.

        Raises: DataError for a moment without a time zone, and for more than 10,000 minutes.
        Source: MongoDB `system_logs`, by the index of `equal`; the cost grows with how many it counts.
        """
        operation = self._operation("per_minute")
        moments = {"since": since, "until": datetime.now(UTC) if until is None else until}
        first, last = (
            begin(checked_moment(value, name, operation), "minute") for name, value in moments.items()
        )
        if not 0 <= (last - first) / _MINUTE < _MOST_MINUTES:
            raise DataError(
                f"`until` must be after `since`, and at most {_MOST_MINUTES:,} minutes", operation=operation
            )
        stop = end(last, "minute")
        within = {"timestamp": {"$gte": first, "$lt": stop}}
        minute = {"$dateTrunc": {"date": "$timestamp", "unit": "minute"}}
        found = await self._resources.mongo.aggregate(
            self.collection,
            [
                {"$match": self._query([within], equal, operation)},
                {"$group": {"_id": minute, "count": {"$sum": 1}}},
            ],
            operation=operation,
        )
        counted = {each["_id"]: each["count"] for each in found}
        return {minute: counted.get(minute, 0) for minute in windows(first, stop, "minute")}
