"""`db.transaction()`: ambient, bound to its task, atomic, and never left open."""

import asyncio
import contextvars
from collections.abc import Coroutine
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from sqlalchemy.exc import DBAPIError

from multidb import (
    AlreadyExistsError,
    ConflictError,
    ConstraintError,
    DataError,
    MultiDB,
    NewJob,
    NewUser,
    StoreTimeoutError,
    Transaction,
    TransactionError,
    UnavailableError,
    User,
)

T = TypeVar("T")


def new_user(n: int = 1) -> NewUser:
    return NewUser(email=f"user{n}@example.com", name=f"User {n}")


@pytest.fixture
async def user(db: MultiDB) -> User:
    return await db.users.add(new_user(0))


def idle(db: MultiDB) -> bool:
    usage = db.postgres.pool_usage()
    assert usage is not None
    return usage.in_use == 0


async def test_it_commits_at_the_end(db: MultiDB):
    async with db.transaction():
        a = await db.users.add(new_user(1))
        b = await db.users.add(new_user(2))
    assert await db.users.get_many([a.id, b.id]) == {a.id: a, b.id: b}
    assert idle(db)


async def test_an_error_rolls_back_and_is_raised_as_it_is(db: MultiDB):
    with pytest.raises(KeyError, match="mine"):
        async with db.transaction():
            await db.users.add(new_user())
            raise KeyError("mine")
    assert await db.users.count() == 0
    assert idle(db)


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), OSError("a file of the caller's")])
async def test_an_error_of_the_callers_own_is_not_taken_for_the_stores(db: MultiDB, error: Exception):
    with pytest.raises(type(error)) as caught:
        async with db.transaction(), db.transaction():
            raise error
    assert caught.value is error


async def test_what_it_wrote_is_seen_inside_only(db: MultiDB, user: User):
    async with db.transaction():
        await db.users.update(user.id, name="Inside")
        assert (await db.users.fetch(user.id)).name == "Inside"
        assert (await outside(db.users.fetch(user.id))).name == user.name
    assert (await db.users.fetch(user.id)).name == "Inside"


async def outside(call: Coroutine[Any, Any, T]) -> T:
    """Await a call in a task that carries no transaction."""
    return await asyncio.create_task(call, context=contextvars.Context())


async def test_a_savepoint_rolls_back_alone(db: MultiDB, user: User):
    async with db.transaction():
        await db.users.update(user.id, name="Outer")
        with pytest.raises(AlreadyExistsError):
            async with db.transaction():
                await db.users.update(user.id, name="Inner")
                await db.users.add(new_user(0))
        assert (await db.users.fetch(user.id)).name == "Outer"
        async with db.transaction():
            await db.users.add(new_user(2))
    assert (await db.users.fetch(user.id)).name == "Outer"
    assert await db.users.count() == 2


async def test_a_failed_statement_outside_a_savepoint_fails_the_transaction(db: MultiDB, user: User):
    with pytest.raises(TransactionError):
        async with db.transaction():
            with pytest.raises(AlreadyExistsError):
                await db.users.add(new_user(0))
            await db.users.update(user.id, name="Never")
    assert await db.users.fetch(user.id) == user


async def test_a_failure_that_was_caught_still_fails_the_transaction(db: MultiDB, user: User):
    """PostgreSQL answers COMMIT with ROLLBACK then, and no error: the row would be gone in silence."""
    with pytest.raises(TransactionError, match="savepoint of its own"):
        async with db.transaction():
            await db.users.add(new_user(1))
            with pytest.raises(AlreadyExistsError):
                await db.users.add(new_user(0))
    assert await db.users.count() == 1
    assert idle(db)


async def test_a_failure_caught_inside_a_savepoint_leaves_the_outer_one_usable(db: MultiDB, user: User):
    async with db.transaction():
        with pytest.raises(TransactionError):
            async with db.transaction():
                await db.users.add(new_user(1))
                with pytest.raises(AlreadyExistsError):
                    await db.users.add(new_user(0))
        await db.users.add(new_user(2))
    assert [each.email for each in await db.users.find(order_by="email")] == [user.email, new_user(2).email]


