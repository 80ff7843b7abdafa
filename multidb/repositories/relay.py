"""`Relay`: has the effects that commits have promised, on MongoDB and Redis, in order and until they are had.

Each store has a lane of its own, so that one which is away keeps nothing from the other. A lane takes a batch
(`outbox_statements.py` says how it is held), has its effects, removes those from the outbox, and commits. A
relay that dies in between has some of them had again, by whoever takes them next: that changes nothing, for
every effect is harmless to repeat (`effects.py`). So any number of relays may run.

An effect that fails is tried again after a while, and what follows it in its stream waits. It is given up,
dead, after `Settings.relay_attempts`, or at once where its error says that trying again is in vain. While a
store is away nothing fails: its lane waits for it.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, get_args
from uuid import UUID

from multidb.errors import ConflictError, MultiDBError, NotOpenError, UnavailableError
from multidb.repositories import outbox_statements as sql
from multidb.repositories.deliveries import Deliveries, Kinds
from multidb.repositories.effects import Effect, FencedEffect
from multidb.repositories.key_effects import INVALIDATE
from multidb.repositories.repository import Resources
from multidb.repositories.stream_fence import Outcome
from multidb.stores.background import Background
from multidb.stores.completion import complete
from multidb.stores.pauses import Pauses, nap
from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.listening import Listening
from multidb.stores.postgres.outbox import Target

__all__ = ["Relay"]

_log = logging.getLogger("multidb.relay")

#: Effects a batch, and about how many bytes of their documents.
_BATCH = 500
_BYTES = 16_000_000
#: How many are looked at for those that can be delivered now.
_WINDOW = 5 * _BATCH
#: For so many seconds a lane goes on behind what it has delivered, where the dead entries of all that lie.
_NARROW = 1.0
_POLL = 1.0
#: For so long what is not known here is left to relays that do, of a newer version or with an application.
_PATIENCE = timedelta(hours=1)
#: Before a store that was away is asked again, in seconds, at most.
_LONGEST_PAUSE = 5.0
#: Before what failed is tried again: doubled each time.
_FIRST_DELAY, _LONGEST_DELAY = timedelta(seconds=0.5), timedelta(minutes=5)
_LONGEST_ERROR = 2000


class Relay:
    """Delivers until it is told to stop. While PostgreSQL or a store is away it waits for it."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._woken: dict[Target, asyncio.Event] = {}
        self._stopping = asyncio.Event()
        self._delivering = Background(self._run)

    async def run(self) -> None:
        """Deliver until `stop()`, or until cancelled: either way, what has begun ends. May be run again."""
        self.start()
        try:
            await self._delivering.over()
        except asyncio.CancelledError:
            self.stop()
            await complete(self.close())
            raise

    def start(self) -> None:
        """Deliver in the background. Idempotent."""
        if self._delivering.begin():
            self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin no more, and return from `run` once what has begun has ended. Idempotent."""
        self._stopping.set()
        for event in self._woken.values():
            event.set()

    async def close(self) -> None:
        """Stop, and return once what has begun has ended."""
        self.stop()
        await self._delivering.end()

    async def _run(self) -> None:
        stores: tuple[Target, ...] = get_args(Target)
        self._woken = {store: asyncio.Event() for store in stores}
        loop = asyncio.get_running_loop()
        async with Listening(self._resources.postgres, sql.CHANNEL, self._heard):
            lanes = [
                Lane(self._resources, store, self._woken[store], self._stopping, self._kinds(store))
                for store in stores
            ]
            await asyncio.wait([loop.create_task(lane.run()) for lane in lanes])

    def _kinds(self, store: Target) -> Kinds:
        """Return every effect on a store, by its name in the outbox. Of others, other relays may know."""
        kinds: dict[str, tuple[Any, Effect[Any, Any] | FencedEffect[Any, Any]]] = {
            f"{repository.entity()}.{name}": (repository, effect)
            for repository in self._resources.repositories.values()
            if repository.effects is not None and repository.effects.store == store
            for name, effect in repository.effects.kinds.items()
        }
        if store == "redis":
            kinds["cache.invalidate"] = self._resources.cache, INVALIDATE
        return kinds

    def _heard(self, payload: str | None) -> None:
        for store, event in self._woken.items():
            if payload in {None, store}:
                event.set()


class Failure(NamedTuple):
    row: Record
    error: Exception


class Verdict(NamedTuple):
    """What becomes of what has failed: whether it counts, when it is tried again, or that it is not."""

    counts: int
    delay: timedelta
    dead: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of a batch."""

    had: list[UUID]
    failed: list[Failure]
    #: Whether there may be more to deliver at once.
    more: bool
    #: What says that the store is away, if it is.
    away: MultiDBError | None = None


