"""A table changed while applications run: what they have prepared for it is prepared anew."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from multidb import MultiDB, NewUser, StoreError, Transaction, User
from multidb.settings import Settings
from tests.integration.postgres import raw


@pytest.fixture
async def db(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """One connection only, so that it is the one that has prepared."""
    async with MultiDB(multidb_settings.model_copy(update={"postgres_pool_size": 1})) as opened:
        yield opened


@pytest.fixture
async def ada(db: MultiDB) -> User:
    return await db.users.add(NewUser(email="ada@example.com", name="Ada"))


async def change(db: MultiDB, length: int = 300) -> None:
    """Change what every statement returns of a user's name, from another connection."""
    async with raw(db.settings) as connection:
        await connection.execute(f"ALTER TABLE users ALTER COLUMN name TYPE varchar({length})")


CALLS: list[Callable[[MultiDB, User], Awaitable[Any]]] = [
    lambda db, user: db.users.fetch(user.id),
    lambda db, user: db.users.get_many([user.id]),
    lambda db, user: db.users.find(name="Ada"),
    lambda db, user: db.users.add(NewUser(email=f"{user.version}@example.com", name="Bob")),
    lambda db, user: db.users.update(user.id, name="Ada"),
    lambda db, user: db.users.update_many(name="Ada", changes={"name": "Ada"}),
    lambda db, user: db.users.upsert(NewUser(email="ada@example.com", name="Ada"), on="email"),
    lambda db, user: db.users.delete(user.id),
    lambda db, user: db.users.restore(user.id),
]


async def test_outside_a_transaction_nobody_sees_it(db: MultiDB, ada: User):
    with db.uncached():
        for length, call in enumerate(CALLS, 300):
            await call(db, ada)
            await change(db, length)
            await call(db, ada.model_copy(update={"version": 2}))
    assert (await db.users.fetch(ada.id)).name == "Ada"


async def test_a_transaction_fails_for_it_and_may_be_repeated(db: MultiDB, ada: User):
    await db.users.update(ada.id, name="Prepared")
    with pytest.raises(StoreError, match="the schema changed under a prepared statement") as caught:
        async with db.transaction():
            await change(db)
            await db.users.update(ada.id, name="Never")
    assert caught.value.retryable
    async with db.transaction():
        await db.users.update(ada.id, name="Again")
    assert (await db.users.fetch(ada.id)).name == "Again"


async def test_run_transaction_replays_it_from_the_start(db: MultiDB, ada: User):
    await db.users.update(ada.id, name="Prepared")
    runs = 0
    committed: list[int] = []

    async def work(transaction: Transaction) -> User:
        nonlocal runs
        runs += 1
        run = runs

        async def remember() -> None:
            committed.append(run)

        transaction.on_commit(remember)
        await db.companies.count()
        if run == 1:
            await change(db)
        return await db.users.update(ada.id, name=f"Run {run}")

    assert (await db.run_transaction(work)).name == "Run 2"
    assert runs == 2
    assert committed == [2]
    assert (await db.users.fetch(ada.id)).version == 3
