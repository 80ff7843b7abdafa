"""One `schemas apply` at a time.

MongoDB has no lock that ends with its holder's connection, so this one is a document with a lease:

- It is taken by one conditional write on the server's clock, `$$NOW`; nobody's own clock counts.
- Its holder renews the lease as long as it works. One that was killed is waited for until the
  lease ends, and no longer.
- Each taking has a token of its own. A holder that was frozen, and whose lock another has taken
  since, finds a token that is not its own and changes nothing more.

MongoDB cannot be told to refuse a command by such a token. So before each one the holder makes
sure of its lease: from when it last renewed it, or by asking if that was too long ago. What can
still be late is a command that was already on its way; all that `apply` sends may come twice.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import uuid4

from multidb.errors import AlreadyExistsError, LockLostError, LockNotAcquiredError, MultiDBError
from multidb.ops.schemas.server import Server
from multidb.stores.completion import complete

__all__ = ["LOCKS", "Lease", "alone"]

#: The collection of the lock's one document.
LOCKS = "multidb_locks"

_ID = "schemas"
_OPERATION = "schemas.apply"
_BETWEEN_TRIES = timedelta(milliseconds=100)

#: How many times in its length a lease is renewed.
_RENEWALS = 3


class Lease:
    """The lock, held."""

    def __init__(self, server: Server, length: timedelta) -> None:
        self._server = server
        self._length = length
        self._token = uuid4().hex
        self._until = 0.0

    async def confirm(self) -> None:
        """Return if the lock is held still. Raises: LockLostError."""
        if asyncio.get_running_loop().time() >= self._until and not await self.renew():
            raise LockLostError(
                "the lease on the schema ended, and another process has it now: nothing more was changed",
                store="mongo",
                operation=_OPERATION,
            )

    async def take(self) -> bool:
        """Take the lock if nobody has it, or its lease is over; tell whether it was taken."""
        free = {"$lt": [{"$ifNull": ["$until", None]}, "$$NOW"]}
        with suppress(AlreadyExistsError):  # of two who make the document, one
            return await self._write(
                {},
                {
                    "token": {"$cond": [free, self._token, "$token"]},
                    "until": {"$cond": [free, self._end, "$until"]},
                },
                upsert=True,
            )
        return False

    async def renew(self) -> bool:
        """Begin the lease anew; tell whether the lock was still its own."""
        return await self._write({"token": self._token}, {"until": self._end})

    async def let_go(self) -> None:
        """End the lease, if the lock is still its own."""
        await self._write({"token": self._token}, {"until": "$$NOW"})

    async def keep(self) -> None:
        """Renew the lease again and again, until another has the lock."""
        while True:
            await asyncio.sleep(self._length.total_seconds() / _RENEWALS)
            # A server that is away for a moment may be back before the lease ends.
            with suppress(MultiDBError):
                if not await self.renew():
                    return

    @property
    def _end(self) -> object:
        return {"$add": ["$$NOW", int(self._length.total_seconds() * 1000)]}

    async def _write(
        self, query: dict[str, object], values: dict[str, object], *, upsert: bool = False
    ) -> bool:
        # From before it was asked for: on the server the lease ends later, never sooner.
        begun = asyncio.get_running_loop().time()
        answer = await self._server.ask(
            {
                "findAndModify": LOCKS,
                "query": {"_id": _ID, **query},
                "update": [{"$set": values}],
                "new": True,
                "upsert": upsert,
                "writeConcern": {"w": "majority"},
            }
        )
        held: bool = (answer["value"] or {}).get("token") == self._token
        self._until = begun + self._length.total_seconds() if held else 0.0
        return held


@asynccontextmanager
async def alone(server: Server, *, wait: timedelta, length: timedelta) -> AsyncIterator[Lease]:
    """Hold the lock during the body, on a lease of this length.

    Raises: LockNotAcquiredError, retryable, if others held it for as long as `wait`.
    """
    lease = Lease(server, length)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait.total_seconds()
    try:
        while not await lease.take():
            left = deadline - loop.time()
            if left <= 0:
                raise LockNotAcquiredError(
                    "another process is applying the schemas, and was not done within MULTIDB_SCHEMA_TIMEOUT",
                    store="mongo",
                    operation=_OPERATION,
                )
            spread = random.uniform(0.5, 1.5)  # noqa: S311 - it spreads, and is no secret
            await asyncio.sleep(min(left, _BETWEEN_TRIES.total_seconds() * spread))
        keeping = asyncio.create_task(lease.keep())
        try:
            yield lease
        finally:
            keeping.cancel()
            await complete(_ended(keeping))
    finally:
        # Also if it was cancelled while it took it: whoever comes next need not wait for the lease.
        with suppress(MultiDBError):
            await complete(lease.let_go())


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
