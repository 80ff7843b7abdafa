"""What users did, counted by MongoDB: the pipelines behind `user_activity_logs`, as data."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from multidb.repositories.windows import Unit

__all__ = ["active", "cohorts", "distinct", "funnel"]

Pipeline: TypeAlias = list[dict[str, Any]]

_ONE = {"$sum": 1}


def distinct(query: Mapping[str, Any]) -> Pipeline:
    """Return what counts the users in all logs that match."""
    return [{"$match": query}, {"$group": {"_id": "$user_id"}}, {"$count": "users"}]


def active(query: Mapping[str, Any], by: Unit) -> Pipeline:
    """Return what counts the users of each window."""
    return [
        {"$match": query},
        {"$group": {"_id": {"start": _window(by), "user": "$user_id"}}},
        {"$group": {"_id": "$_id.start", "users": _ONE}},
    ]


def cohorts(query: Mapping[str, Any], by: Unit) -> Pipeline:
    """Return what counts users by the first window they are in, and each other."""
    return [
        {"$match": query},
        {"$group": {"_id": "$user_id", "seen": {"$addToSet": _window(by)}}},
        {"$set": {"first": {"$min": "$seen"}}},
        {"$unwind": "$seen"},
        {"$group": {"_id": {"first": "$first", "seen": "$seen"}, "users": _ONE}},
    ]


def funnel(query: Mapping[str, Any], steps: Sequence[str], within: timedelta) -> Pipeline:
    """Return what counts users by how many of the steps they made, one after the other.

    Each user's logs are gone through in order, and of every step is kept when the latest way to it
    began: the latest start leaves the most time for what is to come. A log makes one step of a way.
    """
    most = int(within.total_seconds() * 1000)
    return [
        {"$match": {**query, "action": {"$in": sorted(set(steps))}}},
        {"$sort": {"user_id": 1, "timestamp": 1, "_id": 1}},
        {"$group": {"_id": "$user_id", "logs": {"$push": {"action": "$action", "at": "$timestamp"}}}},
        {
            "$set": {
                "began": {
                    "$reduce": {
                        "input": "$logs",
                        "initialValue": [None] * len(steps),
                        "in": [_begun(place, action, most) for place, action in enumerate(steps)],
                    }
                }
            }
        },
        {"$set": {"made": {"$size": {"$filter": {"input": "$began", "cond": {"$ne": ["$$this", None]}}}}}},
        {"$group": {"_id": "$made", "users": _ONE}},
    ]


def _begun(place: int, action: str, most: int) -> dict[str, Any]:
    """Return when the latest way to a step began, once a further log has been looked at."""
    before: Any = {"$arrayElemAt": ["$$value", place]}
    if place == 0:
        way: Any = "$$this.at"
        made: Any = {"$eq": ["$$this.action", {"$literal": action}]}
    else:
        way = {"$arrayElemAt": ["$$value", place - 1]}
        took = {"$subtract": ["$$this.at", way]}
        made = {
            "$and": [
                {"$eq": ["$$this.action", {"$literal": action}]},
                {"$ne": [way, None]},
                {"$lte": [took, most]},
            ]
        }
    # `$max` passes over null.
    return {"$cond": [made, {"$max": [before, way]}, before]}


def _window(by: Unit) -> dict[str, Any]:
    return {"$dateTrunc": {"date": "$timestamp", "unit": by, "startOfWeek": "monday"}}