async def test_a_transaction_on_another_database_does_not_hide_it(db: MultiDB, user: User):
    async with MultiDB(db.settings) as other:
        with pytest.raises(KeyError):
            async with db.transaction(), other.transaction():
                await db.users.update(user.id, name="Never")
                raise KeyError
    assert await db.users.fetch(user.id) == user


async def test_the_hatch_gives_broken_connections_back_too(db: MultiDB):
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    for _ in range(2 * db.settings.postgres_pool_size):
        with pytest.raises(DBAPIError):
            async with db.postgres.engine.connect() as held:
                async with db.transaction() as transaction:
                    await transaction._transaction.connection.execute(kill)
                await held.exec_driver_sql("SELECT 1")
    assert idle(db)
    assert await db.users.count() == 0


async def test_one_failing_action_after_a_commit_does_not_stop_the_others(db: MultiDB, user: User, caplog):
    done: list[str] = []

    async def fails() -> None:
        raise KeyError("an action's own")

    async def works() -> None:
        done.append("works")

    async with db.transaction():
        await db.users.update(user.id, name="New")
        await db.postgres.transactions.after_commit(fails)
        await db.postgres.transactions.after_commit(works)
    assert done == ["works"]
    assert "an action after a commit failed" in caplog.text
    assert (await db.users.fetch(user.id)).name == "New"


async def test_another_task_cannot_use_it(db: MultiDB, user: User):
    async with db.transaction():
        with pytest.raises(TransactionError, match="belongs to another task"):
            await asyncio.create_task(db.users.fetch(user.id))
        with pytest.raises(TransactionError, match="belongs to another task"):
            await asyncio.gather(db.users.update(user.id, name="x"))
        assert await db.users.fetch(user.id) == user


async def test_a_task_that_outlives_it_is_on_its_own(db: MultiDB, user: User):
    ended = asyncio.Event()

    async def later() -> User:
        await ended.wait()
        return await db.users.update(user.id, name="Later")

    async with db.transaction():
        task = asyncio.create_task(later())
    ended.set()
    assert (await task).name == "Later"


async def test_two_databases_do_not_share_it(db: MultiDB, user: User):
    async with MultiDB(db.settings) as other, db.transaction():
        await db.users.update(user.id, name="Mine")
        assert (await other.users.fetch(user.id)).name == user.name


async def test_tasks_have_transactions_of_their_own(db: MultiDB, user: User):
    async def rename(n: int) -> None:
        async with db.transaction():
            current = await db.users.fetch(user.id)
            await db.users.update(user.id, name=f"{current.name}+{n}")

    await asyncio.gather(*(rename(n) for n in range(20)))
    assert (await db.users.fetch(user.id)).version == 21
    assert idle(db)


@pytest.mark.parametrize("nested", [False, True])
async def test_a_cancellation_inside_rolls_back_and_gives_the_connection_back(db: MultiDB, nested: bool):
    inside = asyncio.Event()

    async def work() -> None:
        async with db.transaction():
            await db.users.add(new_user(1))
            if nested:
                async with db.transaction():
                    inside.set()
                    await asyncio.Event().wait()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.users.count() == 0
    assert idle(db)


async def test_a_cancelled_statement_gives_the_connection_back(db: MultiDB, user: User):
    """A row lock holds the update; cancelling it must not leave its connection in use or broken."""
    for _ in range(2 * db.settings.postgres_pool_size):
        async with db.transaction():
            await db.users.update(user.id, name="Held")
            update = asyncio.create_task(outside(db.users.update(user.id, name="Waiting")))
            await until_waiting_for_a_lock(db)
            update.cancel()
            with pytest.raises(asyncio.CancelledError):
                await update
    assert idle(db)
    assert (await db.users.fetch(user.id)).name == "Held"


async def until_waiting_for_a_lock(db: MultiDB) -> None:
    async def waiting() -> bool:
        async with db.postgres.engine.connect() as connection:
            waiting = await connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            return bool(waiting.scalar())

    async with asyncio.timeout(30):
        while not await outside(waiting()):
            pass


