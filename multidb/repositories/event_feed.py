"""Events as they are stored, for all listeners of a process by one change stream, each at its own pace."""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from contextvars import Context
from itertools import chain

from multidb.errors import InvalidCursorError, MultiDBError
from multidb.stores.mongo.changes import Changes
from multidb.stores.mongo.client import MongoStore
from multidb.stores.mongo.documents import Document

__all__ = ["EventFeed", "Listener"]


class Listener(ABC):
    """Whoever is told of events. None of these calls may take time."""

    @abstractmethod
    def tell(self, document: Document) -> None:
        """Hear of an event. Others are given the same object."""

    @abstractmethod
    def missed(self) -> None:
        """Hear that there were events that nobody can be told of any more."""

    @abstractmethod
    def fail(self, error: MultiDBError) -> None:
        """Hear that there will be no others."""


class EventFeed:
    """The change stream, open while somebody listens."""

    def __init__(self, mongo: MongoStore, collection: str, *, operation: str) -> None:
        self._mongo = mongo
        self._collection = collection
        self._operation = operation
        self._listeners: defaultdict[str, set[Listener]] = defaultdict(set)
        self._following: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    async def join(self, listener: Listener, channels: Iterable[str]) -> None:
        """Tell it from now on what is stored for these channels, perhaps of a few from just before.

        Raises: UnavailableError.
        """
        loop = asyncio.get_running_loop()
        if self._following is not None and self._following.get_loop() is not loop:
            # That loop ended without leaving it, and whoever listened there is gone.
            self._following, self._changing = None, asyncio.Lock()
            self._listeners.clear()
        async with self._changing:
            if self._following is None or self._following.done():
                changes = await self._watching().__aenter__()
                # In a context of its own: whoever comes first may be in a transaction.
                self._following = loop.create_task(self._follow(changes), context=Context())
            for channel in channels:
                self._listeners[channel].add(listener)

    async def leave(self, listener: Listener, channels: Iterable[str]) -> None:
        """Tell it no more; the last one closes the stream."""
        for channel in channels:
            self._listeners[channel].discard(listener)
            if not self._listeners[channel]:
                del self._listeners[channel]
        async with self._changing:
            if not self._listeners and self._following is not None:
                self._following.cancel()
                await asyncio.wait([self._following])
                self._following = None

    def _watching(self) -> Changes:
        return self._mongo.watch(
            self._collection, match={"operationType": "insert"}, operation=self._operation
        )

    def _everybody(self) -> set[Listener]:
        return set(chain.from_iterable(self._listeners.values()))

    async def _follow(self, changes: Changes) -> None:
        try:
            while True:
                try:
                    async for change in changes:
                        assert change.document is not None  # what is inserted comes with its document
                        for listener in tuple(self._listeners.get(change.document["channel"], ())):
                            listener.tell(change.document)
                except InvalidCursorError:
                    await changes.anew()
                    for listener in self._everybody():
                        listener.missed()
        except MultiDBError as error:
            for listener in self._everybody():
                listener.fail(error)
        finally:
            await changes.__aexit__(None, None, None)
