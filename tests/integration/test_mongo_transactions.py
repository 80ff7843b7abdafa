"""Transactions of MongoDB: all or nothing, one task's, and replayed where that may help."""

import asyncio
import contextvars
from typing import Any

import pytest

from multidb import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    MultiDB,
    NewUser,
    SystemLog,
    TransactionError,
    UnavailableError,
    uuid7,
)
from multidb.settings import Settings
from tests.collections import Events, NewPaper, Papers, open_with_collections
from tests.integration.mongo import lossy

pytestmark = pytest.mark.mongo


@pytest.fixture
async def db(multidb_settings: Settings):
    async with open_with_collections(multidb_settings) as opened:
        yield opened


@pytest.fixture
def papers(db: MultiDB) -> Papers:
    return db[Papers]


class Left(Exception):  # noqa: N818 - it is no error of anybody's
    pass


async def test_what_is_written_inside_is_there_for_others_once_it_commits(db: MultiDB, papers: Papers):
    there = await papers.add(NewPaper(title="before"))
    async with db.mongo_transaction():
        added = await papers.add(NewPaper(title="inside"))
        changed = await papers.update(there.id, title="changed")
        await papers.add_many([NewPaper(), NewPaper()])
        entry = await db.system_logs.append(log())
        assert await papers.get(added.id) == added
        assert await papers.get_many([there.id]) == {there.id: changed}
        assert await papers.count() == 4
        outside = asyncio.create_task(elsewhere(papers, added.id), context=nothing_ambient())
        assert await outside == (None, 1)
    assert await elsewhere(papers, added.id) == (added, 4)
    assert await db.system_logs.exists(id=entry)


async def elsewhere(papers: Papers, id: Any) -> Any:
    return await papers.get(id), await papers.count()


def nothing_ambient() -> contextvars.Context:
    return contextvars.Context()


def log() -> SystemLog:
    return SystemLog(level="info", service="s", message="m")


@pytest.mark.parametrize("error", [Left, asyncio.CancelledError, KeyError])
async def test_an_error_rolls_all_of_it_back(db: MultiDB, papers: Papers, error: type[BaseException]):
    there = await papers.add(NewPaper(title="before"))
    with pytest.raises(error):
        async with db.mongo_transaction():
            await papers.add(NewPaper())
            await papers.update(there.id, title="changed")
            await papers.delete(there.id)
            raise error
    assert [paper async for paper in papers.stream()] == [there]
    assert await papers.update(there.id, title="free") != there


# A connection that PyMongo was making when it was cancelled closes only when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_cancellation_anywhere_inside_rolls_back(db: MultiDB, papers: Papers):
    for turns in range(0, 60, 4):
        task = asyncio.create_task(write_two(db, papers))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        count = await papers.count()
        assert count in {0, 2}
        assert count == 2 or isinstance(outcome, asyncio.CancelledError)
        await papers.delete_many({})
    usage = db.mongo.pool_usage()
    assert usage is not None
    assert usage.in_use == 0


async def test_a_call_that_is_cancelled_inside_ends_before_it_is_rolled_back(
    db: MultiDB, papers: Papers, monkeypatch: pytest.MonkeyPatch
):
    kind = type(db.mongo.database["papers"])
    insert, begun, go_on, landed = kind.insert_one, asyncio.Event(), asyncio.Event(), []

    async def slowly(*arguments: Any, **options: Any) -> Any:
        begun.set()
        await go_on.wait()
        landed.append(await insert(*arguments, **options))
        return landed[0]

    monkeypatch.setattr(kind, "insert_one", slowly)
    task = asyncio.create_task(write_two(db, papers))
    await begun.wait()
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(landed) == 1
    async with asyncio.timeout(30):
        assert await papers.delete_many({}) == 0


async def write_two(db: MultiDB, papers: Papers) -> None:
    async with db.mongo_transaction():
        await papers.add(NewPaper())
        await papers.add(NewPaper())


async def test_nested_it_joins_and_commits_with_the_outermost(db: MultiDB, papers: Papers):
    async with db.mongo_transaction():
        async with db.mongo_transaction():
            await papers.add(NewPaper())
        assert await asyncio.create_task(papers.count(), context=nothing_ambient()) == 0
        await papers.add(NewPaper())
    assert await papers.count() == 2


async def test_an_error_that_leaves_a_nested_block_is_the_end_of_all(db: MultiDB, papers: Papers):
    with pytest.raises(TransactionError, match="rolled back: something in it failed"):
        async with db.mongo_transaction():
            await papers.add(NewPaper())
            with pytest.raises(Left):
                async with db.mongo_transaction():
                    raise Left
    assert await papers.count() == 0


