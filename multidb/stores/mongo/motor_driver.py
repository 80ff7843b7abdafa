"""Motor: PyMongo in threads. Delete this file when Motor goes."""

import asyncio
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.read_concern import ReadConcern

__all__ = ["begin", "close", "connect"]


def connect(url: str, options: dict[str, Any]) -> AsyncIOMotorClient[dict[str, Any]]:
    return AsyncIOMotorClient(url, io_loop=asyncio.get_running_loop(), **options)


async def begin(client: AsyncIOMotorClient[dict[str, Any]]) -> Any:
    session = await client.start_session()
    session.start_transaction(read_concern=ReadConcern("snapshot"))
    return session


async def close(client: AsyncIOMotorClient[dict[str, Any]]) -> None:
    # It tells the server which sessions end, and would keep the event loop waiting for the answer.
    await asyncio.to_thread(client.close)
