"""PyMongo Async: MongoDB's own client for asyncio."""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.read_concern import ReadConcern

from multidb.stores.mongo.driver import Cursor

__all__ = ["aggregate", "begin", "close", "connect", "watch"]


def connect(url: str, options: dict[str, Any]) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(url, **options)


async def aggregate(
    collection: AsyncCollection[dict[str, Any]],
    pipeline: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
) -> Cursor:
    return await collection.aggregate(pipeline, **options)


async def begin(client: AsyncMongoClient[dict[str, Any]]) -> Any:
    session = client.start_session()
    await session.start_transaction(read_concern=ReadConcern("snapshot"))
    return session


async def close(client: AsyncMongoClient[dict[str, Any]]) -> None:
    await client.close()


async def watch(
    collection: AsyncCollection[dict[str, Any]],
    pipeline: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
) -> AsyncChangeStream[dict[str, Any]]:
    return await collection.watch(pipeline, **options)
