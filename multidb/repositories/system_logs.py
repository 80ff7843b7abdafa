"""System logs: what the services of an application report. MongoDB `system_logs`."""

from datetime import UTC, datetime, timedelta
from typing import Any

from multidb.errors import DataError
from multidb.models.page import Page
from multidb.models.system_logs import SystemLog
from multidb.repositories.logs import LogRepository

__all__ = ["SystemLogRepository"]

_MINUTE = timedelta(minutes=1)
_MOST_MINUTES = 10_000


class SystemLogRepository(LogRepository[SystemLog]):
    """The calls on system logs. `find` gives the newest first; each of these has its index:
    `level`, `service`, `user_id`, `request_id`, and a time range.
    """

    collection = "system_logs"
    order_by = "-timestamp"
    severity = "level"

    async def search(
        self, text: str, *, limit: int = 50, after: str | None = None, **equal: Any
    ) -> Page[SystemLog]:
        """Return a page of the entries whose message has any of these words, the newest first.

        `"two words"` in quotes are a phrase, and `-word` must not be in it. `equal` is as for `find`.

        Raises: InvalidCursorError. DataError if `text` holds no word.
        Source: MongoDB `system_logs`, index `message_text`; the cost grows with how many match.
        """
        if not isinstance(text, str) or not text.strip():
            raise DataError("`text` must hold a word", operation=self._operation("search"))
        return await self.find({"$text": {"$search": text}}, limit=limit, after=after, **equal)

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
        first, last = (_minute(each, operation) for each in (since, until or datetime.now(UTC)))
        if not 0 <= (last - first) / _MINUTE < _MOST_MINUTES:
            raise DataError(
                f"`until` must be after `since`, and at most {_MOST_MINUTES:,} minutes", operation=operation
            )
        within = {"timestamp": {"$gte": first, "$lt": last + _MINUTE}}
        answer = await self._resources.mongo.command(
            {
                "aggregate": self.collection,
                "pipeline": [
                    {"$match": {"$and": [within, *self._matching((), equal, operation)]}},
                    {
                        "$group": {
                            "_id": {"$dateTrunc": {"date": "$timestamp", "unit": "minute"}},
                            "count": {"$sum": 1},
                        }
                    },
                ],
                "cursor": {"batchSize": _MOST_MINUTES},
                "maxTimeMS": int(self._resources.settings.mongo_timeout.total_seconds() * 1000),
            },
            operation=operation,
        )
        counted = {each["_id"].replace(tzinfo=UTC): each["count"] for each in answer["cursor"]["firstBatch"]}
        minutes = (first + number * _MINUTE for number in range(round((last - first) / _MINUTE) + 1))
        return {minute: counted.get(minute, 0) for minute in minutes}


def _minute(moment: datetime, operation: str) -> datetime:
    """Return the minute a moment is in."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise DataError("give moments with their time zone", operation=operation)
    return moment.astimezone(UTC).replace(second=0, microsecond=0)
