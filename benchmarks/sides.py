"""The calls that are compared, as multidb and as asyncpg make them; SQLAlchemy's stand in `alchemy.py`.

What a call gives: multidb its frozen models, asyncpg and SQLAlchemy Core records, the ORM and
advanced-alchemy mapped objects, detached from their session. Each side opens what it opens once a
call (the ORM a session, Core a connection) and is set up for speed: statements built once where
that can be, no expiry on commit, no refresh after it. Rows that are marked as deleted every call
leaves out, but for the `get` of the ORM and of advanced-alchemy.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from benchmarks.measuring import OURS
from multidb import MultiDB, NewUser

__all__ = ["COLUMNS", "PREFETCH", "Asyncpg", "Ours", "Side", "Values"]

#: What is read of a user.
COLUMNS = "id, created_at, updated_at, version, email, name, deleted_at"
#: Rows a round trip of `stream`: as many as multidb takes.
PREFETCH = 1000


class Values(NamedTuple):
    """A user to add, as it is before any side has made something of it."""

    id: UUID
    email: str
    name: str

    @property
    def by_column(self) -> dict[str, Any]:
        """The values of its row."""
        return {**self._asdict(), "email_folded": self.email.casefold()}


class Side(ABC):
    """One of those that are compared."""

    name: str

    @abstractmethod
    async def get(self, id: UUID) -> object:
        """Return the user with this id."""

    @abstractmethod
    async def add(self, new: Values) -> object:
        """Store a user, committed, and return it as it is stored."""

    @abstractmethod
    def prepared(self, new: Sequence[Values]) -> Any:
        """Return users the way `add_many` takes them: made before the clock runs."""

    @abstractmethod
    async def add_many(self, prepared: Any) -> object:
        """Store users, all in one transaction."""

    @abstractmethod
    async def find(self, name: str, limit: int) -> Sequence[object]:
        """Return the first users of this name, in the order of their ids."""

    @abstractmethod
    async def count(self, name: str) -> int:
        """Return how many users have this name."""

    @abstractmethod
    async def exists(self, id: UUID) -> bool:
        """Return whether there is a user with this id."""

    @abstractmethod
    def stream(self) -> AsyncGenerator[object]:
        """Yield every user, a thousand a round trip."""

    # Not every side is asked for these two, and who is not has none.

    async def update(self, id: UUID, name: str) -> object:
        """Give a user another name, committed, and return it as it is stored."""
        raise NotImplementedError

    async def offset(self, start: int, limit: int) -> Sequence[object]:
        """Return a page as the peers find it: by counting off those before it."""
        raise NotImplementedError


class Ours(Side):
    """multidb. Gives `User`."""

    name = OURS

    def __init__(self, db: MultiDB) -> None:
        self.db = db

    async def get(self, id: UUID) -> object:
        return await self.db.users.get(id)

    async def add(self, new: Values) -> object:
        return await self.db.users.add(NewUser(**new._asdict()))

    def prepared(self, new: Sequence[Values]) -> Any:
        return [NewUser(**each._asdict()) for each in new]

    async def add_many(self, prepared: Any) -> object:
        return await self.db.users.add_many(prepared)

    async def find(self, name: str, limit: int) -> Sequence[object]:
        return (await self.db.users.find(name=name, limit=limit)).items

    async def count(self, name: str) -> int:
        return await self.db.users.count(name=name)

    async def exists(self, id: UUID) -> bool:
        return await self.db.users.exists(id=id)

    async def update(self, id: UUID, name: str) -> object:
        return await self.db.users.update(id, name=name)

    async def stream(self) -> AsyncGenerator[object]:
        async for user in self.db.users.stream():
            yield user


class Asyncpg(Side):
    """asyncpg's own pool. Gives `asyncpg.Record`; without `reset`, a round trip a call less."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", name: str = "asyncpg") -> None:
        self.name = name
        self._pool = pool

    async def get(self, id: UUID) -> object:
        return await self._pool.fetchrow(
            f"SELECT {COLUMNS} FROM users WHERE id = $1 AND deleted_at IS NULL", id
        )

    async def add(self, new: Values) -> object:
        return await self._pool.fetchrow(
            f"INSERT INTO users (id, email, name, email_folded) VALUES ($1, $2, $3, $4) RETURNING {COLUMNS}",
            *new.by_column.values(),
        )

    def prepared(self, new: Sequence[Values]) -> Any:
        return [tuple(each.by_column.values()) for each in new]

    async def add_many(self, prepared: Any) -> object:
        return await self._pool.copy_records_to_table(
            "users", records=prepared, columns=["id", "email", "name", "email_folded"]
        )

    async def find(self, name: str, limit: int) -> Sequence[object]:
        return await self._pool.fetch(
            f"SELECT {COLUMNS} FROM users WHERE name = $1 AND deleted_at IS NULL ORDER BY id LIMIT $2",
            name,
            limit,
        )

    async def count(self, name: str) -> int:
        counted: int = await self._pool.fetchval(
            "SELECT count(*) FROM users WHERE name = $1 AND deleted_at IS NULL", name
        )
        return counted

    async def exists(self, id: UUID) -> bool:
        found: bool = await self._pool.fetchval(
            "SELECT EXISTS (SELECT FROM users WHERE id = $1 AND deleted_at IS NULL)", id
        )
        return found

    async def update(self, id: UUID, name: str) -> object:
        return await self._pool.fetchrow(
            "UPDATE users SET name = $2, version = version + 1, updated_at = now() "
            f"WHERE id = $1 AND deleted_at IS NULL RETURNING {COLUMNS}",
            id,
            name,
        )

    async def stream(self) -> AsyncGenerator[object]:
        query = f"SELECT {COLUMNS} FROM users WHERE deleted_at IS NULL ORDER BY id"
        async with self._pool.acquire() as connection, connection.transaction():
            async for row in connection.cursor(query, prefetch=PREFETCH):
                yield row

    async def offset(self, start: int, limit: int) -> Sequence[object]:
        return await self._pool.fetch(
            f"SELECT {COLUMNS} FROM users WHERE deleted_at IS NULL ORDER BY id LIMIT $1 OFFSET $2",
            limit,
            start,
        )