async def test_a_connection_killed_inside_is_unavailable_and_replaced(db: MultiDB, user: User):
    with pytest.raises(UnavailableError):
        async with db.transaction():
            await db.users.update(user.id, name="Never")
            async with db.postgres.engine.connect() as connection:
                await connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            await db.users.update(user.id, name="Never again")
    assert await db.users.fetch(user.id) == user
    assert idle(db)


async def test_a_commit_that_is_refused_is_told(db: MultiDB):
    """A deferred constraint is checked by COMMIT itself."""
    async with db.postgres.engine.begin() as connection:
        await connection.exec_driver_sql(
            "CREATE TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); "
        )
        await connection.exec_driver_sql("INSERT INTO deferred VALUES (1)")
    with pytest.raises(ConstraintError) as caught:
        async with db.transaction() as transaction:
            await db.users.add(new_user())
            await transaction._transaction.connection.execute("INSERT INTO deferred VALUES (1)")
    assert caught.value.operation == "transaction"
    assert await db.users.count() == 0
    assert idle(db)


# --- options, and what follows a commit


async def test_a_serialization_failure_is_replayed_from_the_start(db: MultiDB, user: User):
    """Two read what the other is about to write: one of them must run again."""
    other = await db.users.add(new_user(1))
    runs: list[str] = []
    both_have_read = asyncio.Barrier(2)

    async def copy_name(source: User, target: User) -> User:
        runs.append(target.email)
        name = (await db.users.fetch(source.id)).name
        if len(runs) <= 2:
            await both_have_read.wait()
        return await db.users.update(target.id, name=name)

    await asyncio.gather(
        db.run_transaction(lambda: copy_name(user, other), isolation="serializable"),
        db.run_transaction(lambda: copy_name(other, user), isolation="serializable"),
    )
    assert len(runs) == 3
    names = {(await db.users.fetch(each.id)).name for each in (user, other)}
    assert len(names) == 1
    assert idle(db)


async def test_a_deadlock_is_replayed(db: MultiDB, user: User):
    other = await db.users.add(new_user(1))
    runs = 0
    both_hold = asyncio.Barrier(2)

    async def lock(first: User, second: User) -> None:
        nonlocal runs
        runs += 1
        await db.users.update(first.id, name="x")
        if runs <= 2:
            await both_hold.wait()
        await db.users.update(second.id, name="y")

    await asyncio.gather(
        db.run_transaction(lambda: lock(user, other)), db.run_transaction(lambda: lock(other, user))
    )
    assert runs == 3
    assert {(await db.users.fetch(each.id)).version for each in (user, other)} == {3}


async def test_what_no_replay_can_mend_is_raised_at_once(db: MultiDB, user: User):
    runs = 0

    async def stale() -> None:
        nonlocal runs
        runs += 1
        await db.users.update(user.id, name="x", version=7)

    with pytest.raises(ConflictError):
        await db.run_transaction(stale)
    assert runs == 1


async def test_replays_end_after_so_many_attempts(db: MultiDB):
    runs = 0

    async def always() -> None:
        nonlocal runs
        runs += 1
        raise ConflictError("as a serialization failure is told", retryable=True)

    with pytest.raises(ConflictError) as caught:
        await db.run_transaction(always, attempts=3)
    assert caught.value.retryable
    assert runs == 3
    with pytest.raises(DataError, match="`attempts`"):
        await db.run_transaction(always, attempts=0)


async def test_inside_a_transaction_only_the_whole_is_replayed(db: MultiDB):
    runs = 0

    async def inner(transaction: Transaction) -> None:
        nonlocal runs
        runs += 1
        assert transaction.depth == 1
        if runs == 1:
            raise ConflictError("as a deadlock is told", retryable=True)

    async def outer() -> str:
        await db.run_transaction(inner)
        return "done"

    with pytest.raises(ConflictError):
        async with db.transaction():
            await db.run_transaction(inner)
    assert runs == 1
    runs = 0
    assert await db.run_transaction(outer) == "done"
    assert runs == 2


