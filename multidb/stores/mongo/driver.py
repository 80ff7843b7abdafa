"""The seam between multidb and its MongoDB driver.

Motor is past its end of life and PyMongo's own async client succeeds it; until the last
application has moved, both are supported. Their collections take the same calls and return
awaitables; what differs between them is named here, once, and `motor_driver.py` is
deleted the day Motor goes.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

from multidb.settings import MongoDriver

__all__ = ["Client", "Collection", "Cursor", "Database", "Driver", "load"]

#: Motor's and PyMongo's classes share no base; what they share is how they are called.
Client: TypeAlias = Any
Database: TypeAlias = Any
Collection: TypeAlias = Any
Cursor: TypeAlias = Any


class Driver(Protocol):
    """What a driver must provide where Motor and PyMongo Async differ."""

    def connect(self, url: str, options: dict[str, Any]) -> Client:
        """Return a client bound to the running event loop. Makes no connection yet."""
        ...

    async def aggregate(
        self, collection: Collection, pipeline: Sequence[Mapping[str, Any]], **options: Any
    ) -> Cursor:
        """Run a pipeline over a collection and return a cursor over what it gives."""
        ...

    async def close(self, client: Client) -> None:
        """Close every connection of the client."""
        ...


def load(name: MongoDriver) -> Driver:
    """Return the driver's module; the other one is not imported."""
    return cast(Driver, import_module(f"multidb.stores.mongo.{name}_driver"))
