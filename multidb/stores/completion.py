"""Work that must end once it has begun, whatever happens to its caller."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["complete"]

T = TypeVar("T")


async def complete(work: Awaitable[T]) -> T:
    """Run `work` to its end and return what it returned, even if the caller is cancelled meanwhile.

    A cancellation waits until the work is done and is raised then, so no task is left behind.
    `work` must be bounded by a timeout of its own.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen, so that it is not reported as never retrieved
        raise cancelled
    return task.result()
