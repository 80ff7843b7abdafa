"""The seam between multidb and its MongoDB driver.

Motor is past its end of life and PyMongo's own async client succeeds it; until the last
application has moved, both are supported. Their collections take the same calls and return
awaitables; what differs between them is named here, once, and `motor_driver.py` is
deleted the day Motor goes.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

from multidb.settings import MongoDriver, MongoSettings

__all__ = [
    "ChangeStream",
    "Client",
    "Collection",
    "Cursor",
    "Database",
    "Driver",
    "Session",
    "load",
    "options",
]

#: Motor's and PyMongo's classes share no base; what they share is how they are called.
Client: TypeAlias = Any
Database: TypeAlias = Any
Session: TypeAlias = Any
Collection: TypeAlias = Any
Cursor: TypeAlias = Any


class ChangeStream(Protocol):
    """An open change stream."""

    @property
    def resume_token(self) -> Mapping[str, Any] | None:
        """What `start_after` goes on from."""
        ...

    @property
    def alive(self) -> bool:
        """Whether further events may follow."""
        ...

    async def try_next(self) -> Mapping[str, Any] | None:
        """Return the next event, or None if there is none within `max_await_time_ms`."""
        ...

    async def close(self) -> None:
        """Close its cursor."""
        ...


class Driver(Protocol):
    """What a driver must provide where Motor and PyMongo Async differ."""

    def connect(self, url: str, options: dict[str, Any]) -> Client:
        """Return a client bound to the running event loop. Makes no connection yet."""
        ...

    async def aggregate(
        self, collection: Collection, pipeline: Sequence[Mapping[str, Any]], options: dict[str, Any]
    ) -> Cursor:
        """Run a pipeline over a collection and return a cursor over what it gives."""
        ...

    async def begin(self, client: Client) -> Session:
        """Return a session with a transaction begun, which reads what a majority had at one moment."""
        ...

    async def close(self, client: Client) -> None:
        """Close every connection of the client."""
        ...

    async def watch(
        self, collection: Collection, pipeline: Sequence[Mapping[str, Any]], options: dict[str, Any]
    ) -> ChangeStream:
        """Open a change stream on a collection."""
        ...


def load(name: MongoDriver) -> Driver:
    """Return the driver's module; the other one is not imported."""
    return cast(Driver, import_module(f"multidb.stores.mongo.{name}_driver"))


def options(settings: MongoSettings) -> dict[str, Any]:
    """Return how a client is to speak, of either driver."""
    milliseconds = {
        "connectTimeoutMS": settings.connect_timeout,
        "serverSelectionTimeoutMS": settings.connect_timeout,
        # Not `timeoutMS`: it would hold calls to a server that is away for as long.
        "socketTimeoutMS": settings.mongo_timeout,
        "waitQueueTimeoutMS": settings.mongo_timeout,
    }
    return {
        "appname": "multidb",
        "maxPoolSize": settings.mongo_pool_size,
        # What Python has no datetime for must not fail those found with it.
        "datetime_conversion": "DATETIME_AUTO",
        "tz_aware": True,
        "uuidRepresentation": "standard",
        "w": "majority",
        **{name: int(value.total_seconds() * 1000) for name, value in milliseconds.items()},
    }
