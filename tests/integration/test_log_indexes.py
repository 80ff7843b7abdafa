"""The queries that logs and events are asked for: each is served by an index, in its order."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import CodecOptions
from bson.binary import UuidRepresentation
from pymongo import MongoClient

from multidb import uuid7
from multidb.settings import Settings

pytestmark = pytest.mark.mongo

NEWEST = {"timestamp": -1, "_id": -1}
#: Of today: older events are not kept.
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
IDS = [uuid7() for _ in range(40)]
GRAVE = ["warning", "error", "critical"]

#: By collection, what each document has; a number becomes a value of its own.
DOCUMENTS: dict[str, dict[str, Any]] = {
    "system_logs": {"level": "error", "service": "{}", "message": "order {} refused", "context": {}},
    "user_activity_logs": {"action": "{}", "resource_kind": "{}", "resource_id": "{}", "metadata": {}},
    "api_request_logs": {
        "service": "{}",
        "endpoint": "/{}",
        "method": "GET",
        "status": 200,
        "duration_ms": 1.0,
    },
    "realtime_events": {"channel": "{}", "kind": "moved", "payload": {}},
}

QUERIES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in DOCUMENTS),
    *((name, {"timestamp": {"$gte": NOW, "$lt": NOW + timedelta(seconds=2)}}) for name in DOCUMENTS),
    *((name, {"request_id": {"$eq": "7"}}) for name in DOCUMENTS if name != "realtime_events"),
    *((name, {"user_id": {"$eq": IDS[7]}}) for name in DOCUMENTS if name != "realtime_events"),
    ("system_logs", {"level": {"$eq": "error"}}),
    ("system_logs", {"service": {"$eq": "7"}}),
    ("user_activity_logs", {"action": {"$eq": "7"}}),
    ("user_activity_logs", {"resource_kind": {"$eq": "7"}, "resource_id": {"$eq": "7"}}),
    ("api_request_logs", {"service": {"$eq": "7"}}),
    ("api_request_logs", {"endpoint": {"$eq": "/7"}}),
    ("realtime_events", {"channel": {"$eq": "7"}}),
]


@pytest.fixture
def database(multidb_settings: Settings) -> Any:
    """The test's database, each collection with a hundred documents."""
    with MongoClient[dict[str, Any]](multidb_settings.mongo_url.get_secret_value()) as client:
        database = client.get_default_database()
        database = client.get_database(
            database.name, CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
        )
        for name, fields in DOCUMENTS.items():
            database[name].insert_many([document(name, fields, number) for number in range(100)])
        yield database


def document(name: str, fields: dict[str, Any], number: int) -> dict[str, Any]:
    given = {key: value.format(number) if isinstance(value, str) else value for key, value in fields.items()}
    if name != "realtime_events":
        given["request_id"] = str(number)
    return {
        "_id": uuid7(),
        "timestamp": NOW + timedelta(seconds=number),
        "user_id": IDS[number % len(IDS)],
        **given,
    }


def explained(database: Any, name: str, query: dict[str, Any], **options: Any) -> dict[str, Any]:
    command = {"explain": {"find": name, "filter": query, **options}, "verbosity": "executionStats"}
    answer: dict[str, Any] = database.command(command, codec_options=database.codec_options)
    return answer


def stages(plan: dict[str, Any]) -> list[str]:
    below = [plan["inputStage"]] if "inputStage" in plan else plan.get("inputStages", [])
    return [plan["stage"], *(stage for each in below for stage in stages(each))]


def test_each_query_is_served_in_order_by_an_index(database: Any) -> None:
    for name, query in QUERIES:
        plan = explained(database, name, query, sort=NEWEST, limit=2)
        used = stages(plan["queryPlanner"]["winningPlan"])
        assert "COLLSCAN" not in used, (name, query)
        assert "SORT" not in used, (name, query)
        assert plan["executionStats"]["totalDocsExamined"] <= 2, (name, query)


@pytest.mark.parametrize("level", [{"$eq": "error"}, {"$in": GRAVE}])
def test_the_text_of_grave_messages_is_indexed(database: Any, level: dict[str, Any]) -> None:
    plan = explained(database, "system_logs", {"$text": {"$search": '"order 42"'}, "level": level})
    assert "TEXT_MATCH" in stages(plan["queryPlanner"]["winningPlan"])
    assert plan["executionStats"]["nReturned"] == 1
