"""The fence of a stream on MongoDB: what has passed it once, or was overtaken, does not pass again.

How far a stream has come stands beside what its effects change, and both are written in one transaction. So
an effect is had once, however often it is delivered, and one that comes late, from a relay that was cut off
and does not know it, changes nothing. A day later the fence is gone, and long before that any such relay.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid5

from multidb.errors import AlreadyExistsError, ConflictError
from multidb.models.fields import utc_now
from multidb.repositories.effects import Delivery
from multidb.stores.mongo.client import MongoStore

__all__ = ["once"]

_COLLECTION = "outbox_streams"
_NAMESPACE = UUID("0190f3a4-6f2e-7c11-9a53-6d756c746964")
_OPERATION = "outbox.fence"
#: Those that meet another transaction of the same stream or document begin anew.
_TRIES = 5


async def once(mongo: MongoStore, delivery: Delivery[Any], work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` unless it, or what follows it in its stream, has been done; all of it or nothing.

    Raises: what `work` does; UnavailableError.
    """
    assert delivery.stream is not None

    async def pass_and_work() -> None:
        if await _pass(mongo, str(delivery.stream), delivery.version):
            await work()

    await mongo.transactions.run(pass_and_work, attempts=_TRIES)


async def _pass(mongo: MongoStore, stream: str, version: int) -> bool:
    """Note that a stream has come as far as `version`; return whether it had not."""
    id = uuid5(_NAMESPACE, stream)
    now = {"version": version, "passed_at": utc_now()}
    behind = {"_id": id, "version": {"$lt": version}}
    if await mongo.change_many(_COLLECTION, behind, {"$set": now}, operation=_OPERATION):
        return True
    if await mongo.find_one(_COLLECTION, {"_id": id}, operation=_OPERATION) is not None:
        return False
    try:
        change = {"$set": now, "$setOnInsert": {"stream": stream}}
        await mongo.change_one(_COLLECTION, {"_id": id}, change, upsert=True, operation=_OPERATION)
    except AlreadyExistsError as error:
        raise ConflictError(
            "another delivery of this stream is under way",
            store="mongo",
            operation=_OPERATION,
            retryable=True,
        ) from error
    return True
