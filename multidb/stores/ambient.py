"""What is ambient: found by whoever is called inside a block, without being passed.

It is kept in a context variable, so it reaches every function called inside the block. A context is
also copied into each new task, and two tasks on one connection would mix their statements; so what
is ambient belongs to the task that entered it, and another task that finds it is told so. Once it
has ended, a task that still carries it is on its own again.
"""

import asyncio
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

from multidb.errors import StoreName, TransactionError

__all__ = ["Ambient", "Owned"]

T = TypeVar("T", bound="Owned")


class Owned:
    """Something ambient: a transaction on a store, or a part of one."""

    def __init__(self, owner: object, outer: Any) -> None:
        self.owner = owner
        #: What was ambient before: the transaction this is part of, or one on another database.
        self.outer = outer
        self.task = asyncio.current_task()
        self.ended = False


class Ambient(Generic[T]):
    """What is ambient of one kind."""

    def __init__(self, name: str, store: StoreName) -> None:
        self._store: StoreName = store
        self._current: ContextVar[T | None] = ContextVar(name, default=None)

    def innermost(self) -> T | None:
        """Return the last that was entered, whatever database it is on."""
        return self._current.get()

    @property
    def is_on(self) -> bool:
        """Whether one has been entered here and has not ended, on whatever database, by whatever task."""
        return self.under_way() is not None

    def under_way(self) -> T | None:
        """Return the last that was entered here and has not ended, on whatever database, by whatever task."""
        found = self._current.get()
        while found is not None and found.ended:
            found = found.outer
        return found

    def enter(self, entered: T) -> Token[T | None]:
        """Make it the ambient one."""
        return self._current.set(entered)

    def leave(self, entered: T, token: Token[T | None]) -> None:
        """End it: what was ambient before is ambient again."""
        entered.ended = True
        # Left in another context than it was entered in, as an async generator may be, it stays in
        # that one; having ended, it is not seen there.
        with suppress(ValueError):
            self._current.reset(token)

    def of(self, owner: object) -> T | None:
        """Return the ambient one on `owner`, the store it was begun on, or None.

        Raises: TransactionError if it belongs to another task.
        """
        found = self._current.get()
        while found is not None and (found.owner is not owner or found.ended):
            found = found.outer
        if found is not None and found.task is not asyncio.current_task():
            raise TransactionError(
                "this task was started inside a transaction that belongs to another task; call the "
                "repository in the task that began it, or start this task with an empty context "
                "(asyncio.create_task(..., context=contextvars.Context()))",
                store=self._store,
            )
        return found
