"""Rows in an order of their own, by the `rank` that each has among its likes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

from multidb.errors import AlreadyExistsError, ConflictError, DataError
from multidb.models.ranks import between
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres.transactions import Transactions

__all__ = ["moved", "rank_at"]

T = TypeVar("T")

#: How often a place that others take first is looked for again.
_ATTEMPTS = 10


async def rank_at(
    rows: PostgresRepository[Any, Any, Any],
    among: Mapping[str, Any],
    *,
    before: UUID | None,
    after: UUID | None,
    moving: UUID | None,
    operation: str,
) -> str:
    """Return a rank just before or after one of the rows that have the values `among`, or after them all.

    It is free at this moment, the row `moving` left aside; another may take it before it is used,
    which the unique constraint on it tells.

    Raises: DataError if both or itself are given, or that row is not among them.
    """
    if before is not None and after is not None:
        raise DataError("give `before` or `after`, not both", operation=operation)
    beside = after if before is None else before
    if beside is None:
        last = await rows.find(rows.c.id != moving, **among, order_by="-rank", limit=1)
        return between(last.items[0].rank if last.items else None, None)
    stands = None if beside == moving else await rows.find_one(id=beside, **among)
    if stands is None:
        name = "after" if before is None else "before"
        raise DataError(f"`{name}` must be the id of another one of the same place", operation=operation)
    if before is None:
        beyond, order = rows.c.rank > stands.rank, "rank"
    else:
        beyond, order = rows.c.rank < stands.rank, "-rank"
    others = await rows.find(beyond, rows.c.id != moving, **among, order_by=order, limit=1)
    other = others.items[0].rank if others.items else None
    return between(stands.rank, other) if before is None else between(other, stands.rank)


async def moved(transactions: Transactions, put: Callable[[], Awaitable[T]], operation: str) -> T:
    """Return what `put` returns, which finds a rank and takes it, again while others are faster.

    Atomic: a transaction, or a savepoint where one is ambient.

    Raises: ConflictError, retryable, if they always are; what `put` raises.
    """
    for _ in range(_ATTEMPTS):
        try:
            async with transactions.begin():
                return await put()
        except AlreadyExistsError:
            continue
    raise ConflictError(
        "others move to the same place all the time", store="postgres", operation=operation, retryable=True
    )
