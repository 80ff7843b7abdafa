"""Usage: what is recorded and asked for is checked before anything is stored or sent."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from multidb import DataError, MultiDB, Settings
from multidb.repositories.windows import Unit, begin, end, windows

SETTINGS = Settings(
    _env_file=None,
    postgres_url="postgresql://ada:secret@127.0.0.1:1/shop",
    mongo_url="mongodb://127.0.0.1:1/shop",
    redis_url="redis://127.0.0.1:1/0",
)

NOW = datetime.now(UTC)
HOUR = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(days=3)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"metric": "Calls"}, "metric"),
        ({"metric": "api_requests"}, "api_request_logs"),
        ({"metric": 5}, "metric"),
        ({"metric": ["calls"]}, "metric"),
        ({"amount": 1.5}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": 10**12 + 1}, "amount"),
        ({"at": datetime(2026, 1, 1)}, "at"),  # noqa: DTZ001
        ({"at": "today"}, "at"),
        ({"at": NOW - timedelta(days=31)}, "at"),
        ({"at": NOW + timedelta(hours=3)}, "at"),
        ({"at": datetime.max.replace(tzinfo=UTC)}, "at"),
        ({"company_id": "shop"}, "company_id"),
        ({"user_id": 7}, "user_id"),
        ({"endpoint": 7}, "endpoint"),
        ({"endpoint": ["a"]}, "endpoint"),
        ({"endpoint": ""}, "endpoint"),
        ({"endpoint": "a" * 501}, "endpoint"),
        ({"End.point": "a"}, "End.point"),
        ({"by": "a"}, "by"),
        ({f"d{n}": "a" for n in range(9)}, "dimensions"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(values: dict[str, Any], named: str) -> None:
    usage = MultiDB(SETTINGS).usage_analytics
    with pytest.raises(DataError, match=named):
        usage.record(**{"metric": "calls", "at": HOUR, **values})
    assert not usage._tallies._changed


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"metric": ""}, "metric"),
        ({"first": datetime(2026, 1, 1)}, "first"),  # noqa: DTZ001
        ({"last": HOUR}, "last"),
        ({"by": "week"}, "by"),
        ({"first": HOUR - timedelta(days=500), "by": "hour"}, "windows"),
        ({"company_id": "shop"}, "company_id"),
        ({"endpoint": 5}, "endpoint"),
        ({"end.point": "a"}, "end.point"),
    ],
)
async def test_a_question_that_does_not_fit_is_refused(values: dict[str, Any], named: str) -> None:
    usage = MultiDB(SETTINGS).usage_analytics
    asked = {"metric": "calls", "first": HOUR, "last": NOW, **values}
    for question in (usage.range, usage.total):
        with pytest.raises(DataError, match=named):
            await question(**asked)
    with pytest.raises(DataError, match=named):
        await usage.top(**asked, of="endpoint")


async def test_shares_are_of_a_dimension() -> None:
    of: Any
    for of in ("$where", 5, ["endpoint"]):
        with pytest.raises(DataError, match="dimension"):
            await MultiDB(SETTINGS).usage_analytics.top("calls", HOUR, NOW, of=of)


def test_the_last_windows_end_with_the_calendar() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    units: tuple[Unit, ...] = get_args(Unit)
    for unit in units:
        assert list(windows(last - timedelta(seconds=1), last, unit)) == [begin(last, unit)]
        assert end(begin(last, unit), unit) == last
