"""The questions people have about system logs."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from multidb import DataError, LogLevel, MultiDB, SystemLog, uuid7

pytestmark = pytest.mark.mongo

#: Of yesterday: what is old, MongoDB deletes.
NOON = (datetime.now(UTC) - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
ADA = uuid7()


def entry(n: int) -> SystemLog:
    return SystemLog(
        timestamp=NOON + timedelta(seconds=20 * n),
        level=list(LogLevel)[n % 5],
        service=f"service-{n % 3}",
        message=f"The payment {n} of user-{n} was {'refused' if n % 4 == 0 else 'accepted'}",
        user_id=ADA if n % 7 == 0 else None,
        request_id=f"request-{n // 2}",
    )


ENTRIES = [entry(n) for n in range(60)]


@pytest.fixture
async def filled(db: MultiDB) -> MultiDB:
    for each in ENTRIES:
        db.system_logs.emit(each)
    await db.close()
    await db.open()
    assert db.system_logs.emitted.stored == 60
    return db


@pytest.mark.parametrize(
    "equal",
    [
        {"level": "error"},
        {"service": "service-1"},
        {"user_id": ADA},
        {"request_id": "request-7"},
        {"level": LogLevel.DEBUG, "service": "service-2"},
    ],
)
async def test_by_what_they_say_the_newest_first_and_by_index(filled: MultiDB, equal: dict[str, Any]):
    expected = [
        each for each in reversed(ENTRIES) if all(getattr(each, name) == equal[name] for name in equal)
    ]
    assert list((await filled.system_logs.find(**equal)).items) == expected
    plan = await filled.mongo.database.command(
        "explain",
        {"find": "system_logs", "filter": equal, "sort": {"timestamp": -1, "_id": -1}},
        verbosity="queryPlanner",
        codec_options=filled.mongo.database.codec_options,
    )
    assert "IXSCAN" in str(plan)
    assert "COLLSCAN" not in str(plan)


async def test_by_time(filled: MultiDB):
    since, until = NOON + timedelta(minutes=5), NOON + timedelta(minutes=8)
    page = await filled.system_logs.find({"timestamp": {"$gte": since, "$lt": until}}, level="error")
    assert list(page.items) == [
        each for each in reversed(ENTRIES) if since <= each.timestamp < until and each.level == "error"
    ]


async def test_by_text(filled: MultiDB):
    found: list[UUID] = []
    after: str | None = None
    while True:
        page = await filled.system_logs.search("refused", limit=2, after=after, service="service-0")
        found += [each.id for each in page]
        if (after := page.next) is None:
            break
    grave = [each for each in reversed(ENTRIES) if each.level in {"warning", "error", "critical"}]
    assert len(found) > 2
    assert found == [each.id for each in grave if "refused" in each.message and each.service == "service-0"]
    phrase = await filled.system_logs.search('"payment 17 of" -refused')
    assert [each.message for each in phrase] == [ENTRIES[17].message]
    errors = await filled.system_logs.search("accepted", level=LogLevel.ERROR)
    assert list(errors) == [each for each in grave if "accepted" in each.message and each.level == "error"]
    for wrong, problem in (
        ({"text": "  "}, "word"),
        ({"text": 5}, "text"),
        ({"text": "a", "level": "info"}, "warning, error"),
    ):
        with pytest.raises(DataError, match=problem):
            await filled.system_logs.search(**wrong)
    since, c = NOON + timedelta(minutes=3), filled.system_logs.c
    page = await filled.system_logs.find(c.message.ilike("%REFUSED%"), c.timestamp > since, level="info")
    assert list(page) == [
        each
        for each in reversed(ENTRIES)
        if "refused" in each.message and each.timestamp > since and each.level == "info"
    ]


@pytest.mark.parametrize("equal", [{}, {"level": "error"}, {"service": "service-1", "level": "info"}])
async def test_per_minute_with_the_minutes_that_have_none(filled: MultiDB, equal: dict[str, Any]):
    since = NOON.astimezone(timezone(timedelta(hours=5, minutes=30))) - timedelta(seconds=90)
    until = NOON + timedelta(minutes=18, seconds=59)
    counted = await filled.system_logs.per_minute(since=since, until=until, **equal)
    expected = {NOON + timedelta(minutes=minute): 0 for minute in range(-2, 19)}
    for each in ENTRIES:
        minute = each.timestamp.replace(second=0)
        if minute in expected and all(getattr(each, name) == equal[name] for name in equal):
            expected[minute] += 1
    assert counted == expected
    assert list(counted) == list(expected)


async def test_per_minute_of_what_makes_no_sense(db: MultiDB):
    logs = db.system_logs
    wrong: Any
    for wrong in (datetime(2026, 1, 1), "today"):  # noqa: DTZ001
        with pytest.raises(DataError, match="`since` must be a datetime that knows its time zone"):
            await logs.per_minute(since=wrong)
    last = datetime.max.replace(tzinfo=UTC)
    assert list((await logs.per_minute(since=last, until=last)).values()) == [0]
    for until in (NOON - timedelta(minutes=1), NOON + timedelta(days=7)):
        with pytest.raises(DataError, match="10,000"):
            await logs.per_minute(since=NOON, until=until)
    with pytest.raises(DataError, match="`color`"):
        await logs.per_minute(since=NOON, until=NOON, color="red")
    assert await logs.per_minute(since=NOON, until=NOON) == {NOON: 0}
    async with db.mongo_transaction():
        await logs.append(SystemLog(level=LogLevel.INFO, service="api", message="x", timestamp=NOON))
        assert await logs.per_minute(since=NOON, until=NOON) == {NOON: 1}
