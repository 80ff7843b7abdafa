"""Motor: PyMongo in threads. Delete this file when Motor goes."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection

from multidb.stores.mongo.driver import Cursor

__all__ = ["aggregate", "close", "connect"]


def connect(url: str, options: dict[str, Any]) -> AsyncIOMotorClient[dict[str, Any]]:
    return AsyncIOMotorClient(url, io_loop=asyncio.get_running_loop(), **options)


async def aggregate(
    collection: AsyncIOMotorCollection[dict[str, Any]], pipeline: Sequence[Mapping[str, Any]], **options: Any
) -> Cursor:
    return collection.aggregate(pipeline, **options)


async def close(client: AsyncIOMotorClient[dict[str, Any]]) -> None:
    # It tells the server which sessions end, and would keep the event loop waiting for the answer.
    await asyncio.to_thread(client.close)
