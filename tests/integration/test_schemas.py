"""MongoDB's schemas: what the files say, the server does."""

import asyncio
import json

import pytest

from multidb import ConfigurationError, ConstraintError, MultiDB, SystemLog
from multidb.ops import schemas
from multidb.settings import Settings
from multidb.stores.mongo.documents import encoded

pytestmark = pytest.mark.mongo


async def test_apply_is_idempotent_and_leaves_no_difference(multidb_settings: Settings):
    assert await schemas.apply(multidb_settings) == []
    assert await schemas.differences(multidb_settings) == []


async def test_many_may_apply_at_once(db: MultiDB, multidb_settings: Settings):
    await db.mongo.database.drop_collection("system_logs")
    await asyncio.gather(*(schemas.apply(multidb_settings) for _ in range(10)))
    assert await schemas.differences(multidb_settings) == []


async def test_what_is_missing_is_made_and_told(db: MultiDB, multidb_settings: Settings):
    await db.mongo.database.drop_collection("system_logs")
    assert await schemas.differences(multidb_settings) == ["system_logs: the collection is missing"]
    changes = await schemas.apply(multidb_settings)
    assert changes[0] == "system_logs: created"
    assert "system_logs: index timestamp_id created" in changes
    assert await schemas.differences(multidb_settings) == []


async def test_a_changed_validator_is_put_back(db: MultiDB, multidb_settings: Settings):
    await db.mongo.command({"collMod": "system_logs", "validator": {}}, operation="test")
    assert await schemas.differences(multidb_settings) == ["system_logs: the validator differs"]
    assert await schemas.apply(multidb_settings) == ["system_logs: validator changed"]


async def test_an_index_that_differs_is_told_and_left(db: MultiDB, multidb_settings: Settings):
    collection = db.mongo.database["system_logs"]
    await collection.drop_index("timestamp_id")
    await collection.create_index([("timestamp", 1)], name="timestamp_id")
    with pytest.raises(ConfigurationError, match="system_logs: index timestamp_id differs"):
        await schemas.apply(multidb_settings)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"level": "loud"}, "level"),
        ({"service": ""}, "service"),
        ({"service": None}, "service"),
        ({"message": 1}, "message"),
        ({"timestamp": "today"}, "timestamp"),
        ({"context": []}, "context"),
    ],
)
async def test_the_server_refuses_what_the_model_would(db: MultiDB, change: dict[str, object], field: str):
    """The validator stands for those who write past the repositories."""
    document = db.system_logs._document(SystemLog(level="info", service="s", message="m").model_dump())
    sent = encoded(document | change, operation="test")
    refused = (await db.mongo.insert_many("system_logs", [sent], operation="test"))[0]
    with pytest.raises(ConstraintError) as caught:
        raise refused
    assert caught.value.columns == (field,)


async def test_every_file_is_a_schema_of_a_collection_of_its_name():
    loaded = schemas.load()
    assert [each.collection for each in loaded] == ["system_logs"]


async def test_a_file_that_is_no_schema_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken.json").write_text(json.dumps({"collection": "x", "version": 0}))
    monkeypatch.setattr(schemas, "shipped", lambda _: tmp_path)
    with pytest.raises(ConfigurationError, match=r"mongo_schemas/broken\.json"):
        schemas.load()
