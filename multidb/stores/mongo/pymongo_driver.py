"""PyMongo Async: MongoDB's own client for asyncio."""

from typing import Any

from pymongo import AsyncMongoClient

__all__ = ["close", "connect"]


def connect(url: str, options: dict[str, Any]) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(url, **options)


async def close(client: AsyncMongoClient[dict[str, Any]]) -> None:
    await client.close()