class Lane:
    """Delivers to one store."""

    def __init__(
        self,
        resources: Resources,
        store: Target,
        woken: asyncio.Event,
        stopping: asyncio.Event,
        kinds: Kinds,
    ) -> None:
        self._resources = resources
        self._postgres = resources.postgres
        self._store = store
        self._woken = woken
        self._stopping = stopping
        self._kinds = kinds
        self._deliveries = Deliveries(resources, kinds)
        #: What is looked at begins behind this version, and until when that holds.
        self._floor = 0
        self._floor_until = 0.0

    async def run(self) -> None:
        """Deliver until the relay stops."""
        pauses = Pauses(longest=_LONGEST_PAUSE)
        while not self._stopping.is_set():
            self._woken.clear()
            poll = _POLL * random.uniform(0.8, 1.2)  # noqa: S311 - it spreads, and is no secret
            try:
                batch = await complete(self._deliver())
                away: MultiDBError | None = batch.away
            except NotOpenError:
                return
            except MultiDBError as error:
                away = error
            except Exception:  # whatever it is, the others must not wait for ever
                _log.exception("a batch of effects on %s failed, and is tried again", self._store)
                away = UnavailableError("it failed")
            else:
                if away is None:
                    pauses.restart()
                    if not batch.more:
                        await nap(self._woken, poll)
                    continue
            _log.warning("effects on %s wait, and are tried again: %s", self._store, away)
            # What is told meanwhile would find the store as it is.
            await nap(self._stopping, pauses.next())

    async def _deliver(self) -> Batch:
        """Take a batch, have its effects, and write down what became of them, all in one transaction."""
        async with self._postgres.transactions.begin():
            heads = await self._fetch(sql.HEADS, self._claim(), "claim")
            if not heads:
                return Batch([], [], more=await self._look_further())
            outcomes = await self._deliveries.have(await self._runs(heads))
            batch = self._become(outcomes, full=len(heads) == _BATCH)
            await self._settle(batch)
        self._reach(heads, batch)
        return batch

    def _claim(self) -> dict[str, Any]:
        if self._floor and asyncio.get_running_loop().time() > self._floor_until:
            self._floor = 0
        return {
            "store": self._store,
            "floor": self._floor,
            "window": _WINDOW,
            "limit": _BATCH,
            "bytes": _BYTES,
            "known": list(self._kinds),
        }

    async def _look_further(self) -> bool:
        """Go on behind what was looked at, where nothing can be delivered now; tell whether there is more."""
        looked_at = self._claim()
        (seen,) = await self._fetch(sql.LOOK, looked_at, "look")
        if seen["n"]:
            for row in await self._fetch(sql.UNKNOWN, {**looked_at, "patience": _PATIENCE}, "unknown"):
                _log.warning("effect %s (%s) was given up: no relay has known it", row["id"], row["effect"])
        full = bool(seen["n"] == _WINDOW)
        # Once through, and then it waits: what is not due now will be, or will be told of.
        self._floor = seen["last"] if full else 0
        self._floor_until = asyncio.get_running_loop().time() + _NARROW
        return full

    def _reach(self, heads: Sequence[Record], batch: Batch) -> None:
        now = asyncio.get_running_loop().time()
        if len(heads) == _BATCH and not batch.failed:
            if not self._floor:
                self._floor_until = now + _NARROW
            self._floor = max(self._floor, heads[0]["version"] - 1)
        else:
            self._floor = 0

    async def _runs(self, heads: Sequence[Record]) -> list[list[Record]]:
        """Return what is to be had one after the other: an effect, and what follows it in its stream."""
        streams = {row["stream"]: [row] for row in heads if row["stream"] is not None}
        runs = [[row] for row in heads if row["stream"] is None]
        if streams:
            values = {
                **self._claim(),
                "streams": list(streams),
                "heads": [head["version"] for (head,) in streams.values()],
                "limit": _BATCH,
                "window": _BATCH,
            }
            stopped: set[str] = set()
            for row in await self._fetch(sql.FOLLOWERS, values, "claim"):
                if not row["due"]:
                    stopped.add(row["stream"])
                if row["stream"] not in stopped:
                    streams[row["stream"]].append(row)
        return [*runs, *streams.values()]

    @staticmethod
    def _become(outcomes: Sequence[tuple[Sequence[Record], Outcome]], *, full: bool) -> Batch:
        """Return what became of a batch, by effect."""
        had = [row["id"] for run, outcome in outcomes for row in run[: outcome.had]]
        failed = [
            Failure(run[outcome.had], outcome.error) for run, outcome in outcomes if outcome.error is not None
        ]
        away = [each.error for each in failed if isinstance(each.error, UnavailableError | NotOpenError)]
        if away and len(away) == len(failed) and not had:
            # It is not theirs that they failed.
            return Batch([], [], more=False, away=away[0])
        return Batch(had, failed, more=full or any(len(run) > 1 for run, _ in outcomes))

    async def _settle(self, batch: Batch) -> None:
        if batch.had:
            await self._fetch(sql.DELETE, {"ids": batch.had}, "delivered")
        if batch.failed:
            verdicts = [self._verdict(each) for each in batch.failed]
            for each, verdict in zip(batch.failed, verdicts, strict=True):
                word = "was given up" if verdict.dead else "failed, and will be tried again"
                _log.warning(
                    "effect %s (%s) %s: %s", each.row["id"], each.row["effect"], word, _text(each.error)
                )
            values = {
                "ids": [each.row["id"] for each in batch.failed],
                "errors": [_text(each.error) for each in batch.failed],
                "counts": [each.counts for each in verdicts],
                "delays": [each.delay for each in verdicts],
                "deaths": [each.dead for each in verdicts],
            }
            await self._fetch(sql.FAIL, values, "failed")

    def _verdict(self, failure: Failure) -> Verdict:
        row, error = failure
        meets_another = isinstance(error, ConflictError) and error.retryable
        if meets_another or isinstance(error, UnavailableError | NotOpenError):
            # It is not its own that it failed.
            return Verdict(0, _delay(0), dead=False)
        in_vain = isinstance(error, MultiDBError) and not error.retryable
        dead = in_vain or row["attempts"] + 1 >= self._resources.settings.relay_attempts
        return Verdict(1, _delay(row["attempts"]), dead)

    async def _fetch(self, statement: Any, values: Mapping[str, Any], name: str) -> list[Record]:
        return await self._postgres.fetch(statement, values, operation=f"outbox.{name}")


def _delay(attempts: int) -> timedelta:
    """Return how long what has failed so often before waits now."""
    longest = min(_FIRST_DELAY * (1 << min(attempts, 20)), _LONGEST_DELAY)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - it spreads, and is no secret


def _text(error: Exception) -> str:
    """Return what is said of an error: of ours its words, which hold nothing secret; of others the class."""
    text = str(error) if isinstance(error, MultiDBError) else type(error).__name__
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()[:_LONGEST_ERROR]
