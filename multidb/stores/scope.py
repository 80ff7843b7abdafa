"""Whose rows a call is about: one company's, inside `db.tenant(...)`, or everybody's.

Kept in a context variable, so it reaches every call made inside the block, those of tasks started
there included. It is one for all databases: who works for one company does so everywhere.
"""

from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Final
from uuid import UUID

__all__ = ["EVERYBODY", "Everybody", "Scope", "current_scope"]


@dataclass(frozen=True, slots=True)
class Everybody:
    """Said explicitly, by `db.unscoped()`."""


EVERYBODY: Final = Everybody()

_current: ContextVar[UUID | Everybody | None] = ContextVar("multidb_scope", default=None)


def current_scope() -> UUID | Everybody | None:
    """Return the company, EVERYBODY inside `unscoped()`, or None where neither was said."""
    return _current.get()


class Scope:
    """Makes `scope` the current one inside a `with` or `async with` block. May be entered again."""

    __slots__ = ("_scope", "_tokens")

    def __init__(self, scope: UUID | Everybody) -> None:
        self._scope = scope
        self._tokens: list[Token[UUID | Everybody | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_current.set(self._scope))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._tokens.pop())

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
