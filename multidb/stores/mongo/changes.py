"""Changes of a collection: in the order its server made them, each once, whatever becomes of a connection.

A driver's change stream outlives one lost connection and gives up when the next attempt fails too.
`Changes` opens another behind the last change it gave, for as long as it takes: the server keeps
what has happened since in its oplog, until newer entries push it out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from multidb.errors import MultiDBError
from multidb.stores.completion import complete
from multidb.stores.mongo.driver import ChangeStream
from multidb.stores.mongo.errors import translating
from multidb.stores.pauses import Pauses

__all__ = ["Change", "Changes", "Position"]

_log = logging.getLogger("multidb.mongo")

#: The longest pause, in seconds, before a server that is away is tried again.

ResultT = TypeVar("ResultT")

#: A place among the changes of a collection. Opaque; BSON can write it.
Position: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one document, or to the collection as a whole."""

    #: `insert`, `update`, `replace` or `delete`; `drop`, `rename` or `dropDatabase` of the collection.
    kind: str
    #: The document's `_id`; None if the change is the collection's.
    id: Any
    #: As it was inserted, or as it is after an update, perhaps after later ones too; None if it is gone.
    document: dict[str, Any] | None


class Changes:
    """An open change stream, made by `MongoStore.watch`. It never ends by itself.

    ::

        async with mongo.watch("system_logs", operation="system_logs.tail") as changes:
            async for change in changes: ...

    It gives what a majority has from the moment the block is entered, or from `after` on. A
    `__anext__` that is cancelled loses nothing: the next one goes on.

    Raises: UnavailableError if MongoDB cannot be reached when it is opened; once it is, that is waited
    out. InvalidCursorError if the oplog no longer reaches back to where it must go on: changes were
    missed. NotOpenError once the store is closed. StoreError.
    """

    def __init__(
        self,
        connect: Callable[[Position | None], Awaitable[ChangeStream]],
        waiting: Callable[[], AbstractAsyncContextManager[None]],
        *,
        after: Position | None,
        operation: str,
    ) -> None:
        self._connect = connect
        self._waiting = waiting
        self._operation = operation
        self._stream: ChangeStream | None = None
        #: Behind the last change it gave: what a later `after` goes on from.
        self.position = after

    async def __aenter__(self) -> Self:
        async with self._waiting():
            self._stream = await self._connect(self.position)
        self.position = self._stream.resume_token
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._let_go()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while True:
            event, self.position, alive = await self._persistently(self._step)
            if not alive:
                # The collection was dropped or renamed. Another may take its place.
                await self._let_go()
            if event is not None and event["operationType"] != "invalidate":
                key: Mapping[str, Any] = event.get("documentKey") or {}
                return Change(event["operationType"], key.get("_id"), event.get("fullDocument"))

    async def anew(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Go on from now on, whatever was missed; `then`, say, loads what is there.

        Both are tried until MongoDB answers. Raises: what iterating does, and what `then` raises.
        """
        await self._let_go()

        async def begin() -> None:
            self.position = None
            await self.__aenter__()
            if then is not None:
                await then()

        await self._persistently(begin)

    async def _persistently(self, step: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Return what `step` returns, tried again for as long as MongoDB is away."""
        pauses, away = Pauses(0.1), False
        while True:
            try:
                result = await step()
            except BaseException as error:
                await self._let_go()
                if not isinstance(error, MultiDBError) or not error.retryable:
                    raise
                if not away:
                    _log.warning("%s: waits until MongoDB is back: %s", self._operation, error)
                away = True
                await asyncio.sleep(pauses.next())
            else:
                if away:
                    _log.warning("%s: MongoDB is back", self._operation)
                return result

    async def _step(self) -> tuple[Mapping[str, Any] | None, Position | None, bool]:
        """Wait a moment for an event. Return it if one came, where it ends, and whether others may follow."""
        async with self._waiting():
            if self._stream is None:
                self._stream = await self._connect(self.position)
            event = await self._stream.try_next()
        return event, self._stream.resume_token, self._stream.alive

    async def _let_go(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            # A cursor that cannot be closed now, the server closes by itself in time.
            with suppress(MultiDBError), translating(self._operation):
                await complete(stream.close())
