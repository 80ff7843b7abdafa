"""Sharing round trips: calls that meet while others are under way become one.

A lane is one round trip under way. While nobody waits and a lane is free, a call goes out at once,
by itself and in its caller's own task: alone, it costs what the driver costs. Everybody else
gathers, and leaves together in one round trip once the lanes are empty, or once they are enough to
be worth a lane of their own. So batches grow with the load, a handful of callers is not made to
queue, and nobody waits for a timer.

A batch runs in a task of its own, so that one caller's cancellation takes nothing from the others,
and in an empty context, so that it is part of nobody's transaction.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar

__all__ = ["Batcher", "own_error"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Batcher(Generic[K, V]):
    """Asks for things by key: `one` a single key, `many` up to `limit` of them, all of one group.

    `many` returns the values by key; a key it leaves out has none, and an exception in a value's
    place is raised to those who asked for it. Keys of different groups never share a round trip.
    Up to `lanes` round trips are under way at a time; `enough` keys leave in a batch although other
    lanes are busy, and so do those who have waited for `patience` seconds, lest one slow answer
    keep everybody. `own` copies a value for each further caller of one key, where what one does to
    it must not reach the others. `check` raises where nobody may wait, for nobody would come.
    """

    def __init__(
        self,
        one: Callable[[K, Any], Awaitable[V | None]],
        many: Callable[[Sequence[K], Any], Awaitable[Mapping[K, V | Exception]]],
        *,
        lanes: int = 4,
        enough: int = 128,
        limit: int = 1000,
        patience: float = 0.01,
        own: Callable[[V], V] | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._one = one
        self._many = many
        self._lanes = lanes
        self._enough = enough
        self._limit = limit
        self._patience = patience
        self._copied = own
        self._check = check
        self._alarm: asyncio.TimerHandle | None = None
        self._busy = 0
        #: By group, who waits for which key; several may wait for one.
        self._waiting: dict[Hashable, dict[K, list[asyncio.Future[V | None]]]] = {}
        self._batches: set[asyncio.Task[None]] = set()

    async def get(self, key: K, group: Hashable = None) -> V | None:
        """Return the value of `key`, or None. Raises what the round trip it rode on raised."""
        if self._busy < self._lanes and not self._waiting and not self._batches:
            self._busy += 1
            try:
                return await self._one(key, group)
            finally:
                self._end()
        self._check()
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(group, {})
        waiting.setdefault(key, []).append(future)
        if len(waiting) >= self._enough and self._busy < self._lanes:
            self._depart()
        elif self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(self._patience, self._overdue)
        return await future

    async def answered(self) -> None:
        """Wait until all who wait now have their answers."""
        waiting: list[asyncio.Future[Any]] = [*self._batches]
        waiting += (future for keys in self._waiting.values() for each in keys.values() for future in each)
        if waiting:
            await asyncio.wait(waiting)

    async def close(self) -> None:
        """Wait until the batches under way have ended."""
        while self._batches or self._waiting:
            if self._batches:
                await asyncio.wait(self._batches)
            await asyncio.sleep(0)  # for what a batch that ended leaves to the next turn
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def forget(self) -> None:
        """Let go of the calls of an event loop that is gone."""
        self._busy = 0
        self._waiting.clear()
        self._batches.clear()
        self._alarm = None

    def _end(self) -> None:
        """Free a lane, and once all are free send off those who wait."""
        self._busy -= 1
        if self._waiting and not self._busy:
            self._depart()

    def _overdue(self) -> None:
        self._alarm = None
        if self._waiting:
            if self._busy < self._lanes:
                self._depart()
            else:
                self._alarm = asyncio.get_running_loop().call_later(self._patience, self._overdue)

    def _depart(self) -> None:
        """Send off a batch of each group."""
        for group in list(self._waiting):
            waiting = self._waiting.pop(group)
            batch: dict[K, list[asyncio.Future[V | None]]] = {}
            for key in list(waiting):
                if len(batch) == self._limit:
                    self._waiting[group] = waiting
                    break
                # Who was cancelled meanwhile waits no more.
                if live := [future for future in waiting.pop(key) if not future.done()]:
                    batch[key] = live
            if batch:
                self._busy += 1
                task = asyncio.get_running_loop().create_task(self._run(batch, group), context=Context())
                self._batches.add(task)
                task.add_done_callback(partial(self._ended, batch))

    async def _run(self, batch: dict[K, list[asyncio.Future[V | None]]], group: Hashable) -> None:
        waiting = [(key, future) for key, futures in batch.items() for future in futures]
        try:
            values = await self._many(list(batch), group)
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    # Each its own: a traceback grows with everyone who raises the same one.
                    future.set_exception(own_error(error))
        else:
            told: object = object()
            for key, future in waiting:
                if not future.done():
                    value = values.get(key)
                    if isinstance(value, Exception):
                        future.set_exception(own_error(value))
                    elif self._copied is not None and value is not None and key is told:
                        future.set_result(self._copied(value))
                    else:
                        future.set_result(value)
                    told = key

    def _ended(self, batch: Mapping[K, list[asyncio.Future[V | None]]], task: asyncio.Task[None]) -> None:
        """Free the lane: whoever was answered just now and asked again at once, comes along."""
        self._batches.discard(task)
        for futures in batch.values():
            for future in futures:
                future.cancel()  # of no effect, unless the batch itself was cancelled
        self._end()


def own_error(error: Exception) -> Exception:
    """Return an error like this one, or this one where its class cannot be made anew of its arguments."""
    with suppress(Exception):
        own = copy.copy(error)
        if own.args == error.args:
            own.__cause__ = error.__cause__
            return own
    return error
