"""Transactions: begun, committed, rolled back. MongoDB has no savepoints."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar

from multidb.errors import MultiDBError, TransactionError
from multidb.settings import MongoSettings
from multidb.stores.completion import complete
from multidb.stores.mongo.ambient import AMBIENT, Transaction
from multidb.stores.mongo.driver import Session
from multidb.stores.mongo.errors import is_unconfirmed, may_be_replayed
from multidb.stores.store import UnderWay

__all__ = ["Transactions"]

V = TypeVar("V")

#: Before a transaction is replayed, up to this many seconds, doubled each time.
_PAUSE = 0.005


class Transactions:
    """The transactions of one store."""

    def __init__(
        self,
        begin: Callable[[], Awaitable[Session]],
        call: Callable[[str], AbstractAsyncContextManager[Any]],
        under_way: Callable[[], UnderWay],
        settings: MongoSettings,
    ) -> None:
        self._begin = begin
        self._call = call
        self._under_way = under_way
        self._settings = settings

    def current(self) -> Transaction | None:
        """Return the ambient transaction, or None. Raises: TransactionError if it is another task's."""
        return AMBIENT.of(self)

    def refuse(self, operation: str) -> None:
        """Raise: TransactionError if there is an ambient transaction, which the call cannot be part of."""
        if self.current() is not None:
            raise TransactionError(
                "this takes no part in a transaction: call it outside", store="mongo", operation=operation
            )

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """Begin a transaction, or join the ambient one.

        Commits at the end of the outermost block; an error or a cancellation that leaves any of
        them rolls all of it back.
        Raises: TransactionError at the end of the outermost block if something in it has failed and
        was caught, for then nothing was committed; UnavailableError if the connection breaks while
        committing: then whether it committed is not known.
        """
        outer = self.current()
        if outer is None:
            async with self._outermost():
                yield
            return
        try:
            yield
        except BaseException:
            outer.failed = True
            raise

    async def run(self, work: Callable[[], Awaitable[V]], *, attempts: int) -> V:
        """Run `work` in a transaction, again from the start while MongoDB asks for that.

        Inside a transaction it runs once: only the whole can be replayed.
        """
        for attempt in range(1, attempts + 1):
            try:
                async with self.begin():
                    return await work()
            except MultiDBError as error:
                if not may_be_replayed(error) or attempt == attempts or self.current() is not None:
                    raise
                await asyncio.sleep(random.uniform(0, _PAUSE * 2**attempt))  # noqa: S311 - it spreads, and is no secret
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _outermost(self) -> AsyncIterator[None]:
        with self._under_way():
            async with self._call("mongo_transaction"):
                session = await self._begin()
            try:
                transaction = Transaction(self, session)
                token = AMBIENT.enter(transaction)
                try:
                    yield
                finally:
                    AMBIENT.leave(transaction, token)
                if transaction.failed:
                    raise TransactionError(
                        "rolled back: something in it failed, and its error was caught",
                        store="mongo",
                        operation="mongo_transaction",
                    )
                try:
                    await complete(self._commit(session))
                finally:
                    await complete(_follow(transaction))
            finally:
                # Rolls back what was not committed. To its end, even if the caller is cancelled.
                await complete(self._end(session))

    async def _commit(self, session: Session) -> None:
        """Commit, again while MongoDB does not say whether it did, for as long as a call may take."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.mongo_timeout.total_seconds()
        while True:
            try:
                async with self._call("mongo_transaction"):
                    await session.commit_transaction()
            except MultiDBError as error:
                if not is_unconfirmed(error) or loop.time() > until:
                    raise
            else:
                return

    async def _end(self, session: Session) -> None:
        # What the server does not hear of, it rolls back by itself.
        with suppress(MultiDBError):
            async with self._call("mongo_transaction"):
                await session.end_session()


async def _follow(transaction: Transaction) -> None:
    for each in transaction.after_commit:
        await each()
