"""User activity: active users, funnels and retention are what Python makes of the same logs."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from multidb import ActiveUsers, Cohort, DataError, MultiDB, UserActivityLog, uuid7
from multidb.repositories.user_activity_logs import Period
from multidb.repositories.windows import begin, end, windows

from .plans_of_mongo import scanned

pytestmark = pytest.mark.mongo

NOW = datetime.now(UTC).replace(microsecond=0)
#: Where a month begins that is over.
FIRST = begin(begin(NOW, "month") - timedelta(days=1), "month")
USERS = [uuid7() for _ in range(12)]
ACTIONS = ("visit", "cart", "pay", "visit again")


def log(user: UUID, action: str, at: datetime) -> UserActivityLog:
    return UserActivityLog(user_id=user, action=action, timestamp=at)


def logs(seed: int, count: int, *, days: int = 33) -> list[UserActivityLog]:
    """Return logs of a month and a bit, many at the edges of days and many at the same moment."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        day = FIRST + timedelta(days=chance.randrange(days))
        off = chance.choice([0, -1, 1, 3_600_000, chance.randrange(86_400_000)])
        at = max(day + timedelta(milliseconds=off), FIRST)
        made.append(log(chance.choice(USERS), chance.choice(ACTIONS), at))
    return made


async def store(db: MultiDB, made: Sequence[UserActivityLog]) -> None:
    documents = [db.user_activity_logs._encoded(each, "t") for each in made]
    assert await db.mongo.insert_many("user_activity_logs", documents, operation="t") == {}


def users(made: Sequence[UserActivityLog], first: datetime, last: datetime) -> set[UUID]:
    return {each.user_id for each in made if first <= each.timestamp < last}


@pytest.mark.parametrize("action", [None, "pay"])
async def test_active_users_are_those_of_each_window(db: MultiDB, action: str | None):
    made = logs(seed=1, count=120)
    await store(db, made)
    some = [each for each in made if action in {None, each.action}]
    last = FIRST + timedelta(days=40)
    periods: list[Period] = ["day", "week", "month"]
    for by in periods:
        assert await db.user_activity_logs.active_users(FIRST, last, by=by, action=action) == [
            ActiveUsers(start=start, users=len(users(some, start, end(start, by))))
            for start in windows(FIRST, last, by)
        ]
    for days in (1, 7, 30):
        trailing = last - timedelta(days=10 + days), last - timedelta(days=10)
        distinct = await db.user_activity_logs.distinct_users(*trailing, action=action)
        assert distinct == len(users(some, *trailing))


async def test_a_week_begins_on_monday(db: MultiDB):
    (week,) = await db.user_activity_logs.active_users(NOW, NOW + timedelta(seconds=1), by="week")
    assert week.start.weekday() == 0
    assert week == ActiveUsers(start=begin(NOW, "week"), users=0)


async def test_retention_counts_who_comes_back(db: MultiDB):
    made = logs(seed=2, count=60)
    await store(db, made)
    last = FIRST + timedelta(days=35)
    starts = list(windows(FIRST, last, "week"))
    expected = []
    known: set[UUID] = set()
    for place, start in enumerate(starts):
        new = users(made, start, end(start, "week")) - known
        known |= new
        retained = tuple(len(new & users(made, later, end(later, "week"))) for later in starts[place:])
        expected.append(Cohort(start=start, users=len(new), retained=retained))
    assert await db.user_activity_logs.retention(FIRST, last) == expected


def came_as_far(made: Sequence[UserActivityLog], steps: Sequence[str], within: timedelta) -> int:
    """Return how many of the steps one user made: by trying every way there is."""
    ordered = sorted(made, key=lambda each: (each.timestamp, each.id))

    def walk(place: int, step: int, start: datetime | None) -> int:
        if step == len(steps):
            return step
        best = step
        for at in range(place, len(ordered)):
            each = ordered[at]
            if start is not None and each.timestamp - start > within:
                break
            if each.action == steps[step]:
                best = max(best, walk(at + 1, step + 1, start or each.timestamp))
        return best

    return walk(0, 0, None)


