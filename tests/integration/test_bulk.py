"""Many rows at once: all of them or none, whatever they come from, and never all of them in memory."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from multidb import (
    AlreadyExistsError,
    Company,
    MultiDB,
    NewCalendarEvent,
    NewCompany,
    NewForm,
    NewUser,
    NewUserProfile,
    User,
    uuid7,
)
from multidb.settings import Settings

ROOT = Path(__file__).parents[2]
#: Rows a round trip, as the documentation has it.
CHUNK = 5_000


def new_user(n: int, **more: Any) -> NewUser:
    return NewUser(**{"email": f"user{n}@example.com", "name": f"User {n % 3}", **more})


def new_users(count: int) -> Iterator[NewUser]:
    return (new_user(n) for n in range(count))


async def one_by_one(new: Iterable[NewUser]) -> AsyncIterator[NewUser]:
    for each in new:
        yield each


def idle(db: MultiDB) -> bool:
    usage = db.postgres.pool_usage()
    return usage is not None and usage.in_use == 0


@pytest.fixture
async def company(db: MultiDB) -> Company:
    return await db.companies.add(NewCompany(name="Looms", slug="looms"))


@pytest.fixture
async def users(db: MultiDB) -> list[User]:
    """Ten users, each in the cache."""
    await db.users.add_many(new_users(10))
    return [await db.users.fetch(each.id) for each in await db.users.find(order_by="id")]


# --- add_many


@pytest.mark.parametrize("made", [list, iter, one_by_one], ids=["list", "generator", "async generator"])
@pytest.mark.parametrize("count", [0, 1, 99, 100])
async def test_whatever_they_come_from(db: MultiDB, count: int, made: Callable[[Any], Any]):
    new = list(new_users(count))
    assert await db.users.add_many(made(new)) == count
    stored = {each.id: each async for each in db.users.stream()}
    assert {id: (each.email, each.name, each.version) for id, each in stored.items()} == {
        each.id: (each.email, each.name, 1) for each in new
    }
    assert idle(db)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, []),
        (99, [99]),
        (CHUNK, [CHUNK]),
        (CHUNK + 1, [CHUNK, CHUNK + 1]),
        (2 * CHUNK + 1, [CHUNK, 2 * CHUNK, 2 * CHUNK + 1]),
    ],
)
async def test_progress_tells_how_many_so_far(db: MultiDB, count: int, told: list[int]):
    seen: list[int] = []
    assert await db.users.add_many(one_by_one(new_users(count)), progress=seen.append) == count
    assert seen == told
    assert await db.users.count() == count


@pytest.mark.parametrize("count", [50, CHUNK + 1])
async def test_progress_that_raises_leaves_nothing(db: MultiDB, count: int):
    def fails(_: int) -> None:
        raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        await db.users.add_many(new_users(count), progress=fails)
    assert await db.users.count() == 0
    assert idle(db)


@pytest.mark.parametrize("count", [50, 500, 2 * CHUNK + 1])
async def test_a_taken_value_at_the_end_leaves_nothing_and_is_named(db: MultiDB, count: int):
    """Also through the column that follows from the field, which no caller gives."""
    await db.users.add(new_user(-1, email="ada@example.com"))
    await db.users.add(new_user(-2, email="bob@example.com"))
    new = [*new_users(count), new_user(0, email="ADA@example.com"), new_user(0, email="bob@example.COM")]
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.add_many(iter(new))
    error = caught.value
    assert error.columns == ("email",)
    assert error.constraint == "users_email_key"
    assert error.operation == "users.add_many"
    # As the caller gave them, but for what the model itself makes of an e-mail.
    assert error.keys == ((new[-2].email,), (new[-1].email,))
    assert not any(word in str(error).lower() for word in ("ada", "bob", "@"))
    assert str(error).count("users.add_many: ") == 1
    assert await db.users.count() == 2
    assert idle(db)


@pytest.mark.parametrize("places", [(3, 7), (3, 700), (3, CHUNK + 7)], ids=["few", "copied", "chunks apart"])
async def test_what_is_given_twice_is_named(db: MultiDB, places: tuple[int, int]):
    first, second = places
    new = list(new_users(second + 1))
    new[first], new[second] = new_user(0, email="ada@example.com"), new_user(0, email="ADA@example.com")
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.add_many(new)
    # Those of the chunk that was refused: the first may stand in one that was not.
    given = [new[first], new[second]] if second < CHUNK else [new[second]]
    assert caught.value.keys == tuple((each.email,) for each in given)
    assert await db.users.count() == 0


async def test_an_id_that_is_taken_is_named(db: MultiDB, users: list[User]):
    new = [new_user(100), new_user(101, id=users[4].id), new_user(102)]
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.add_many(new)
    assert caught.value.columns == ("id",)
    assert caught.value.keys == ((users[4].id,),)
    assert str(users[4].id) not in str(caught.value)


async def test_a_deleted_rows_value_is_free(db: MultiDB, users: list[User]):
    """Only who is alive is named: the predicate of the index is asked too."""
    await db.users.delete(users[0].id)
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.add_many([new_user(0), new_user(1)])
    assert caught.value.keys == ((users[1].email,),)
    assert await db.users.add_many([new_user(0)]) == 1


async def test_a_key_of_several_fields_is_named_whole(db: MultiDB, company: Company):
    other = await db.companies.add(NewCompany(name="Other", slug="other"))
    form = NewForm(company_id=company.id, name="Order", definition={})
    await db.forms.add(form)
    elsewhere = NewForm(company_id=other.id, name="Order", definition={})
    again = NewForm(company_id=company.id, name="Order", definition={})
    with pytest.raises(AlreadyExistsError) as caught:
        await db.forms.add_many([elsewhere, again])
    assert caught.value.columns == ("company_id", "name")
    assert caught.value.keys == ((company.id, "Order"),)
    assert await db.forms.count() == 1


@pytest.mark.parametrize("count", [1, 500, CHUNK + 1])
async def test_inside_a_transaction_a_failure_takes_nothing_else_along(db: MultiDB, count: int):
    async with db.transaction():
        await db.users.add(new_user(-1, email="ada@example.com"))
        with pytest.raises(AlreadyExistsError) as caught:
            await db.users.add_many([*new_users(count), new_user(0, email="Ada@example.com")])
        assert len(caught.value.keys) == 1
        assert await db.users.count() == 1
        assert await db.users.add_many(new_users(3)) == 3
    assert await db.users.count() == 4
    assert idle(db)


@pytest.mark.parametrize("count", [10, CHUNK + 1, 2 * CHUNK + 1])
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_iterator_that_raises_leaves_nothing(db: MultiDB, count: int, is_async: bool):
    def broken() -> Iterator[NewUser]:
        yield from new_users(count)
        raise KeyError("the caller's own")

    for call in (db.users.add_many, db.users.upsert_many):
        with pytest.raises(KeyError):
            await call(one_by_one(broken()) if is_async else broken())
        assert await db.users.count() == 0
        assert idle(db)


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_cancelled_midway_leaves_nothing(db: MultiDB, in_transaction: bool):
    """By the time the third chunk is asked for, the first is written."""
    blocked = asyncio.Event()

    async def stalls() -> AsyncIterator[NewUser]:
        for each in new_users(2 * CHUNK + 1):
            yield each
        blocked.set()
        await asyncio.Event().wait()

    seen: list[int] = []

    async def write() -> None:
        if in_transaction:
            async with db.transaction():
                await db.users.add_many(stalls(), progress=seen.append)
        else:
            await db.users.add_many(stalls(), progress=seen.append)

    task = asyncio.create_task(write())
    await blocked.wait()
    assert seen == [CHUNK]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert idle(db)
    assert await db.users.count() == 0


@pytest.mark.parametrize("count", [3, 150])
async def test_json_and_arrays_arrive_as_they_are(db: MultiDB, company: Company, count: int):
    definitions: list[dict[str, Any]] = [
        {},
        {"type": "object", "of": [1, 2.5, None, True, {"x": []}]},
        {"text": 'Žofie\'s \\ "card"\t✨', "null": None},
    ]
    forms = [NewForm(company_id=company.id, name=f"{n}", definition=definitions[n % 3]) for n in range(count)]
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    events = [
        NewCalendarEvent(
            company_id=company.id,
            title=f"{n}",
            location=None if n % 2 else "Hall {1,2}",
            starts_at=start,
            ends_at=start + timedelta(hours=1),
            attendees=tuple(uuid7() for _ in range(n % 3)),
        )
        for n in range(count)
    ]
    people = list(new_users(count))
    await db.users.add_many(people)
    # Of no company, so from a hundred on by COPY.
    profiles = [
        NewUserProfile(user_id=each.id, preferences=definitions[n % 3], bio=None if n % 2 else "\\N\t")
        for n, each in enumerate(people)
    ]
    given: list[tuple[Any, list[Any]]] = [
        (db.forms, forms),
        (db.calendar_events, events),
        (db.user_profiles, profiles),
    ]
    for repository, new in given:
        assert await repository.add_many(new) == count
        stored = await repository.get_many(each.id for each in new)
        fields = set(type(new[0]).model_fields)
        assert [stored[each.id].model_dump(include=fields) for each in new] == [
            each.model_dump() for each in new
        ]
        # The same once more: as an upsert they travel the other way.
        assert await repository.upsert_many(new) == count
        again = await repository.get_many(each.id for each in new)
        assert [again[each.id].model_dump(include=fields) for each in new] == [
            each.model_dump() for each in new
        ]
        assert {each.version for each in again.values()} == {2}


#: Adds so many users in a process of its own, and prints by how many KiB its memory has grown at most.
MEASURED = """
import asyncio, re, sys
from pathlib import Path
from multidb import MultiDB, NewUser
from multidb.settings import Settings

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def new(start, stop):
    return (NewUser(email=f"user{n}@example.com", name=f"User {n}") for n in range(start, stop))

async def main(count):
    async with MultiDB(Settings(_env_file=None)) as db:
        await db.users.add_many(new(0, 100))
        base = peak()
        assert await db.users.add_many(new(100, 100 + count)) == count
        print(peak() - base)

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.torture)])
@pytest.mark.timeout(900)
async def test_memory_does_not_grow_with_the_rows(db: MultiDB, multidb_settings: Settings, count: int):
    urls = {
        f"MULTIDB_{name.upper()}": getattr(multidb_settings, name).get_secret_value()
        for name in ("postgres_url", "mongo_url", "redis_url")
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", MEASURED, str(count)),
        env={**os.environ, **urls, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    assert int(printed) < 100 * 1024
    assert await db.users.count() == count + 100
