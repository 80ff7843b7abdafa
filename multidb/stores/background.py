"""Work behind the callers' backs: a task that is begun when there is something to do."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from multidb.stores.pauses import nap

__all__ = ["Background"]


class Background:
    """Does `work` in one task at a time, which may be begun again once it has ended.

    It runs in an empty context, for it is part of nobody's call and nobody's transaction. One whose
    event loop is gone counts as ended.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None
        #: Set once it is woken; each task has its own, of its event loop.
        self._woken = asyncio.Event()

    def begin(self) -> bool:
        """Begin the task; return False if it is under way already."""
        task = self._here()
        if task is not None and not task.done():
            return False
        self._woken = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._work(), context=Context())
        return True

    def wake(self) -> None:
        """End the pause that the task makes, or the next one."""
        self._woken.set()

    async def pause(self, seconds: float) -> bool:
        """Pause, in the task itself, for so long at most; return whether it was woken."""
        woken = await nap(self._woken, seconds)
        self._woken.clear()
        return woken

    async def over(self) -> None:
        """Wait until the task has ended, and raise what it does; a cancellation leaves it under way."""
        task = self._here()
        if task is not None:
            await asyncio.shield(task)

    async def end(self, *, within: float | None = None) -> bool:
        """Wait until it has ended, and cancel it after so many seconds; return whether there was one.

        Until then it is under way, and none is begun beside it.
        """
        task = self._here()
        if task is None:
            return False
        try:
            if within != 0:
                await asyncio.wait([task], timeout=within)
        finally:
            task.cancel()
        await asyncio.wait([task])
        if self._task is task:
            self._task = None
        return True

    def _here(self) -> asyncio.Task[None] | None:
        if self._task is None or self._task.get_loop() is not asyncio.get_running_loop():
            return None
        return self._task
