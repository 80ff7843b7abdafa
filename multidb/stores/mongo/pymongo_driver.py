"""PyMongo Async: MongoDB's own client for asyncio."""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from multidb.stores.mongo.driver import Cursor

__all__ = ["aggregate", "close", "connect"]


def connect(url: str, options: dict[str, Any]) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(url, **options)


async def aggregate(
    collection: AsyncCollection[dict[str, Any]], pipeline: Sequence[Mapping[str, Any]], **options: Any
) -> Cursor:
    return await collection.aggregate(pipeline, **options)


async def close(client: AsyncMongoClient[dict[str, Any]]) -> None:
    await client.close()
