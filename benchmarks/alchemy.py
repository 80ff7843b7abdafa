"""The calls that are compared, as SQLAlchemy Core, its ORM and advanced-alchemy make them."""

import importlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase

from benchmarks.sides import COLUMNS, PREFETCH, Side, Values
from multidb.stores.postgres.tables import users

__all__ = ["AdvancedAlchemy", "Core", "Orm"]


class Core(Side):
    """SQLAlchemy Core, a connection of the engine's pool a call. Gives `sqlalchemy.Row`."""

    name = "SQLAlchemy Core"

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        columns = [users.c[name] for name in COLUMNS.split(", ")]
        living = sa.select(*columns).where(users.c.deleted_at.is_(None))
        by_id = living.where(users.c.id == sa.bindparam("id"))
        by_name = living.where(users.c.name == sa.bindparam("name"))
        self._get = by_id
        self._add = sa.insert(users).returning(*columns)
        self._page = by_name.order_by(users.c.id).limit(sa.bindparam("limit"))
        self._count = by_name.with_only_columns(sa.func.count())
        self._exists = sa.select(by_id.exists())
        self._all = living.order_by(users.c.id)

    async def get(self, id: UUID) -> object:
        async with self._engine.connect() as connection:
            return (await connection.execute(self._get, {"id": id})).one_or_none()

    async def add(self, new: Values) -> object:
        async with self._engine.begin() as connection:
            return (await connection.execute(self._add, new.by_column)).one()

    def prepared(self, new: Sequence[Values]) -> Any:
        return [each.by_column for each in new]

    async def add_many(self, prepared: Any) -> object:
        async with self._engine.begin() as connection:
            return await connection.execute(sa.insert(users), prepared)

    async def find(self, name: str, limit: int) -> Sequence[object]:
        async with self._engine.connect() as connection:
            return (await connection.execute(self._page, {"name": name, "limit": limit})).all()

    async def count(self, name: str) -> int:
        async with self._engine.connect() as connection:
            return int((await connection.execute(self._count, {"name": name})).scalar_one())

    async def exists(self, id: UUID) -> bool:
        async with self._engine.connect() as connection:
            return bool((await connection.execute(self._exists, {"id": id})).scalar_one())

    async def stream(self) -> AsyncGenerator[object]:
        async with self._engine.connect() as connection:
            async for row in await connection.stream(self._all, execution_options={"yield_per": PREFETCH}):
                yield row

    async def offset(self, start: int, limit: int) -> Sequence[object]:
        async with self._engine.connect() as connection:
            return (await connection.execute(self._all.limit(limit).offset(start))).all()


class Base(DeclarativeBase):
    """What the mapped class derives from."""


class Account(Base):
    """The table `users`, mapped."""

    __table__ = users


_LIVING = users.c.deleted_at.is_(None)


class Orm(Side):
    """SQLAlchemy's ORM, a session a call. Gives mapped objects."""

    name = "SQLAlchemy ORM"

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._session: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)

    async def get(self, id: UUID) -> object:
        async with self._session() as session:
            return await session.get(Account, id)

    async def add(self, new: Values) -> object:
        account = Account(**new.by_column)
        async with self._session() as session:
            session.add(account)
            await session.commit()
        return account

    def prepared(self, new: Sequence[Values]) -> Any:
        return [Account(**each.by_column) for each in new]

    async def add_many(self, prepared: Any) -> object:
        async with self._session() as session:
            session.add_all(prepared)
            await session.commit()
        return prepared

    async def find(self, name: str, limit: int) -> Sequence[object]:
        query = sa.select(Account).where(_LIVING, users.c.name == name).order_by(users.c.id).limit(limit)
        async with self._session() as session:
            return (await session.scalars(query)).all()

    async def count(self, name: str) -> int:
        query = sa.select(sa.func.count()).select_from(Account).where(_LIVING, users.c.name == name)
        async with self._session() as session:
            return int((await session.scalars(query)).one())

    async def exists(self, id: UUID) -> bool:
        query = sa.select(sa.select(Account).where(_LIVING, users.c.id == id).exists())
        async with self._session() as session:
            return bool((await session.scalars(query)).one())

    async def stream(self) -> AsyncGenerator[object]:
        query = sa.select(Account).where(_LIVING).order_by(users.c.id)
        async with self._session() as session:
            rows = await session.stream_scalars(query, execution_options={"yield_per": PREFETCH})
            async for account in rows:
                yield account

    async def offset(self, start: int, limit: int) -> Sequence[object]:
        query = sa.select(Account).where(_LIVING).order_by(users.c.id).limit(limit).offset(start)
        async with self._session() as session:
            return (await session.scalars(query)).all()


class AdvancedAlchemy(Orm):
    """advanced-alchemy's repository, a session and a repository a call. Gives mapped objects."""

    name = "advanced-alchemy"

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        # Not installed where nobody measures, so its types are not known there.
        base = importlib.import_module("advanced_alchemy.repository").SQLAlchemyAsyncRepository
        self._repository: Any = type("AccountRepository", (base,), {"model_type": Account})
        self._limited: Any = importlib.import_module("advanced_alchemy.filters").LimitOffset

    async def get(self, id: UUID) -> object:
        async with self._session() as session:
            return await self._repository(session=session).get(id)

    async def add(self, new: Values) -> object:
        async with self._session() as session:
            repository = self._repository(session=session, auto_commit=True, auto_refresh=False)
            return await repository.add(Account(**new.by_column))

    async def add_many(self, prepared: Any) -> object:
        async with self._session() as session:
            return await self._repository(session=session, auto_commit=True).add_many(prepared)

    async def find(self, name: str, limit: int) -> Sequence[object]:
        return await self._many(_LIVING, self._limited(limit, 0), name=name)

    async def count(self, name: str) -> int:
        async with self._session() as session:
            return int(await self._repository(session=session).count(_LIVING, name=name))

    async def exists(self, id: UUID) -> bool:
        async with self._session() as session:
            return bool(await self._repository(session=session).exists(_LIVING, id=id))

    async def offset(self, start: int, limit: int) -> Sequence[object]:
        return await self._many(_LIVING, self._limited(limit, start))

    async def _many(self, *filters: Any, **equal: Any) -> Sequence[object]:
        async with self._session() as session:
            repository = self._repository(session=session, order_by=("id", False))
            found: Sequence[object] = await repository.get_many(*filters, **equal)
            return found
