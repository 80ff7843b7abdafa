"""Calls of the driver: never more at a time than it has connections, each counted, its errors translated."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from multidb.errors import TransactionError
from multidb.stores.completion import complete
from multidb.stores.mongo.ambient import Transaction
from multidb.stores.mongo.driver import Session
from multidb.stores.mongo.errors import ID_ALONE, Unique, translate, translating
from multidb.stores.store import UnderWay

__all__ = ["Call", "Turns", "unbroken"]

T = TypeVar("T")


class Turns(asyncio.Semaphore):
    """Who may call, in the order of asking.

    PyMongo's own queue for a connection does not survive cancellations: callers that wait in it
    may never be woken. So nobody waits there.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.taken = 0

    async def take(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - none is made where nobody waits
        if self.locked():
            async with asyncio.timeout(timeout.total_seconds()):
                await self.acquire()
        else:
            await self.acquire()
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1
        self.release()


class Call:
    """One call, for as long as the block lasts. A class and not a generator, for every call has one."""

    __slots__ = ("_cancelling", "_operation", "_timeout", "_transaction", "_turns", "_under_way", "_unique")

    def __init__(
        self,
        turns: Turns,
        timeout: timedelta,
        under_way: UnderWay,
        operation: str,
        unique: Unique = ID_ALONE,
        transaction: Transaction | None = None,
    ) -> None:
        self._transaction = transaction
        self._turns = turns
        self._timeout = timeout
        self._under_way = under_way
        self._operation = operation
        self._unique = unique

    async def __aenter__(self) -> Session | None:
        if self._transaction is not None and self._transaction.failed:
            raise TransactionError(
                "the transaction was rolled back when something in it failed",
                store="mongo",
                operation=self._operation,
            )
        self._cancelling = _cancelling()
        # Under way while it still waits for its turn: closing must not come between.
        self._under_way.__enter__()
        try:
            with translating(self._operation):
                await self._turns.take(self._timeout)
        except BaseException:
            self._under_way.__exit__()
            raise
        return None if self._transaction is None else self._transaction.session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.give_back()
        self._under_way.__exit__()
        if error is not None and self._transaction is not None:
            # What fails in a transaction, the server rolls it back for.
            self._transaction.failed = True
        if error is not None and (translated := translate(error, self._operation, self._unique)) is not None:
            raise translated from error
        if error is None and _cancelling() > self._cancelling:
            # PyMongo waits by `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that
            # comes when what it waits for is there.
            raise asyncio.CancelledError


def unbroken(session: Session | None, answer: Awaitable[T]) -> Awaitable[T]:
    """Return what to await for a call's answer: in a transaction, to its end.

    One that was cancelled may not have been sent yet, as in Motor's threads, and would reach the server
    behind the rollback: there it begins the transaction anew, which nobody ends, and what it holds
    is locked for a minute.
    """
    return answer if session is None else complete(answer)


def _cancelling() -> int:
    """Return how often the running task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
