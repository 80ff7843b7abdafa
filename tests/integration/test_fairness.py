"""Many callers on few connections: each in its turn."""

import asyncio

from multidb import MultiDB, NewUser
from multidb.settings import Settings


async def test_connections_go_round_in_the_order_of_asking(multidb_settings: Settings):
    """One that was given back must not go to whoever asks just then, past those who wait."""
    callers, calls = 32, 20
    served = [0] * callers
    apart: list[int] = []

    async with MultiDB(multidb_settings.model_copy(update={"postgres_pool_size": 3})) as db:
        await db.users.add_many(NewUser(email=f"{n}@example.com", name="Ada") for n in range(50))

        async def work(caller: int) -> None:
            for _ in range(calls):
                await db.users.find(limit=50)
                served[caller] += 1
                apart.append(max(served) - min(served))

        async with asyncio.TaskGroup() as group:
            for caller in range(callers):
                group.create_task(work(caller))
    # With three at work at a time nobody is further ahead, but for the last turns of all.
    assert max(apart) <= 3


async def test_a_turn_is_given_back_whatever_comes_of_it(multidb_settings: Settings):
    settings = multidb_settings.model_copy(update={"postgres_pool_size": 2})
    async with MultiDB(settings) as db:
        for round_ in range(6):
            tasks = [asyncio.create_task(db.users.find(limit=1)) for _ in range(20)]
            await asyncio.sleep(0.001 * round_)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):
            async with db.postgres.engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        # Both connections can be had at once, and the engine's are the same ones.
        async with db.postgres.engine.connect(), db.transaction():
            usage = db.postgres.pool_usage()
            assert usage is not None
            assert usage.in_use == 2
        assert await asyncio.gather(*(db.users.count() for _ in range(5))) == [0] * 5
