"""A MongoDB database of a test's own, with schema files of its own."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database

from multidb.ops import schemas
from multidb.settings import Settings

#: What a test may leave out of a file.
PLAIN: dict[str, Any] = {"collection": "things", "version": 1}

#: A validator: a name of one to ten characters, and a count.
NAMED: dict[str, Any] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "_id": {},
            "name": {"bsonType": "string", "minLength": 1, "maxLength": 10},
            "count": {"bsonType": ["int", "long"], "minimum": 0},
        },
    }
}


class Place:
    """The database, the folder of the files, and settings that name both."""

    def __init__(self, settings: Settings, folder: Path, database: Database[dict[str, Any]]) -> None:
        self.settings = settings
        self.folder = folder
        self.database = database
        self.things = database["things"]

    def say(self, **file: Any) -> None:
        """Write a file: PLAIN, and this."""
        content = {**PLAIN, **file}
        (self.folder / f"{content['collection']}.json").write_text(json.dumps(content))

    def settings_with(self, **changes: Any) -> Settings:
        return self.settings.model_copy(update=changes)

    async def apply(self, **options: Any) -> list[str]:
        return await schemas.apply(self.settings, **options)

    async def check(self) -> list[str]:
        return await schemas.check(self.settings)

    async def plan(self) -> list[schemas.Difference]:
        return await schemas.plan(self.settings)

    def options(self) -> dict[str, Any]:
        (found,) = self.database.list_collections(filter={"name": "things"})
        options: dict[str, Any] = found["options"]
        return options

    def indexes(self) -> dict[str, Any]:
        return {index["name"]: dict(index) for index in self.things.list_indexes()}


@contextmanager
def place(servers: Settings, folder: Path) -> Iterator[Place]:
    """Yield a database with nothing in it, dropped afterwards."""
    url = servers.mongo_url.get_secret_value()
    name = f"multidb_test_{secrets.token_hex(8)}"
    own = SecretStr(urlunsplit(urlsplit(url)._replace(path=f"/{name}")))
    with MongoClient[dict[str, Any]](url, uuidRepresentation="standard") as client:
        database = client.get_database(
            name, CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)
        )
        yield Place(
            servers.model_copy(update={"mongo_url": own, "schema_paths": (folder,)}), folder, database
        )
        client.drop_database(name)
