"""Motor: PyMongo in threads. Delete this file when Motor goes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo.read_concern import ReadConcern
from pymongo.synchronous.change_stream import ChangeStream

from multidb.stores.mongo.driver import Cursor

__all__ = ["aggregate", "begin", "close", "connect", "watch"]

T = TypeVar("T")


def connect(url: str, options: dict[str, Any]) -> AsyncIOMotorClient[dict[str, Any]]:
    return AsyncIOMotorClient(url, io_loop=asyncio.get_running_loop(), **options)


async def aggregate(
    collection: AsyncIOMotorCollection[dict[str, Any]],
    pipeline: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
) -> Cursor:
    return collection.aggregate(pipeline, **options)


async def begin(client: AsyncIOMotorClient[dict[str, Any]]) -> Any:
    session = await client.start_session()
    session.start_transaction(read_concern=ReadConcern("snapshot"))
    return session


async def close(client: AsyncIOMotorClient[dict[str, Any]]) -> None:
    # It tells the server which sessions end, and would keep the event loop waiting for the answer.
    await asyncio.to_thread(client.close)


async def watch(
    collection: AsyncIOMotorCollection[dict[str, Any]],
    pipeline: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
) -> "_ChangeStream":
    stream = _ChangeStream()
    await stream.open(partial(collection.delegate.watch, pipeline, **options))
    return stream


class _ChangeStream:
    """A change stream on a thread of its own: it waits nearly always, and Motor's own are few."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "multidb-changes")
        self._stream: ChangeStream[dict[str, Any]]

    async def open(self, watch: Callable[[], ChangeStream[dict[str, Any]]]) -> None:
        try:
            self._stream = await self._run(watch)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    @property
    def resume_token(self) -> Mapping[str, Any] | None:
        return self._stream.resume_token

    @property
    def alive(self) -> bool:
        return self._stream.alive

    async def try_next(self) -> Mapping[str, Any] | None:
        return await self._run(self._stream.try_next)

    async def close(self) -> None:
        try:
            await self._run(self._stream.close)
        finally:
            self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
