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
from contextvars import Context
from typing import Generic, TypeVar

__all__ = ["Batcher"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Batcher(Generic[K, V]):
    """Looks things up by key: `one` a single key, `many` up to `limit` of them.

    `many` returns the values by key; a key it leaves out has none, and an exception in a value's
    place is raised to those who asked for it. Up to `lanes` round trips are under way at a time;
    `enough` keys leave in a batch although other lanes are busy, and so do those who have waited for
    `patience` seconds, lest one slow answer keep everybody.
    """

    def __init__(
        self,
        one: Callable[[K], Awaitable[V | None]],
        many: Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]],
        *,
        lanes: int = 4,
        enough: int = 128,
        limit: int = 1000,
        patience: float = 0.01,
    ) -> None:
        self._one = one
        self._many = many
        self._lanes = lanes
        self._enough = enough
        self._limit = limit
        self._patience = patience
        self._alarm: asyncio.TimerHandle | None = None
        self._busy = 0
        #: Who waits for which key; several may wait for one.
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._batches: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V | None:
        """Return the value of `key`, or None. Raises what the round trip it rode on raised."""
        if self._busy < self._lanes and not self._waiting and not self._batches:
            self._busy += 1
            try:
                return await self._one(key)
            finally:
                self._end()
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if len(self._waiting) >= self._enough and self._busy < self._lanes:
            self._depart()
        elif self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(self._patience, self._overdue)
        return await future

    async def close(self) -> None:
        """Wait until the batches under way have ended."""
        while self._batches or self._waiting:
            if self._batches:
                await asyncio.wait(self._batches)
            await asyncio.sleep(0)  # for what a batch that ended leaves to the next turn
        if self._alarm is not None:
            self._alarm.cancel()
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
        batch: dict[K, list[asyncio.Future[V | None]]] = {}
        for key in list(self._waiting):
            if len(batch) == self._limit:
                break
            # Who was cancelled meanwhile waits no more.
            if live := [future for future in self._waiting.pop(key) if not future.done()]:
                batch[key] = live
        if not batch:
            return
        self._busy += 1
        task = asyncio.get_running_loop().create_task(self._run(batch), context=Context())
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _run(self, batch: dict[K, list[asyncio.Future[V | None]]]) -> None:
        waiting = [(key, future) for key, futures in batch.items() for future in futures]
        try:
            values = await self._many(list(batch))
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    # Each its own: a traceback grows with everyone who raises the same one.
                    future.set_exception(_own(error))
        else:
            for key, future in waiting:
                if not future.done():
                    value = values.get(key)
                    if isinstance(value, Exception):
                        future.set_exception(_own(value))
                    else:
                        future.set_result(value)
        finally:
            for _, future in waiting:
                future.cancel()  # of no effect, unless the batch itself was cancelled
            # At the end of this turn of the loop: whoever was answered just now and asks again
            # at once, comes along.
            asyncio.get_running_loop().call_soon(self._end)


def _own(error: Exception) -> Exception:
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
