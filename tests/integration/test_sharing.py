"""Concurrent calls share round trips, and nothing else."""

import asyncio

import pytest

from multidb import DataError, MultiDB, NewUser, UnavailableError, User, uuid7


@pytest.fixture
async def users(db: MultiDB) -> list[User]:
    new = [NewUser(email=f"{n}@example.com", name=f"User {n}") for n in range(200)]
    await db.users.add_many(new)
    found = await db.users.get_many(each.id for each in new)
    return [found[each.id] for each in new]


async def test_gets_that_meet_become_few_statements(db: MultiDB, users: list[User], statements: list[str]):
    with db.uncached():
        found = await asyncio.gather(*(db.users.get(user.id) for user in users), db.users.get(uuid7()))
    assert found == [*users, None]
    assert len(statements) < 10
    assert sum("ANY" in sql.upper() for sql in statements) >= 1


async def test_a_lone_get_is_one_statement_for_one_row(db: MultiDB, users: list[User], statements: list[str]):
    with db.uncached():
        assert await db.users.get(users[0].id) == users[0]
    assert len(statements) == 1
    assert "ANY" not in statements[0].upper()


async def test_what_a_transaction_sees_is_told_to_nobody_else(db: MultiDB, users: list[User]):
    """A get inside a transaction never rides with others, and others never in it."""
    target = users[0]
    written, read = asyncio.Event(), asyncio.Event()

    async def writer() -> None:
        async with db.transaction():
            await db.users.update(target.id, name="Not yet")
            written.set()
            for _ in range(20):
                assert (await db.users.fetch(target.id)).name == "Not yet"
            await read.wait()

    async def reader() -> None:
        await written.wait()
        with db.uncached():
            for _ in range(20):
                assert await db.users.get(target.id) == target

    writing = asyncio.create_task(writer())
    await asyncio.gather(*(reader() for _ in range(20)))
    read.set()
    await writing
    assert (await db.users.fetch(target.id)).name == "Not yet"


async def test_cancelled_callers_leave_the_others_their_rows(db: MultiDB, users: list[User]):
    with db.uncached():
        tasks = [asyncio.create_task(db.users.get(user.id)) for user in users]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for n, (user, outcome) in enumerate(zip(users, outcomes, strict=True)):
        assert isinstance(outcome, asyncio.CancelledError) if n % 3 == 0 else outcome == user
    usage = db.postgres.pool_usage()
    assert usage is not None
    assert usage.in_use == 0


async def test_a_value_that_no_column_holds_is_one_callers_alone(db: MultiDB, users: list[User]):
    emails = ["0@example.com", "1@example.com", "\0", "nobody@example.com"] * 3
    told = await asyncio.gather(*(db.users.exists(email=each) for each in emails), return_exceptions=True)
    for email, each in zip(emails, told, strict=True):
        assert isinstance(each, DataError) if email == "\0" else each is ("nobody" not in email)


async def test_when_the_trip_fails_each_caller_is_told(db: MultiDB, users: list[User]):
    async with db.postgres.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE users RENAME TO away")
    with db.uncached():
        outcomes = await asyncio.gather(
            *(db.users.get(user.id) for user in users[:50]), return_exceptions=True
        )
    assert {getattr(each, "operation", None) for each in outcomes} == {"users.get"}
    assert not any(isinstance(each, UnavailableError) for each in outcomes)
    assert len({id(each) for each in outcomes}) == 50
    async with db.postgres.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE away RENAME TO users")
    with db.uncached():
        assert await asyncio.gather(*(db.users.get(user.id) for user in users)) == users
