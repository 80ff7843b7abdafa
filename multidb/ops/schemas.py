"""MongoDB's schemas: what the files in `mongo_schemas/` say, made so on the server."""

import json
from contextlib import suppress
from typing import Any

from pydantic import Field, ValidationError

from multidb.errors import AlreadyExistsError, ConfigurationError
from multidb.models.entity import Model
from multidb.ops.files import shipped
from multidb.settings import Settings
from multidb.stores.mongo.client import MongoStore

__all__ = ["CollectionSchema", "IndexSchema", "apply", "differences", "load"]


class IndexSchema(Model):
    """One index. `key` maps fields to 1, -1 or a kind of index, in order of weight."""

    name: str
    key: dict[str, int | str]
    unique: bool = False
    expireAfterSeconds: int | None = None
    partialFilterExpression: dict[str, Any] | None = None

    def specification(self) -> dict[str, Any]:
        """Return it as `createIndexes` takes it and `listIndexes` gives it back."""
        return self.model_dump(exclude_defaults=True)


class CollectionSchema(Model):
    """One file: the validator and the indexes of a collection."""

    collection: str
    version: int = Field(ge=1)
    validator: dict[str, Any]
    validationLevel: str = "strict"
    validationAction: str = "error"
    indexes: tuple[IndexSchema, ...] = ()

    def validation(self) -> dict[str, Any]:
        """Return what `create` and `collMod` take and `listCollections` gives back."""
        return self.model_dump(include={"validator", "validationLevel", "validationAction"})


def load() -> list[CollectionSchema]:
    """Return what the files say, by name of collection.

    Raises: ConfigurationError that names a file which is not a schema.
    """
    schemas: list[CollectionSchema] = []
    for path in sorted(shipped("mongo_schemas").glob("*.json")):
        try:
            schemas.append(CollectionSchema.model_validate(json.loads(path.read_text(encoding="utf-8"))))
        except (ValidationError, ValueError) as error:
            raise ConfigurationError(f"mongo_schemas/{path.name} is not a schema: {error}") from error
    return schemas


async def apply(settings: Settings) -> list[str]:
    """Make the server's collections as the files say, and return what was changed, a line each.

    Idempotent. An index that stands there under the same name with another definition is left
    as it is and reported as an error, for dropping it may take hours to mend.

    Raises: UnavailableError; ConfigurationError if the server is not as the files say afterwards.
    """
    changes: list[str] = []
    mongo = MongoStore(settings)
    await mongo.open()
    try:
        for schema in load():
            changes += await _apply_one(mongo, schema)
        remaining = [line for schema in load() for line in await _differences_of(mongo, schema)]
    finally:
        await mongo.close()
    if remaining:
        raise ConfigurationError("MongoDB is not as mongo_schemas/ says: " + "; ".join(remaining))
    return changes


async def differences(settings: Settings) -> list[str]:
    """Return how the server differs from the files, a line each; none if it does not."""
    mongo = MongoStore(settings)
    await mongo.open()
    try:
        return [line for schema in load() for line in await _differences_of(mongo, schema)]
    finally:
        await mongo.close()


async def _apply_one(mongo: MongoStore, schema: CollectionSchema) -> list[str]:
    name = schema.collection
    changes: list[str] = []
    standing = await _validation(mongo, name)
    if standing is None:
        # Another process may create it at the same moment, from the same file.
        with suppress(AlreadyExistsError):
            await mongo.command({"create": name, **schema.validation()}, operation="schemas.apply")
            changes.append(f"{name}: created")
    elif standing != schema.validation():
        await mongo.command({"collMod": name, **schema.validation()}, operation="schemas.apply")
        changes.append(f"{name}: validator changed")
    existing = await _indexes(mongo, name)
    missing = [index for index in schema.indexes if index.name not in existing]
    if missing:
        await mongo.command(
            {"createIndexes": name, "indexes": [index.specification() for index in missing]},
            operation="schemas.apply",
        )
        changes += [f"{name}: index {index.name} created" for index in missing]
    return changes


async def _differences_of(mongo: MongoStore, schema: CollectionSchema) -> list[str]:
    name = schema.collection
    standing = await _validation(mongo, name)
    if standing is None:
        return [f"{name}: the collection is missing"]
    lines = [f"{name}: the validator differs"] if standing != schema.validation() else []
    existing = await _indexes(mongo, name)
    for index in schema.indexes:
        if index.name not in existing:
            lines.append(f"{name}: index {index.name} is missing")
        elif existing[index.name] != index.specification():
            lines.append(f"{name}: index {index.name} differs")
    return lines


async def _validation(mongo: MongoStore, collection: str) -> dict[str, Any] | None:
    """Return the collection's validation as it stands, or None if there is no such collection."""
    answer = await mongo.command(
        {"listCollections": 1, "filter": {"name": collection}}, operation="schemas.read"
    )
    found = answer["cursor"]["firstBatch"]
    if not found:
        return None
    options = found[0]["options"]
    return {
        "validator": options.get("validator", {}),
        "validationLevel": options.get("validationLevel", "strict"),
        "validationAction": options.get("validationAction", "error"),
    }


async def _indexes(mongo: MongoStore, collection: str) -> dict[str, dict[str, Any]]:
    answer = await mongo.command(
        {"listIndexes": collection, "cursor": {"batchSize": 1000}}, operation="schemas.read"
    )
    return {
        index["name"]: {name: value for name, value in index.items() if name != "v"}
        for index in answer["cursor"]["firstBatch"]
    }
