"""Many things, taken a list at a time from whatever gives them."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from itertools import islice
from typing import TypeVar

from multidb.errors import DataError

__all__ = ["Progress", "chunks"]

T = TypeVar("T")

#: Called with how many have been written so far; they stand once the call has returned.
Progress = Callable[[int], object]


async def chunks(items: Iterable[T] | AsyncIterable[T], size: int) -> AsyncGenerator[list[T]]:
    """Yield items in lists, taking no more of them than the next list needs.

    Raises: DataError if they are not several.
    """
    if isinstance(items, str | bytes) or not isinstance(items, Iterable | AsyncIterable):
        raise DataError(f"what is written must be given as a list, or iterable, not {type(items).__name__}")
    chunk: list[T] = []
    if isinstance(items, AsyncIterable):
        async for item in items:
            chunk.append(item)
            if len(chunk) == size:
                yield chunk
                chunk = []
    else:
        remaining = iter(items)
        while len(chunk := list(islice(remaining, size))) == size:
            yield chunk
    if chunk:
        yield chunk
