"""Loads under way in this process, shared by those who may be given what they will give.

A caller must not be given what was read before it called. It may share a load that has not begun to
read, whatever the entry holds; and one that reads under a lease, if the entry, read after the call,
holds that very lease: whatever was committed before the call would have deleted it.
"""

import asyncio
import copy
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from typing import Any, NamedTuple

from multidb.cache.entry import Held, is_lease
from multidb.stores.batching import own_error

__all__ = ["Flight", "Flights", "Landed"]


class Landed(NamedTuple):
    """What a load gave."""

    value: Any
    #: The value as bytes, of which each further caller makes its own; None if there are none.
    body: bytes | None


class Flight:
    """One load, in a task of its own: a caller that is cancelled leaves it to the others."""

    __slots__ = ("callers", "generations", "lease", "task", "undetermined")

    def __init__(self) -> None:
        self.task: asyncio.Task[Landed]
        self.callers = 0
        #: Whether what it will give has not been read yet.
        self.undetermined = True
        #: The lease it reads under, and the generations of the tags then.
        self.lease: bytes | None = None
        self.generations: tuple[bytes, ...] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, by itself or with its event loop."""
        return self.task.done() or self.task.get_loop() is not asyncio.get_running_loop()

    def gives_right(self, seen: Held) -> bool:
        """Tell whether a caller that has found this in the entry, and in its tags, may share it."""
        if self.undetermined:
            return True
        return (
            self.lease is not None
            and seen.held is not None
            and is_lease(seen.held)
            and seen.held[1:] == self.lease[1:]
            and seen.generations is not None
            and seen.generations == self.generations
        )


class Flights:
    """The loads under way, by what they load and for whom."""

    def __init__(self) -> None:
        self._by_slot: dict[Hashable, Flight] = {}
        self._tasks: set[asyncio.Task[Landed]] = set()

    async def share(
        self,
        slot: Hashable,
        seen: Held,
        load: Callable[[Flight], Coroutine[Any, Any, Landed]],
        decode: Callable[[bytes], Any],
    ) -> Any:
        """Return what the load under way at `slot` gives, or begin one. Raises what it raises.

        If everybody who waits for it is cancelled, so is the load.
        """
        flight = self._by_slot.get(slot)
        first = flight is None or flight.is_over or not flight.gives_right(seen)
        if flight is None or first:
            flight = self._by_slot[slot] = Flight()
            self._begin(slot, flight, load(flight))
        flight.callers += 1
        try:
            landed = await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.callers == 1 and not flight.task.done():
                if self._by_slot.get(slot) is flight:
                    del self._by_slot[slot]  # or who comes now would be cancelled with it
                flight.task.cancel()
                await _until_done(flight.task)
            raise
        except Exception as error:
            if first:
                raise
            # To each its own: a traceback grows with everyone who raises the same one.
            raise own_error(error) from error.__cause__
        finally:
            flight.callers -= 1
        if first:
            return landed.value
        return copy.deepcopy(landed.value) if landed.body is None else decode(landed.body)

    def begin(self, slot: Hashable, load: Callable[[Flight], Coroutine[Any, Any, Landed]]) -> None:
        """Begin a load that nobody waits for, unless one is under way."""
        under_way = self._by_slot.get(slot)
        if under_way is None or under_way.is_over:
            flight = self._by_slot[slot] = Flight()
            flight.undetermined = False
            self._begin(slot, flight, load(flight))

    async def close(self, seconds: float) -> None:
        """Cancel those that nobody waits for, and wait for the others, so long at most."""
        for flight in list(self._by_slot.values()):
            if not flight.callers:
                flight.task.cancel()
        loop = asyncio.get_running_loop()
        if tasks := {task for task in self._tasks if task.get_loop() is loop}:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()

    def _begin(self, slot: Hashable, flight: Flight, load: Coroutine[Any, Any, Landed]) -> None:
        def ended(task: asyncio.Task[Landed]) -> None:
            self._tasks.discard(task)
            if self._by_slot.get(slot) is flight:
                del self._by_slot[slot]
            if not task.cancelled():
                task.exception()  # there may be nobody left to see it

        flight.task = asyncio.get_running_loop().create_task(load)
        self._tasks.add(flight.task)
        flight.task.add_done_callback(ended)


async def _until_done(task: asyncio.Task[Any]) -> None:
    """Wait for a task that was cancelled, whatever else comes: it gives back what it holds."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
