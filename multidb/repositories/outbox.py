"""`Outbox`: what commits have promised to MongoDB and Redis and what is not done yet. PostgreSQL `outbox`."""

from uuid import UUID

from multidb.errors import DataError, NotFoundError
from multidb.models.outbox import OutboxStats, UndeliveredEffect
from multidb.repositories import outbox_statements as sql
from multidb.repositories.repository import checked_id, page_size, validated
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.postgres.notifying import Notifying
from multidb.stores.postgres.outbox_stats import outbox_stats

__all__ = ["Outbox"]


class Outbox:
    """The calls of who looks after the delivery. A relay does the rest, and removes what it has delivered."""

    def __init__(self, postgres: PostgresStore) -> None:
        self._postgres = postgres
        self.wakeups = Notifying(postgres, sql.CHANNEL)

    async def find(self, *, dead: bool = False, limit: int = 50, after: int = 0) -> list[UndeliveredEffect]:
        """Return what is not delivered, or what was given up alone, in the order of the commits.

        `after` is the `version` of the last one of the page before. What is being delivered now is there too.
        """
        operation = "outbox.find"
        if type(after) is not int or not 0 <= after < 2**63:
            raise DataError("`after` must be the version of an effect", operation=operation)
        values = {"dead": dead, "limit": page_size(limit, operation), "after": after}
        rows = await self._postgres.fetch(sql.FIND, values, operation=operation)
        return [validated(UndeliveredEffect, dict(row), operation) for row in rows]

    async def retry(self, id: UUID) -> None:
        """Deliver an effect now, dead or not, with all its attempts again. Raises: NotFoundError."""
        checked_id(id, "outbox.retry")
        if not await self._retry(id):
            raise _not_found(id, "outbox.retry")

    async def retry_all(self) -> int:
        """Deliver all that was given up, with all attempts again; return how many."""
        return await self._retry(None)

    async def skip(self, id: UUID) -> None:
        """Give up an effect for good; what follows it in its stream is delivered then.

        One that is being delivered now may be had all the same. Raises: NotFoundError.
        """
        checked_id(id, "outbox.skip")
        rows = await self._postgres.fetch(sql.SKIP, {"id": id}, operation="outbox.skip")
        if not rows:
            raise _not_found(id, "outbox.skip")
        self.wakeups.tell({row["store"] for row in rows})

    async def stats(self) -> list[OutboxStats]:
        """Return what waits for each store. The cost grows with what failed and what waits, up to 100,000."""
        return await outbox_stats(self._postgres)

    async def _retry(self, id: UUID | None) -> int:
        rows = await self._postgres.fetch(sql.RETRY, {"id": id}, operation="outbox.retry")
        self.wakeups.tell({row["store"] for row in rows})
        return len(rows)


def _not_found(id: UUID, operation: str) -> NotFoundError:
    return NotFoundError(f"no effect with the id {id} is undelivered", store="postgres", operation=operation)
