"""Whose rows a call is about: one company's, inside `db.tenant(...)`, or everybody's.

Kept in a context variable, so it reaches every call made inside the block, those of tasks started
there included. It is one for all databases: who works for one company does so everywhere.
"""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Final
from uuid import UUID

__all__ = ["EVERYBODY", "Everybody", "Scope", "current_scope"]


@dataclass(frozen=True, slots=True)
class Everybody:
    """Said explicitly, by `db.unscoped()`."""


EVERYBODY: Final = Everybody()


class _Entered:
    """One entry into a block."""

    __slots__ = ("by", "ended", "outer", "scope", "task")

    def __init__(self, by: "Scope", scope: UUID | Everybody) -> None:
        self.by = by
        self.scope = scope
        self.outer = _innermost()
        self.task = _task()
        self.ended = False


_current: ContextVar[_Entered | None] = ContextVar("multidb_scope", default=None)


def current_scope() -> UUID | Everybody | None:
    """Return the company, EVERYBODY inside `unscoped()`, or None where neither was said."""
    entered = _innermost()
    return None if entered is None else entered.scope


class Scope:
    """Makes `scope` the current one inside a `with` or `async with` block.

    May be entered again, and by several tasks. A generator that enters it runs in its consumer's
    context, and may be closed in another one: then the block has ended for the consumer too, and
    not for the tasks that were started inside it.
    """

    __slots__ = ("_entered", "_scope")

    def __init__(self, scope: UUID | Everybody) -> None:
        self._scope = scope
        self._entered: list[_Entered] = []

    def __enter__(self) -> None:
        entered = _Entered(self, self._scope)
        self._entered.append(entered)
        _current.set(entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = _current.get()
        while entered is not None and (entered.by is not self or entered.ended):
            entered = entered.outer
        if entered is None:
            # It was entered in another context. Of several it is not known which: they stay.
            if len(self._entered) > 1:
                return
            entered = self._entered[0]
        entered.ended = True
        self._entered.remove(entered)
        _current.set(_innermost())

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def _innermost() -> _Entered | None:
    """Return the entry that counts here: the last, but for those that ended for this task."""
    entered = _current.get()
    while entered is not None and entered.ended and entered.task is _task():
        entered = entered.outer
    return entered


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # no event loop runs
