"""PyMongo Async: MongoDB's own client for asyncio."""

from typing import Any

from pymongo import AsyncMongoClient
from pymongo.read_concern import ReadConcern

__all__ = ["begin", "close", "connect"]


def connect(url: str, options: dict[str, Any]) -> AsyncMongoClient[dict[str, Any]]:
    # The other mode opens a second connection a server, in a task that closing may cancel while it
    # connects; the driver then leaves the socket to the garbage collector. A primary that falls is
    # noticed as soon: by the error of whoever calls it.
    return AsyncMongoClient(url, serverMonitoringMode="poll", **options)


async def begin(client: AsyncMongoClient[dict[str, Any]]) -> Any:
    session = client.start_session()
    await session.start_transaction(read_concern=ReadConcern("snapshot"))
    return session


async def close(client: AsyncMongoClient[dict[str, Any]]) -> None:
    await client.close()