FUNNELS = (
    ("visit",),
    ("visit", "cart", "pay"),
    ("visit", "visit", "visit"),
    ("pay", "visit", "pay"),
    ("none", "pay"),
)
LIMITS = (timedelta(), timedelta(milliseconds=1), timedelta(hours=7), timedelta(2), timedelta(30))


async def test_a_funnel_is_what_trying_every_way_finds(db: MultiDB):
    made = logs(seed=3, count=150, days=6)
    await store(db, made)
    last = FIRST + timedelta(days=5)
    for steps, within in product(FUNNELS, LIMITS):
        reached = [
            came_as_far(
                [each for each in made if each.user_id == user and each.timestamp < last], steps, within
            )
            for user in USERS
        ]
        found = await db.user_activity_logs.funnel(steps, first=FIRST, last=last, within=within)
        assert [each.action for each in found] == list(steps)
        assert [each.users for each in found] == [
            sum(each > step for each in reached) for step in range(len(steps))
        ]


async def test_a_later_start_makes_up_for_one_that_took_too_long(db: MultiDB):
    user, hour = USERS[0], timedelta(hours=1)
    await store(
        db,
        [
            log(user, "visit", FIRST),
            log(user, "cart", FIRST + hour),
            log(user, "visit", FIRST + 2 * hour),
            log(user, "cart", FIRST + 3 * hour),
            log(user, "pay", FIRST + 4 * hour),
        ],
    )

    async def paid(within: timedelta) -> int:
        found = await db.user_activity_logs.funnel(
            ["visit", "cart", "pay"], first=FIRST, last=NOW, within=within
        )
        return found[-1].users

    assert await paid(2 * hour) == 1
    assert await paid(2 * hour - timedelta(milliseconds=1)) == 0


async def test_steps_of_one_moment_come_in_the_order_they_were_made(db: MultiDB):
    await store(db, [log(USERS[0], action, FIRST) for action in ("visit", "pay")])
    for steps, made in ((["visit", "pay"], 1), (["pay", "visit"], 0)):
        found = await db.user_activity_logs.funnel(steps, first=FIRST, last=NOW, within=timedelta())
        assert found[-1].users == made


async def test_the_questions_use_indexes(db: MultiDB):
    await store(db, logs(seed=4, count=50))
    activity = db.user_activity_logs
    with scanned(db) as scans:
        for action in (None, "pay"):
            await activity.active_users(FIRST, NOW, action=action)
            await activity.distinct_users(FIRST, NOW, action=action)
        await activity.retention(FIRST, NOW)
        await activity.funnel(["visit", "pay"], first=FIRST, last=NOW, within=timedelta(days=1))
    assert await scans() == []


async def test_a_question_that_does_not_fit_is_refused(db: MultiDB):
    activity = db.user_activity_logs
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"last": FIRST}, "last"),
        ({"first": datetime(2026, 1, 1)}, "first"),  # noqa: DTZ001
        ({"by": "hour"}, "by"),
    ]
    for values, named in wrong:
        for question in (activity.active_users, activity.retention):
            with pytest.raises(DataError, match=named):
                await question(**{"first": FIRST, "last": NOW, **values})
    with pytest.raises(DataError, match="action"):
        await activity.distinct_users(FIRST, NOW, action=5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="windows"):
        await activity.retention(NOW - timedelta(days=500), NOW, by="day")
    for steps in ([], ["a"] * 21, "visit", [None], [5], None, {"visit"}):
        with pytest.raises(DataError, match=r"steps|action"):
            await activity.funnel(steps, first=FIRST, last=NOW, within=timedelta(1))  # type: ignore[arg-type]
    within: Any
    for within in (timedelta(-1), "1h", None):
        with pytest.raises(DataError, match="within"):
            await activity.funnel(["visit"], first=FIRST, last=NOW, within=within)
