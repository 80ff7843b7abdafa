"""The fence of a stream on MongoDB: what has passed it once, or was overtaken, does not pass again.

How far a stream has come stands beside what its effects change, and both are written in one transaction. So
an effect is had once, however often it is delivered, and one that comes late, from a relay that was cut off
and does not know it, changes nothing. A day later the fence is gone, and long before that any such relay.

The writes of many streams share a transaction, for one each would cost most of what they take. Where that
fails for one of them, halves of it are made, and halves of these, until that one is alone.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias
from uuid import UUID, uuid5

from multidb.errors import AlreadyExistsError, ConflictError, NotOpenError, UnavailableError
from multidb.models.fields import utc_now
from multidb.repositories.effects import DocumentWrite
from multidb.stores.mongo.client import MongoStore
from multidb.stores.mongo.documents import Document, encoded
from multidb.stores.mongo.writes import Change, Insert, Write

__all__ = ["Fenced", "Outcome", "write_once"]

_COLLECTION = "outbox_streams"
_NAMESPACE = UUID("0190f3a4-6f2e-7c11-9a53-6d756c746964")
_OPERATION = "outbox.fence"
#: Those that meet another transaction of the same stream or document begin anew.
_TRIES = 2
#: So many meetings are looked into; who holds more than a few documents has others wait.
_MEETINGS = 20


class Fenced(NamedTuple):
    """A write that is made unless it, or what follows it in its stream, was made before."""

    stream: str
    #: Of one stream it grows.
    version: int
    write: DocumentWrite


#: Writes of one stream, in their order.
Run: TypeAlias = Sequence[Fenced]


class Outcome(NamedTuple):
    """How far a run has come, and why not further."""

    had: int
    error: Exception | None = None


async def write_once(mongo: MongoStore, runs: Sequence[Run]) -> list[Outcome]:
    """Make the writes of each run, in order and up to the first that fails; return what became of each."""
    return await _Writing(mongo).have(runs) if runs else []


class _Writing:
    def __init__(self, mongo: MongoStore) -> None:
        self._mongo = mongo
        self._meetings = 0

    async def have(self, runs: Sequence[Run], *, again: bool = False) -> list[Outcome]:
        try:
            await self._mongo.transactions.run(partial(_write, self._mongo, runs), attempts=_TRIES)
        except Exception as error:  # of one of them, whose own it is
            failed = [Outcome(0, error)] * len(runs)
            if not self._is_for_one(error):
                return failed
            if sum(map(len, runs)) > 1:
                return await self._by_halves(runs)
            # A document may have been made just now, by another call than a relay's.
            taken = isinstance(error, AlreadyExistsError) and not again
            return await self.have(runs, again=True) if taken else failed
        return [Outcome(len(run)) for run in runs]

    async def _by_halves(self, runs: Sequence[Run]) -> list[Outcome]:
        if len(runs) > 1:
            half = len(runs) // 2
            return [*await self.have(runs[:half]), *await self.have(runs[half:])]
        (run,) = runs
        half = len(run) // 2
        (first,) = await self.have([run[:half]])
        if first.error is not None:
            return [first]
        (second,) = await self.have([run[half:]])
        return [Outcome(half + second.had, second.error)]

    def _is_for_one(self, error: Exception) -> bool:
        """Tell whether others than the one that has failed may well be had without it."""
        if isinstance(error, UnavailableError | NotOpenError):
            return False
        if isinstance(error, ConflictError):
            self._meetings += 1
        return self._meetings <= _MEETINGS


async def _write(mongo: MongoStore, runs: Sequence[Run]) -> None:
    """Pass the fences, and make the writes of those that had not passed; all of it or nothing."""
    by_id = {uuid5(_NAMESPACE, run[0].stream): run for run in runs}
    query = {"_id": {"$in": list(by_id)}}
    fences = await mongo.find(_COLLECTION, query, limit=len(by_id), operation=_OPERATION)
    passed = {fence["_id"]: fence["version"] for fence in fences}
    due = {id: [each for each in run if each.version > passed.get(id, 0)] for id, run in by_id.items()}
    await _pass(mongo, {id: left[-1] for id, left in due.items() if left}, passed)
    # Of all streams the first, then of all the second, by kind: what follows its like is sent with it.
    ordered = sorted(
        ((place, each.write) for left in due.values() for place, each in enumerate(left)),
        key=lambda each: (each[0], _kind(each[1].write)),
    )
    by_collection: dict[str, list[DocumentWrite]] = {}
    for _, write in ordered:
        by_collection.setdefault(write.collection, []).append(write)
    for collection, writes in by_collection.items():
        first = writes[0]
        missed = await mongo.write(
            collection, [each.write for each in writes], operation=first.operation, unique=first.unique
        )
        if missed:
            raise next(each.missing for each in writes if each.missing is not None)


async def _pass(mongo: MongoStore, last: Mapping[UUID, Fenced], there: Collection[UUID]) -> None:
    """Note how far streams have come. Raises: ConflictError if another delivery does so too."""
    now = utc_now()
    writes: list[Write] = []
    for id, each in last.items():
        come: Document = {"version": each.version, "passed_at": now}
        if id in there:
            writes.append(Change({"_id": id}, {"$set": come}))
        else:
            fence = {"_id": id, "stream": each.stream, **come}
            writes.append(Insert(encoded(fence, operation=_OPERATION)))
    if not writes:
        return
    try:
        await mongo.write(_COLLECTION, sorted(writes, key=_kind), operation=_OPERATION)
    except AlreadyExistsError as error:
        raise ConflictError(
            "another delivery of this stream is under way",
            store="mongo",
            operation=_OPERATION,
            retryable=True,
        ) from error


def _kind(write: Write) -> str:
    return type(write).__name__
