"""PyMongo Async: MongoDB's own client for asyncio."""

from typing import Any

from pymongo import AsyncMongoClient
from pymongo.read_concern import ReadConcern

__all__ = ["begin", "close", "connect"]


def connect(url: str, options: dict[str, Any]) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(url, **options)


async def begin(client: AsyncMongoClient[dict[str, Any]]) -> Any:
    session = client.start_session()
    await session.start_transaction(read_concern=ReadConcern("snapshot"))
    return session


async def close(client: AsyncMongoClient[dict[str, Any]]) -> None:
    await client.close()
