"""The peers, each with a pool of ten connections of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.alchemy import AdvancedAlchemy, Core, Orm
from benchmarks.sides import Asyncpg, Side
from multidb.settings import Settings
from multidb.stores.postgres.engine import dsn

__all__ = ["POOL", "peers"]

POOL = 10


@asynccontextmanager
async def peers(settings: Settings, *, advanced_alchemy: bool) -> AsyncIterator[dict[str, Side]]:
    """Yield the peers by name, their connections open; advanced-alchemy only if it is asked for."""
    url = dsn(settings.postgres_url)
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=POOL, max_overflow=0
    )
    try:
        async with (
            asyncpg.create_pool(url, min_size=POOL, max_size=POOL) as pool,
            asyncpg.create_pool(url, min_size=POOL, max_size=POOL, reset=_leave_as_it_is) as unreset,
        ):
            sides: list[Side] = [
                Asyncpg(pool),
                Asyncpg(unreset, "asyncpg, no reset"),
                Core(engine),
                Orm(engine),
            ]
            if advanced_alchemy:
                sides.append(AdvancedAlchemy(engine))
            yield {side.name: side for side in sides}
    finally:
        await engine.dispose()


async def _leave_as_it_is(_: object) -> None:
    """Reset nothing, as multidb's pool does."""
