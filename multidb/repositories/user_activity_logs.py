"""User activity: what users did, and how many come back. MongoDB `user_activity_logs`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, ClassVar, Literal, TypeAlias

from multidb.errors import DataError
from multidb.models.user_activity_logs import (
    ActiveUsers,
    Cohort,
    FunnelStep,
    UserActivityLog,
    UserActivityLogFields,
)
from multidb.repositories.activity_pipelines import active, cohorts, distinct, funnel
from multidb.repositories.logs import LogRepository
from multidb.repositories.repository import known_values
from multidb.repositories.windows import checked_length, end, span, windows

__all__ = ["UserActivityLogRepository"]

Period: TypeAlias = Literal["day", "week", "month"]

_PERIODS = ("day", "week", "month")
#: The most steps a funnel may have, and the most windows of a cohort.
_MAX_STEPS = 20
_MAX_COHORTS = 400


class UserActivityLogRepository(LogRepository[UserActivityLog]):
    """The calls on user activity. `find` gives the newest first.

    Windows are those of UTC, weeks begin on Monday. Counts are exact, of the logs that are there:
    those that `Settings.retention` has deleted do not count. The cost grows with the logs in the span.
    """

    c: ClassVar[UserActivityLogFields]
    collection = "user_activity_logs"
    order_by = "-timestamp"

    async def active_users(
        self, first: datetime, last: datetime, *, by: Period = "day", action: str | None = None
    ) -> list[ActiveUsers]:
        """Return how many users did something, or this action, in each day, week or month: DAU, WAU, MAU.

        Each window that has a moment from `first` up to and without `last` counts whole, and one
        without users is there too. At most 10,000 windows.

        Raises: DataError for a value or a span that does not fit.
        Source: MongoDB.
        """
        operation = self._operation("active_users")
        starts = _starts(first, last, by, operation)
        query = _query(starts[0], end(starts[-1], by), action, operation)
        found = await self._aggregate(active(query, by), operation)
        users = {each["_id"]: each["users"] for each in found}
        return [ActiveUsers(start=start, users=users.get(start, 0)) for start in starts]

    async def distinct_users(self, first: datetime, last: datetime, *, action: str | None = None) -> int:
        """Return how many users did something, or this action, from `first` up to and without `last`.

        For windows that trail, such as the 30 days before now. Raises and source: as `active_users`.
        """
        operation = self._operation("distinct_users")
        start, stop = span(first, last, "day", operation)
        found = await self._aggregate(distinct(_query(start, stop, action, operation)), operation)
        return int(found[0]["users"]) if found else 0

    async def funnel(
        self, steps: Sequence[str], *, first: datetime, last: datetime, within: timedelta
    ) -> list[FunnelStep]:
        """Return how many users came as far as each of these actions, one after the other.

        A user came to a step who, from `first` up to and without `last`, did the actions up to it
        in this order, the last of them at most `within` after the first; what was done between does
        not matter. Of logs of one moment the one with the lesser id came first. A user whose steps
        are more than a hundred thousand logs does not fit into MongoDB's memory for one document.

        Raises: DataError for no step, more than 20, or a span that does not fit.
        Source: MongoDB.
        """
        operation = self._operation("funnel")
        actions = _actions(steps, operation)
        checked_length(within, "within", operation)
        start, stop = span(first, last, "day", operation)
        query = _query(start, stop, None, operation)
        found = await self._aggregate(funnel(query, actions, within), operation)
        made = {each["_id"]: each["users"] for each in found}
        # Who made three steps made two.
        users = list(accumulate(made.get(count, 0) for count in range(len(actions), 0, -1)))
        return [
            FunnelStep(action=action, users=each)
            for action, each in zip(actions, reversed(users), strict=True)
        ]

    async def retention(self, first: datetime, last: datetime, *, by: Period = "week") -> list[Cohort]:
        """Return the users by the window they were first seen in, and how many were seen in each later one.

        Seen for the first time since `first`: begin early enough, or take users who are long known for
        new ones. At most 400 windows. Raises and source: as `active_users`.
        """
        operation = self._operation("retention")
        starts = _starts(first, last, by, operation)
        if len(starts) > _MAX_COHORTS:
            raise DataError(f"at most {_MAX_COHORTS} windows; take longer ones", operation=operation)
        query = _query(starts[0], end(starts[-1], by), None, operation)
        found = await self._aggregate(cohorts(query, by), operation)
        users = {(each["_id"]["first"], each["_id"]["seen"]): each["users"] for each in found}
        made = []
        for place, start in enumerate(starts):
            retained = tuple(users.get((start, later), 0) for later in starts[place:])
            made.append(Cohort(start=start, users=retained[0], retained=retained))
        return made

    async def _aggregate(self, pipeline: list[dict[str, Any]], operation: str) -> list[dict[str, Any]]:
        return await self._resources.mongo.aggregate(self.collection, pipeline, operation=operation)


def _actions(steps: Any, operation: str) -> list[Any]:
    if isinstance(steps, str) or not isinstance(steps, Sequence) or not 1 <= len(steps) <= _MAX_STEPS:
        raise DataError(f"`steps` must be a list of 1 to {_MAX_STEPS} actions", operation=operation)
    actions = [known_values(UserActivityLog, {"action": step}, operation)["action"] for step in steps]
    if None in actions:
        raise DataError("`steps` must be actions, and None is none", operation=operation)
    return actions


def _starts(first: datetime, last: datetime, by: Period, operation: str) -> list[datetime]:
    if by not in _PERIODS:
        raise DataError(f"`by` must be one of {', '.join(_PERIODS)}", operation=operation)
    return list(windows(*span(first, last, by, operation), by))


def _query(start: datetime, stop: datetime, action: str | None, operation: str) -> dict[str, Any]:
    query: dict[str, Any] = {"timestamp": {"$gte": start, "$lt": stop}}
    if action is not None:
        query |= known_values(UserActivityLog, {"action": action}, operation)
    return query
