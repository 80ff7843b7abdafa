"""Locks on documents, fenced. Redis `lock:document:{document_id}`; `held_lock.py` has the argument."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from multidb.errors import DataError, StoreName
from multidb.repositories.held_lock import HeldLock, Here
from multidb.repositories.repository import Repository, Resources, checked_id, checked_ids

__all__ = ["LockRepository"]

_SHORTEST, _LONGEST = timedelta(milliseconds=10), timedelta(days=1)
_MOST_AT_ONCE = 100


class LockRepository(Repository):
    """The calls on locks. All raise UnavailableError if Redis cannot be reached.

    A lock keeps others away while all is well, and a fence keeps them apart when it is not: give
    `lock.fence` to `db.documents.update(..., fence=...)`, which refuses whoever holds an older one.
    """

    store: ClassVar[StoreName] = "redis"
    key = "lock:document:{document_id}"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._here = Here(resources.redis)
        self._document_key = resources.redis.pattern(self.key)

    @classmethod
    def target(cls) -> str:
        return cls.key

    @classmethod
    def entity(cls) -> str:
        return "locks"

    @classmethod
    def check(cls) -> None:
        """There is nothing to hold against each other."""

    def document(
        self,
        document_id: UUID,
        *,
        ttl: timedelta = timedelta(seconds=30),
        wait: timedelta = timedelta(seconds=30),
        fair: bool = False,
    ) -> HeldLock:
        """Hold the lock of a document, `async with db.locks.document(id) as lock:`.

        It is extended by itself, every third of `ttl`, while the block runs; of a process that
        dies it is free after `ttl`, from 10 ms to a day. Who finds it held waits up to `wait`, and is
        woken when it is given back. With `fair`, those who wait get it in the order they came, in
        whatever process; it costs a little more.

        If it is lost, because Redis was away or this process stood still for longer than `ttl`, the
        block is cancelled and ends in LockLostError. What it does before it notices, the fence
        refuses.

        Raises: LockNotAcquiredError after `wait`; LockLostError; LockError if this very task holds
        it already; DataError.
        """
        operation = self._operation("document")
        checked_id(document_id, operation, "document_id")
        _check(ttl, wait, operation)
        key = self._document_key.key({"document_id": document_id})
        return HeldLock(self._here, key, ttl, wait, operation, fair=fair)

    @asynccontextmanager
    async def documents(
        self,
        document_ids: Iterable[UUID],
        *,
        ttl: timedelta = timedelta(seconds=30),
        wait: timedelta = timedelta(seconds=30),
        fair: bool = False,
    ) -> AsyncIterator[Mapping[UUID, HeldLock]]:
        """Hold the locks of several documents, up to 100, and yield them by id.

        They are taken one after the other, in the order of the ids, so that two who want the same
        ones never wait for each other. `wait` is for all of them together; otherwise as `document`.
        """
        operation = self._operation("documents")
        ids = checked_ids(document_ids, operation, "document_ids")
        if len(ids) > _MOST_AT_ONCE:
            raise DataError(f"`document_ids` may be {_MOST_AT_ONCE} at most", operation=operation)
        _check(ttl, wait, operation)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait.total_seconds()
        locks: dict[UUID, HeldLock] = {}
        async with AsyncExitStack() as stack:
            for id in sorted(ids):
                left = timedelta(seconds=max(0.0, deadline - loop.time()))
                locks[id] = await stack.enter_async_context(self.document(id, ttl=ttl, wait=left, fair=fair))
            yield locks


def _check(ttl: object, wait: object, operation: str) -> None:
    if not isinstance(ttl, timedelta) or not _SHORTEST <= ttl <= _LONGEST:
        raise DataError("`ttl` must be a timedelta from 10 milliseconds to a day", operation=operation)
    if not isinstance(wait, timedelta) or not timedelta(0) <= wait <= _LONGEST:
        raise DataError("`wait` must be a timedelta from zero to a day", operation=operation)