async def test_read_only_refuses_writes(db: MultiDB, user: User):
    with pytest.raises(TransactionError):
        async with db.transaction(read_only=True):
            assert await db.users.fetch(user.id) == user
            await db.users.update(user.id, name="Never")
    assert await db.users.fetch(user.id) == user


async def test_repeatable_read_sees_one_moment(db: MultiDB, user: User):
    async with db.transaction(isolation="repeatable read"):
        assert await db.users.count() == 1
        await outside(db.users.add(new_user(1)))
        assert await db.users.count() == 1
    assert await db.users.count() == 2


async def test_a_transaction_that_takes_too_long_is_rolled_back(db: MultiDB, user: User):
    with pytest.raises(StoreTimeoutError):
        async with asyncio.timeout(30), db.transaction(timeout=timedelta(milliseconds=50)):
            await db.users.update(user.id, name="Never")
            await asyncio.Event().wait()
    assert await db.users.fetch(user.id) == user
    assert idle(db)


async def test_an_isolation_there_is_not_is_refused(db: MultiDB):
    with pytest.raises(DataError, match="`isolation` must be one of read committed"):
        async with db.transaction(isolation="dirty"):  # type: ignore[arg-type]
            pass
    assert idle(db)


async def test_what_is_given_to_it_of_the_wrong_type_is_refused_by_name(db: MultiDB):
    async def work(name: str) -> str:
        return name

    given: Any
    for given in (
        {"timeout": 5},
        {"actor": 5},
        {"request_id": 5},
        {"read_only": "no"},
        {"isolation": ["serializable"]},
    ):
        with pytest.raises(DataError, match=f"`{next(iter(given))}`"):
            async with db.transaction(**given):
                pass
    for given in ("3", 2.5, True, 0):
        with pytest.raises(DataError, match="`attempts`"):
            await db.run_transaction(partial(work, "a"), attempts=given)
    given = None
    with pytest.raises(DataError, match="`work`"):
        await db.run_transaction(given)
    assert await db.run_transaction(partial(work, name="a")) == "a"
    assert idle(db)


async def test_options_belong_to_the_outermost(db: MultiDB):
    async with db.transaction():
        with pytest.raises(TransactionError, match="savepoint"):
            async with db.transaction(isolation="serializable"):
                pass
        assert await db.users.count() == 0


async def test_on_commit_runs_after_the_commit_in_order_and_only_then(db: MultiDB, user: User):
    seen: list[str] = []

    def record(name: str):
        async def action() -> None:
            # By now it is committed, and no transaction is ambient.
            seen.append(f"{name}: {(await outside(db.users.fetch(user.id))).name}")

        return action

    async with db.transaction() as transaction:
        transaction.on_commit(record("first"))
        await db.users.update(user.id, name="New")
        async with db.transaction() as kept:
            kept.on_commit(record("second"))
        with pytest.raises(KeyError):
            async with db.transaction() as undone:
                undone.on_commit(record("never"))
                raise KeyError
        assert seen == []
    assert seen == ["first: New", "second: New"]

    with pytest.raises(KeyError):
        async with db.transaction() as transaction:
            transaction.on_commit(record("never"))
            raise KeyError
    assert len(seen) == 2


@pytest.mark.parametrize("place", ["the commit", "the first"])
async def test_a_cancellation_takes_no_action_after_the_commit_away(db: MultiDB, place: str):
    seen: list[str] = []

    async def first() -> None:
        seen.append("first")
        if place == "the first":
            task.cancel()
            await asyncio.sleep(60)

    async def second() -> None:
        seen.append("second")

    async def work() -> None:
        async with db.transaction() as transaction:
            transaction.on_commit(first)
            transaction.on_commit(second)
            await db.jobs.enqueue(NewJob(queue="q", kind="k", payload={}))  # which no cache is told of
            if place == "the commit":
                asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["first", "second"]
    assert await db.jobs.count() == 1
    assert idle(db)
