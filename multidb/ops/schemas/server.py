"""MongoDB as changes of its schema see it: what stands there, over connections of their own."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pymongo.errors import OperationFailure

from multidb.errors import ConfigurationError, DataError, StoreError, StoreTimeoutError
from multidb.settings import MongoSettings
from multidb.stores.completion import complete
from multidb.stores.mongo.driver import Database, load
from multidb.stores.mongo.errors import translating

__all__ = ["Command", "Server", "Standing", "connected"]

#: One command of the database, its name first.
Command = Mapping[str, Any]

_OPERATION = "schemas"

#: What the server adds to an index's specification, and nobody asks for.
_ITS_OWN = {"v", "ns", "background", "textIndexVersion", "2dsphereIndexVersion", "clustered"}


#: BadValue, FailedToParse, TypeMismatch, CannotCreateIndex, InvalidOptions, IndexOptionsConflict,
#: IndexKeySpecsConflict, InvalidIndexSpecificationOption, unknown and missing fields
_NOT_TAKEN = {2, 9, 14, 67, 72, 85, 86, 197, 40413, 40414, 40415}


@dataclass(frozen=True, slots=True)
class Standing:
    """A collection as it stands on the server."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    #: By name, as `listIndexes` gives them; without the one on `_id`, and those still being built.
    indexes: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def validation(self) -> dict[str, Any]:
        """The validator with its level and action."""
        return {
            "validator": self.options.get("validator", {}),
            "validationLevel": self.options.get("validationLevel", "strict"),
            "validationAction": self.options.get("validationAction", "error"),
        }


class Server:
    """One database, asked by its commands.

    What may take long, such as an index of a large collection, is waited for as long as it takes:
    `run`. What answers at once has the time of any call: `ask`.
    """

    def __init__(self, database: Database, settings: MongoSettings) -> None:
        self._database = database
        self._timeout = settings.mongo_timeout.total_seconds()

    async def run(self, command: Command) -> dict[str, Any]:
        """Run a command to its end and return its answer.

        Raises: ConfigurationError for what the server does not take of a file.
        """
        try:
            with translating(_OPERATION):
                answer: dict[str, Any] = await self._database.command(dict(command))
                return answer
        except (DataError, StoreError) as error:
            cause = error.__cause__
            if not isinstance(cause, OperationFailure) or cause.code not in _NOT_TAKEN:
                raise
            # These speak of the file, and hold nothing that is stored.
            said = (cause.details or {}).get("errmsg", "")
            collection = next(iter(command.values()))
            raise ConfigurationError(
                f"{collection}: MongoDB does not take what its file says: {said}", operation=_OPERATION
            ) from error

    async def ask(self, command: Command) -> dict[str, Any]:
        """Run a command that answers soon. Raises: StoreTimeoutError if it does not."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self.run(command)
        except TimeoutError:
            raise StoreTimeoutError(
                "MongoDB did not answer within MULTIDB_MONGO_TIMEOUT", store="mongo", operation=_OPERATION
            ) from None

    async def standing(self, names: Iterable[str]) -> dict[str, Standing]:
        """Return those of these collections that there are, by name."""
        command = {
            "listCollections": 1,
            "filter": {"name": {"$in": list(names)}},
            "cursor": {"batchSize": 10_000},
        }
        found = (await self.ask(command))["cursor"]["firstBatch"]
        # Asked for at once: one after the other they are most of what looking costs.
        indexes = await asyncio.gather(
            *(self._indexes(each["name"]) if each["type"] != "view" else _none() for each in found)
        )
        return {
            each["name"]: Standing(each["type"], each["options"], there)
            for each, there in zip(found, indexes, strict=True)
        }

    async def _indexes(self, collection: str) -> dict[str, dict[str, Any]]:
        answer = await self.ask(
            {"listIndexes": collection, "cursor": {"batchSize": 1000}, "includeBuildUUIDs": True}
        )
        return {
            index["name"]: {name: value for name, value in index.items() if name not in _ITS_OWN}
            for index in answer["cursor"]["firstBatch"]
            # One that is being built, by a client that was killed as well, has its name further inside.
            # And that of a clustered collection is its option.
            if "buildUUID" not in index and index["name"] != "_id_" and not index.get("clustered")
        }


@asynccontextmanager
async def connected(settings: MongoSettings) -> AsyncIterator[Server]:
    """Yield the database of MULTIDB_MONGO_URL. Raises: UnavailableError if it cannot be reached."""
    driver = load(settings.mongo_driver)
    url = settings.mongo_url.get_secret_value()
    patience = int(settings.connect_timeout.total_seconds() * 1000)
    with translating(_OPERATION):
        client = driver.connect(
            url,
            {
                "appname": "multidb schemas",
                "connectTimeoutMS": patience,
                "serverSelectionTimeoutMS": patience,
                "tz_aware": True,
                "uuidRepresentation": "standard",
                "w": "majority",
            },
        )
    try:
        yield Server(client[urlsplit(url).path.strip("/")], settings)
    finally:
        await complete(driver.close(client))


async def _none() -> dict[str, dict[str, Any]]:
    return {}
