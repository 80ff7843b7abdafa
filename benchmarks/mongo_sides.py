"""The calls that are compared, as multidb, Motor, PyMongo Async and Beanie make them.

All store documents of the same fields in `system_logs`, with its validator and its indexes, and are
acknowledged by a majority; each has a pool of fifty connections of its own. multidb takes and gives its
frozen models, Motor and PyMongo dicts, Beanie its documents.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from benchmarks.measuring import OURS
from multidb import MultiDB, SystemLog, uuid7
from multidb.settings import Settings
from multidb.stores.mongo.driver import load

__all__ = ["COLLECTION", "Driver", "Ours", "Side", "fields", "peers"]

COLLECTION = "system_logs"

_OPTIONS: dict[str, Any] = {
    "maxPoolSize": 50,
    "tz_aware": True,
    "uuidRepresentation": "standard",
    "w": "majority",
}


def fields(number: int) -> dict[str, Any]:
    """Return what an entry says, but for its id and time."""
    return {
        "level": "info",
        "service": "shop",
        "message": f"GET /carts/{number} took a while, and was answered in the end",
        "context": {"path": f"/carts/{number}", "status": 200, "ms": 1.5, "region": "eu"},
        "request_id": f"request-{number}",
    }


def document(number: int) -> dict[str, Any]:
    """Return an entry as the drivers take it."""
    return {"_id": uuid7(), "timestamp": datetime.now(UTC), **fields(number)}


class Side(ABC):
    """One of those that are compared."""

    name: str

    @abstractmethod
    async def append(self, number: int) -> object:
        """Store one entry."""

    @abstractmethod
    async def find(self, number: int) -> Sequence[object]:
        """Return the newest thousand."""


class Ours(Side):
    """multidb, on the driver of the settings."""

    name = OURS

    def __init__(self, db: MultiDB) -> None:
        self.db = db

    async def append(self, number: int) -> object:
        return await self.db.system_logs.append(SystemLog(**fields(number)))

    async def find(self, number: int) -> Sequence[object]:
        return (await self.db.system_logs.find(limit=1000)).items


class Driver(Side):
    """Motor, or PyMongo Async."""

    def __init__(self, name: str, collection: Any) -> None:
        self.name = name
        self._collection = collection

    async def append(self, number: int) -> object:
        return await self._collection.insert_one(document(number))

    async def insert_many(self, start: int, count: int) -> object:
        """Store so many entries in one call, unordered."""
        documents = [document(number) for number in range(start, start + count)]
        return await self._collection.insert_many(documents, ordered=False)

    async def find(self, number: int) -> Sequence[object]:
        cursor = self._collection.find().sort([("timestamp", -1), ("_id", -1)]).limit(1000)
        found: list[object] = await cursor.to_list(1000)
        return found


class Beanie(Side):
    """Beanie, on PyMongo Async."""

    name = "Beanie"

    def __init__(self, model: Any) -> None:
        self._model = model

    async def append(self, number: int) -> object:
        return await self._model(id=uuid7(), timestamp=datetime.now(UTC), **fields(number)).insert()

    async def find(self, number: int) -> Sequence[object]:
        found: list[object] = await self._model.find().sort("-timestamp", "-_id").limit(1000).to_list()
        return found


@asynccontextmanager
async def peers(settings: Settings, *, beanie: bool) -> AsyncIterator[dict[str, Side]]:
    """Yield the peers by name, their clients open; Beanie only if it is asked for."""
    url = settings.mongo_url.get_secret_value()
    database = urlsplit(url).path.strip("/")
    motor, pymongo = load("motor"), load("pymongo")
    clients = {driver: driver.connect(url, dict(_OPTIONS)) for driver in (motor, pymongo)}
    try:
        sides: list[Side] = [
            Driver("Motor", clients[motor][database][COLLECTION]),
            Driver("PyMongo Async", clients[pymongo][database][COLLECTION]),
        ]
        if beanie:
            sides.append(Beanie(await _beanie_model(clients[pymongo][database])))
        yield {side.name: side for side in sides}
    finally:
        for driver, client in clients.items():
            await driver.close(client)


async def _beanie_model(database: Any) -> Any:
    # Not installed where nobody measures, so its types are not known there.
    module = importlib.import_module("beanie")
    annotations = {
        "id": UUID,
        "timestamp": datetime,
        "level": str,
        "service": str,
        "message": str,
        "context": dict[str, Any],
        "request_id": str,
    }
    # Named as if it stood in the class, for pydantic takes it for a field otherwise.
    settings = type("Settings", (), {"name": COLLECTION, "__qualname__": "Log.Settings"})
    model = type(
        "Log",
        (module.Document,),
        {"__annotations__": annotations, "__module__": __name__, "__qualname__": "Log", "Settings": settings},
    )
    await module.init_beanie(database=database, document_models=[model], skip_indexes=True)
    return model
