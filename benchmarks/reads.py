"""`users.get` against the drivers: both in turn, in one process, on the same servers.

    .venv/bin/python benchmarks/reads.py [--seconds 0.7] [--rounds 5]

Starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL. Each round measures
the peer and then ours; the table gives the medians, and the ratio of the medians. On shared cores a
ratio varies by a tenth.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg
import sqlalchemy as sa
from redis.asyncio import BlockingConnectionPool, Redis

from multidb import MultiDB, NewUser
from multidb.ops import migrations
from multidb.settings import Settings
from multidb.stores.postgres.engine import dsn
from multidb.stores.postgres.tables import users
from multidb.testing import empty_database, isolated, servers

ROWS = 5_000
COLUMNS = "id, created_at, updated_at, version, email, name, deleted_at"

Get = Callable[[UUID], Awaitable[object]]


async def rate(get: Get, ids: Sequence[UUID], *, tasks: int, seconds: float) -> float:
    """Return how many gets a second so many tasks make, each of ids of its own."""
    done = 0
    end = time.perf_counter() + seconds

    async def work(start: int) -> None:
        nonlocal done
        position = start
        while time.perf_counter() < end:
            await get(ids[position % len(ids)])
            position += tasks
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work(n) for n in range(tasks)))
    return done / (time.perf_counter() - began)


async def compare(
    name: str, peer: Get, ours: Get, ids: Sequence[UUID], *, tasks: int, arguments: argparse.Namespace
) -> None:
    """Measure both in turn, and print the medians and their ratio."""
    peers: list[float] = []
    own: list[float] = []
    for _ in range(arguments.rounds):
        peers.append(await rate(peer, ids, tasks=tasks, seconds=arguments.seconds))
        own.append(await rate(ours, ids, tasks=tasks, seconds=arguments.seconds))
    theirs, mine = statistics.median(peers), statistics.median(own)
    print(f"| {name} | {tasks} | {theirs:,.0f} | {mine:,.0f} | {mine / theirs:.2f} |", flush=True)


async def measure(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the whole table."""
    async with MultiDB(settings) as db:
        new = [NewUser(email=f"{n}@example.com", name=f"User {n}") for n in range(ROWS)]
        await db.users.add_many(new)
        ids = [user.id for user in new]
        pool = await asyncpg.create_pool(dsn(settings), min_size=10, max_size=10)
        redis = Redis.from_pool(
            BlockingConnectionPool.from_url(settings.redis_url.get_secret_value(), max_connections=50)
        )
        by_id = sa.select(users).where(users.c.id == sa.bindparam("id"))

        async def fetchrow(id: UUID) -> object:
            return await pool.fetchrow(
                f"SELECT {COLUMNS} FROM users WHERE id = $1 AND deleted_at IS NULL",
                id,
            )

        async def core(id: UUID) -> object:
            async with db.postgres.engine.connect() as connection:
                return (await connection.execute(by_id, {"id": id})).one()

        async def redis_get(id: UUID) -> object:
            return await redis.get(f"{settings.key_prefix}cache:user:{{{id}}}")

        print("| uncached, against | tasks | peer/s | ours/s | ratio |\n|---|---|---|---|---|")
        with db.uncached():
            for tasks in (1, 4, 16, 64, 256):
                await compare(
                    "asyncpg fetchrow", fetchrow, db.users.get, ids, tasks=tasks, arguments=arguments
                )
            for tasks in (1, 64):
                await compare("SQLAlchemy Core", core, db.users.get, ids, tasks=tasks, arguments=arguments)
        for id in ids:
            await db.users.get(id)
        print("\n| cached, against | tasks | peer/s | ours/s | ratio |\n|---|---|---|---|---|")
        for tasks in (1, 64):
            await compare("redis-py GET", redis_get, db.users.get, ids, tasks=tasks, arguments=arguments)
        await redis.aclose()
        await pool.close()


def main() -> None:
    """Start what is needed, measure, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.7, help="how long each measurement takes")
    parser.add_argument("--rounds", type=int, default=5, help="how many of each")
    arguments = parser.parse_args()

    async def run(template: Settings) -> None:
        async with isolated(template) as settings:
            await measure(settings, arguments)

    with servers() as admin, empty_database(admin) as template:
        migrations.upgrade(template)
        asyncio.run(run(template))


if __name__ == "__main__":
    main()
