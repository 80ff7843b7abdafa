"""What a race may be about: a cache, behind two calls."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol
from uuid import UUID

from multidb.client import MultiDB
from multidb.models.users import NewUser, User
from multidb.settings import Settings

__all__ = ["Between", "RaceSubject", "Users", "dawdle", "users"]

#: Is told the number that is committed at an id, before the invalidation: the process may die there.
Between = Callable[[UUID, int], Awaitable[None]]


class RaceSubject(Protocol):
    """Numbers that only grow, each at an id, in PostgreSQL and behind a cache."""

    async def read(self, id: UUID) -> int:
        """Return the number, through the cache."""
        ...

    async def write(self, id: UUID) -> None:
        """Make it greater and commit; await `between` with what is committed; and invalidate."""
        ...


class Users:
    """Users, whose number is their version: read by `get` and `get_many`, written in every way there is."""

    def __init__(self, db: MultiDB) -> None:
        self.db = db

    async def read(self, id: UUID) -> int:
        """Return the version of a user."""
        if random.random() < 0.1:
            return (await self.db.users.get_many([id]))[id].version
        return (await self.db.users.fetch(id)).version

    async def write(self, id: UUID) -> None:
        """Change a user: alone, by a filter, by an upsert, or in a transaction that undoes a savepoint."""
        db, name = self.db, f"{random.random()}"
        match random.randrange(4):
            case 0:
                await db.users.update(id, name=name)
            case 1:
                await db.users.update_many(id=id, changes={"name": name})
            case 2:
                await db.users.upsert(NewUser(id=id, email=f"{id}@example.com", name=name))
            case _:
                async with db.transaction():
                    await db.users.update(id, name=name)
                    with suppress(_UndoneError):
                        await self._undo(id)

    async def _undo(self, id: UUID) -> None:
        async with self.db.transaction():
            await self.db.users.update(id, name="undone")
            raise _UndoneError


class _UndoneError(Exception):
    pass


@asynccontextmanager
async def users(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """Yield multidb's own: users, as `db.users` caches them."""
    async with MultiDB(settings) as db:
        marks, shared = db.cache._marks, db.users._shared  # noqa: SLF001 - one of our own
        take_back, load = marks.take_back, shared.load

        async def take_back_later(keys: list[str], token: str = "") -> None:
            with db.uncached():
                for id in (UUID(key.rpartition("{")[2].rstrip("}")) for key in keys):
                    await between(id, (await db.users.fetch(id)).version)
            await take_back(keys, token)

        async def load_slowly(id: UUID, company: UUID | None) -> User | None:
            loaded = await load(id, company)
            await dawdle()
            return loaded

        marks.take_back = take_back_later  # type: ignore[method-assign, assignment]
        shared.load = load_slowly  # type: ignore[method-assign]
        yield Users(db)


async def dawdle() -> None:
    """Lose the processor, at times for long: what was loaded is stored later."""
    await asyncio.sleep(random.choice((0, 0, 0, 0.001, 0.05)))