async def test_a_call_that_failed_is_told_at_the_end_if_it_was_caught(db: MultiDB, papers: Papers):
    there = await papers.add(NewPaper(slug="taken"))
    with pytest.raises(TransactionError, match="rolled back: something in it failed"):
        async with db.mongo_transaction():
            await papers.add(NewPaper())
            with pytest.raises(AlreadyExistsError) as caught:
                await papers.add(NewPaper(slug="taken"))
            assert caught.value.columns == ("slug",)
            with pytest.raises(TransactionError, match="count: the transaction was rolled back"):
                await papers.count()
    assert [paper async for paper in papers.stream()] == [there]


async def test_what_never_reached_the_server_is_no_failure(db: MultiDB, papers: Papers):
    async with db.mongo_transaction():
        with pytest.raises(DataError):
            await papers.add(NewPaper(data={"a.b": 1}))
        await papers.add(NewPaper())
    assert await papers.count() == 1


async def test_another_task_is_refused_inside_and_free_after(db: MultiDB, papers: Papers):
    ended = asyncio.Event()

    async def later() -> int:
        await ended.wait()
        return await papers.count()

    async with db.mongo_transaction():
        await papers.add(NewPaper())
        for call in (
            papers.count(),
            papers.add(NewPaper()),
            papers.get(uuid7()),
            db.system_logs.append(log()),
        ):
            with pytest.raises(TransactionError, match="belongs to another task"):
                await asyncio.create_task(call)
        task = asyncio.create_task(later())
    ended.set()
    assert await task == 1


async def test_batches_ride_in_nobodys_transaction(db: MultiDB, papers: Papers):
    """Others add and read at the same time; a transaction that rolls back takes nothing of theirs."""
    begun, done = asyncio.Event(), asyncio.Event()

    async def inside() -> None:
        async with db.mongo_transaction():
            for _ in range(5):
                await papers.add(NewPaper())
                begun.set()
            await done.wait()
            raise Left

    writing = asyncio.create_task(inside())
    await begun.wait()
    added = await asyncio.gather(*(papers.add(NewPaper()) for _ in range(100)))
    done.set()
    with pytest.raises(Left):
        await writing
    assert {paper.id for paper in added} == {paper.id async for paper in papers.stream()}


async def test_conflicts_are_replayed_until_all_are_counted(db: MultiDB, papers: Papers):
    counter = await papers.add(NewPaper(number=0))
    runs = 0

    async def increment() -> None:
        nonlocal runs
        runs += 1
        number = (await papers.fetch(counter.id)).number or 0
        await papers.update(counter.id, number=number + 1)

    await asyncio.gather(*(db.run_mongo_transaction(increment, attempts=100) for _ in range(8)))
    assert (await papers.fetch(counter.id)).number == 8
    assert runs >= 8


async def test_a_conflict_is_told_once_the_attempts_are_used_up(db: MultiDB, papers: Papers):
    counter = await papers.add(NewPaper(number=0))
    runs = 0

    async def overtaken() -> None:
        nonlocal runs
        runs += 1
        await papers.fetch(counter.id)
        await asyncio.create_task(papers.update(counter.id, number=runs), context=nothing_ambient())
        await papers.update(counter.id, number=-1)

    with pytest.raises(ConflictError) as caught:
        await db.run_mongo_transaction(overtaken, attempts=3)
    assert caught.value.retryable
    assert runs == 3
    assert (await papers.fetch(counter.id)).number == 3
    with pytest.raises(DataError, match="`attempts`"):
        await db.run_mongo_transaction(overtaken, attempts=0)


async def test_what_the_body_raises_is_never_replayed(db: MultiDB, papers: Papers):
    runs = 0

    async def fails() -> None:
        nonlocal runs
        runs += 1
        await papers.add(NewPaper())
        raise UnavailableError("of something else", store="redis")

    with pytest.raises(UnavailableError, match="of something else"):
        await db.run_mongo_transaction(fails)
    assert runs == 1
    assert await papers.count() == 0


async def test_a_commit_whose_answer_is_lost_is_sent_again(multidb_settings: Settings):
    async with (
        lossy(multidb_settings, command="commitTransaction") as (settings, network),
        open_with_collections(settings) as db,
    ):
        async with db.mongo_transaction():
            await db[Papers].add(NewPaper())
            await db[Events].append_many([])
            # More often than the driver itself sends it again.
            network.losses = 4
        assert network.losses == 0
        assert await db[Papers].count() == 1


async def test_postgresql_commits_by_itself(db: MultiDB, papers: Papers):
    with pytest.raises(Left):
        async with db.mongo_transaction():
            await papers.add(NewPaper())
            await db.users.add(NewUser(email="ada@example.com", name="Ada"))
            raise Left
    assert (await papers.count(), await db.users.count()) == (0, 1)
    with pytest.raises(Left):
        async with db.transaction():
            await papers.add(NewPaper())
            await db.users.add(NewUser(email="bob@example.com", name="Bob"))
            raise Left
    assert (await papers.count(), await db.users.count()) == (1, 1)
