"""Usage added up by MongoDB: the pipelines behind `usage_analytics`, as data."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from multidb.models.usage_analytics import Granularity
from multidb.repositories.usage_series import REQUESTS
from multidb.repositories.windows import end

__all__ = ["GRANULARITIES", "KEPT", "LATER", "rolled", "summed"]

Pipeline: TypeAlias = list[dict[str, Any]]

#: From the shortest to the longest, each made of those before it; the first of tallies.
GRANULARITIES: tuple[Granularity, ...] = ("hour", "day", "month")

#: How long a window is kept after it began; days and months for ever.
KEPT: Mapping[str, timedelta] = {"tally": timedelta(days=40), "hour": timedelta(days=400)}

_SUMS = {
    "count": {"$sum": "$count"},
    "sum": {"$sum": "$sum"},
    "min": {"$min": "$min"},
    "max": {"$max": "$max"},
}

#: What is there stays if it counts more. Counts only grow, so of two rollups of one window the one
#: that counts more has read later, whichever writes first; and once tallies have expired, what they
#: counted is not forgotten.
LATER = [{"$replaceWith": {"$cond": [{"$gte": ["$$new.count", "$count"]}, "$$new", "$$ROOT"]}}]


def rolled(collection: str, metric: str, by: Granularity, start: datetime) -> Pipeline:
    """Return what adds up a metric in the window that begins at `start`, and stores that in its place."""
    place = GRANULARITIES.index(by)
    longer = GRANULARITIES[place + 1 :]
    source = GRANULARITIES[place - 1] if place else "tally"
    first = {name: {"$first": f"${name}"} for name in ("company_id", "user_id", "dimensions", "part_of")}
    made: dict[str, Any] = {
        "by": {"$literal": by},
        "start": {"$literal": start},
        "metric": {"$literal": metric},
        # `$first` of what is absent is null, and null is not absent.
        "company_id": {"$ifNull": ["$company_id", "$$REMOVE"]},
        "user_id": {"$ifNull": ["$user_id", "$$REMOVE"]},
        "dimensions": 1,
        **dict.fromkeys(_SUMS, 1),
        "histogram": 1,
        "part_of": {each: f"$part_of.{each}" for each in longer} or {"$literal": {}},
    }
    if by in KEPT:
        made["expires_at"] = {"$literal": start + KEPT[by]}
    return [
        {"$match": {"metric": metric, "by": source, "start": {"$gte": start, "$lt": end(start, by)}}},
        *(
            _with_histograms(f"$part_of.{by}", first)
            if metric == REQUESTS
            else [{"$group": {"_id": f"$part_of.{by}", **first, **_SUMS}}]
        ),
        {"$project": made},
        {"$merge": {"into": collection, "on": "_id", "whenMatched": LATER, "whenNotMatched": "insert"}},
    ]


def _with_histograms(of: str, first: Mapping[str, Any]) -> Pipeline:
    """Return what adds up documents by `of`, and their histograms bucket by bucket."""
    return [
        {"$unwind": {"path": "$histogram", "includeArrayIndex": "place"}},
        {
            "$group": {
                "_id": {"of": of, "bucket": "$histogram.bucket"},
                **first,
                **_SUMS,
                # Else a document would count once for each of its buckets.
                "count": {"$sum": "$histogram.count"},
                "sum": {"$sum": {"$cond": [{"$eq": ["$place", 0]}, "$sum", 0]}},
            }
        },
        {
            "$group": {
                "_id": "$_id.of",
                **first,
                **_SUMS,
                "histogram": {"$push": {"bucket": "$_id.bucket", "count": "$count"}},
            }
        },
    ]


def summed(query: Mapping[str, Any], of: str | None) -> Pipeline:
    """Return what adds up the documents that match, for each value of the expression `of`, or in all.

    Users are counted once, in however many documents they are.
    """
    return [
        {"$match": query},
        {"$group": {"_id": {"of": of, "user": "$user_id"}, **_SUMS}},
        {
            "$group": {
                "_id": "$_id.of",
                **_SUMS,
                "users": {"$sum": {"$cond": [{"$gt": ["$_id.user", None]}, 1, 0]}},
            }
        },
    ]
