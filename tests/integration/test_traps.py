"""What other repositories of this kind do to their callers, and this one must not.

Each was reproduced with advanced-alchemy 1.12. Some have their tests elsewhere: that a fill which was
loaded before a write is not kept, in `test_cache.py`; that a savepoint rolled back leaves the outer
transaction usable, and what happens at its end otherwise, in `test_transactions.py`.
"""

import asyncio
from typing import Any

import pytest

from multidb import (
    AlreadyExistsError,
    ConflictError,
    ConstraintError,
    MultiDB,
    NewUser,
    TransactionError,
    User,
)


@pytest.fixture
async def ada(db: MultiDB) -> User:
    return await db.users.add(NewUser(email="ada@example.com", name="Ada"))


@pytest.fixture
async def bob(db: MultiDB) -> User:
    return await db.users.add(NewUser(email="bob@example.com", name="Bob"))


async def test_a_deadlock_is_a_conflict_to_be_tried_again(db: MultiDB, ada: User, bob: User):
    """There it is an IntegrityError, as if the data were at fault."""
    both_hold = asyncio.Barrier(2)

    async def write(first: User, second: User) -> None:
        async with db.transaction():
            await db.users.update(first.id, name="First")
            await both_hold.wait()
            await db.users.update(second.id, name="Second")

    outcomes = await asyncio.gather(write(ada, bob), write(bob, ada), return_exceptions=True)
    (error,) = [each for each in outcomes if each is not None]
    assert isinstance(error, ConflictError)
    assert not isinstance(error, ConstraintError)
    assert error.retryable
    assert error.operation == "users.update"
    assert "deadlock" in str(error)


async def test_after_a_duplicate_the_next_call_says_what_to_do(db: MultiDB, ada: User):
    """There it says "An invalid request was made"."""
    with pytest.raises(
        TransactionError, match=r"has failed already; roll it back .* in a savepoint of its own"
    ):
        async with db.transaction():
            with pytest.raises(AlreadyExistsError):
                await db.users.add(NewUser(email="ADA@example.com", name="Ada"))
            await db.users.count()


async def test_a_savepoint_around_a_duplicate_keeps_the_transaction(db: MultiDB, ada: User):
    async with db.transaction():
        with pytest.raises(AlreadyExistsError):
            async with db.transaction():
                await db.users.add(NewUser(email="ADA@example.com", name="Ada"))
        await db.users.add(NewUser(email="bob@example.com", name="Bob"))
    assert await db.users.count() == 2


async def test_an_entity_that_is_cached_is_read_from_the_cache(db: MultiDB, ada: User, statements: list[str]):
    """There it takes an option of the session, off by default, and nothing tells that it is off."""
    for _ in range(3):
        assert await db.users.get(ada.id) == ada
    assert len(statements) == 1


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_read_after_a_commit_sees_it_however_slow_the_invalidation(
    db: MultiDB, ada: User, monkeypatch: pytest.MonkeyPatch, in_transaction: bool
):
    """There a task that nobody awaits invalidates, and reads are stale until it has."""
    delete = db.redis.delete

    async def slowly(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.05)
        return await delete(*args, **kwargs)

    monkeypatch.setattr(db.redis, "delete", slowly)
    assert await db.users.get(ada.id) == ada
    if in_transaction:
        async with db.transaction():
            await db.users.update(ada.id, name="New")
    else:
        await db.users.update(ada.id, name="New")
    assert (await db.users.fetch(ada.id)).name == "New"


async def test_a_row_read_again_in_its_transaction_is_its_own(db: MultiDB, ada: User):
    """There such a read may go to a replica, which has not got it."""
    async with db.transaction():
        await db.users.get(ada.id)
        new = await db.users.add(NewUser(email="bob@example.com", name="Bob"))
        assert await db.users.get(new.id) == new
        assert (await db.users.update(ada.id, name="New")).name == (await db.users.fetch(ada.id)).name


async def test_what_is_added_comes_back_with_the_statement_that_adds_it(db: MultiDB, statements: list[str]):
    """There the row is read once more, which may fail where the writing did not."""
    added = await db.users.add(NewUser(email="ada@example.com", name="Ada"))
    assert len(statements) == 1
    assert (added.version, added.name) == (1, "Ada")
    await db.users.update(added.id, name="New")
    assert len(statements) == 2


async def test_an_entity_is_a_value_of_no_session(db: MultiDB, ada: User):
    """There it is expired by a commit, and reading a field of it may be I/O, or an error."""
    async with db.transaction():
        changed = await db.users.update(ada.id, name="New")
    await db.close()
    assert (changed.name, changed.version, ada.name) == ("New", 2, "Ada")
    assert hash(changed) != hash(ada)
