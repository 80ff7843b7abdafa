"""Requests added up by MongoDB: the pipelines behind `api_request_logs`, as data.

How long requests took is kept by buckets, each 2% wider than the one before, and the middle of a
bucket is at most 1% away from whatever is in it. So is every percentile: which bucket holds the
nearest rank is exact. Buckets of different windows add up, as percentiles do not, and there are
fewer than 1,200 of them up to a day, so neither the client nor a document grows with the requests.
`$percentile`, which MongoDB has from 7.0, is approximate too, does not say how far, and cannot be
added up; these answers are the same on every server.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from multidb.models.usage_analytics import MOST

__all__ = ["PERCENTILES", "from_logs", "from_rollups", "hourly", "middle", "stats"]

Pipeline: TypeAlias = list[dict[str, Any]]

PERCENTILES = (50, 95, 99)

_ERROR = 0.01
_GROWTH = (1 + _ERROR) / (1 - _ERROR)
#: Durations are told apart from a microsecond on.
_SHORTEST = 0.001

_BUCKET = {
    "$toInt": {"$ceil": {"$divide": [{"$ln": {"$max": ["$duration_ms", _SHORTEST]}}, math.log(_GROWTH)]}}
}
_FAILED = {"$gte": ["$status", 500]}


def middle(bucket: int) -> float:
    """Return the duration, in milliseconds, that is nearest to all of a bucket's."""
    return 2 * _GROWTH**bucket / (_GROWTH + 1)


def hourly(query: Mapping[str, Any]) -> Pipeline:
    """Return what adds up logs, in microseconds, for each service, method, endpoint and class of status."""
    named = {name: f"${name}" for name in ("service", "method", "endpoint")}
    hundreds = {"$toString": {"$toInt": {"$floor": {"$divide": ["$status", 100]}}}}
    dimensions = {**named, "status": {"$concat": [hundreds, "xx"]}}
    # A clock that went wrong must not keep all the others from being added up.
    micro = {"$toLong": {"$round": {"$min": [{"$multiply": ["$duration_ms", 1000]}, MOST]}}}
    return [
        {"$match": query},
        {"$set": {"duration_us": micro}},
        {
            "$group": {
                "_id": {"of": dimensions, "bucket": _BUCKET},
                "count": {"$sum": 1},
                "sum": {"$sum": "$duration_us"},
                "min": {"$min": "$duration_us"},
                "max": {"$max": "$duration_us"},
            }
        },
        {
            "$group": {
                "_id": "$_id.of",
                "count": {"$sum": "$count"},
                "sum": {"$sum": "$sum"},
                "min": {"$min": "$min"},
                "max": {"$max": "$max"},
                "histogram": {"$push": {"bucket": "$_id.bucket", "count": "$count"}},
            }
        },
    ]


def from_logs(query: Mapping[str, Any], of: Any) -> Pipeline:
    """Return what counts the buckets of logs, for each value of the expression `of`."""
    return [
        {"$match": query},
        {
            "$group": {
                "_id": {"of": of, "bucket": _BUCKET},
                "requests": {"$sum": 1},
                "errors": {"$sum": {"$cond": [_FAILED, 1, 0]}},
                "total_ms": {"$sum": "$duration_ms"},
                "min_ms": {"$min": "$duration_ms"},
                "max_ms": {"$max": "$duration_ms"},
            }
        },
    ]


def from_rollups(query: Mapping[str, Any], of: Any) -> Pipeline:
    """Return what counts the buckets of rollups, as `from_logs` does."""
    count = "$histogram.count"
    return [
        {"$match": query},
        {"$unwind": {"path": "$histogram", "includeArrayIndex": "place"}},
        {
            "$group": {
                "_id": {"of": of, "bucket": "$histogram.bucket"},
                "requests": {"$sum": count},
                "errors": {"$sum": {"$cond": [{"$eq": ["$dimensions.status", "5xx"]}, count, 0]}},
                # Of a document once, and not for each of its buckets.
                "total_ms": {"$sum": {"$cond": [{"$eq": ["$place", 0]}, {"$divide": ["$sum", 1000]}, 0]}},
                "min_ms": {"$min": {"$divide": ["$min", 1000]}},
                "max_ms": {"$max": {"$divide": ["$max", 1000]}},
            }
        },
    ]


def stats() -> Pipeline:
    """Return what makes of counted buckets, for each `of`, what a `RequestStats` holds.

    A percentile is told by its bucket: the first up to which there are as many requests as its rank.
    """
    up_to = {"documents": ["unbounded", "current"]}
    in_all = {"documents": ["unbounded", "unbounded"]}
    ranks = {each: {"$ceil": {"$divide": [{"$multiply": [each, "$all"]}, 100]}} for each in PERCENTILES}
    return [
        {
            "$setWindowFields": {
                "partitionBy": "$_id.of",
                "sortBy": {"_id.bucket": 1},
                "output": {
                    "so_far": {"$sum": "$requests", "window": up_to},
                    "all": {"$sum": "$requests", "window": in_all},
                },
            }
        },
        {
            "$group": {
                "_id": "$_id.of",
                **{name: {"$sum": f"${name}"} for name in ("requests", "errors", "total_ms")},
                "min_ms": {"$min": "$min_ms"},
                "max_ms": {"$max": "$max_ms"},
                **{
                    f"p{each}": {"$min": {"$cond": [{"$gte": ["$so_far", rank]}, "$_id.bucket", None]}}
                    for each, rank in ranks.items()
                },
            }
        },
        {
            "$set": {
                "mean_ms": {"$divide": ["$total_ms", "$requests"]},
                "error_rate": {"$divide": ["$errors", "$requests"]},
            }
        },
    ]
