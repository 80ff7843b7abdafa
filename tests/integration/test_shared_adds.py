"""Adds that meet share statements; so do `exists` and the rows that `include` loads."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from multidb import (
    AlreadyExistsError,
    CalendarEvent,
    Company,
    ConstraintError,
    DataError,
    MultiDB,
    NewCalendarEvent,
    NewCompany,
    NewCompanyUser,
    NewUser,
    NewUserProfile,
    User,
    uuid7,
)

CALLERS = 64
#: Of callers that meet the first few find a free lane; those from here on are of one batch.
IN_THE_BATCH = 10

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def new_users(count: int = CALLERS) -> list[NewUser]:
    return [NewUser(email=f"user{n}@example.com", name=f"User {n}") for n in range(count)]


def idle(db: MultiDB) -> bool:
    usage = db.postgres.pool_usage()
    return usage is not None and usage.in_use == 0


@pytest.fixture
async def company(db: MultiDB) -> Company:
    return await db.companies.add(NewCompany(name="Looms", slug="looms"))


def event(company: Company, **more: Any) -> NewCalendarEvent:
    given = {"title": "Show", "starts_at": NOON, "ends_at": NOON + timedelta(hours=1), **more}
    return NewCalendarEvent(**{"company_id": company.id, **given})


async def test_adds_that_meet_become_few_statements(db: MultiDB, statements: list[str]):
    new = new_users()
    stored = await asyncio.gather(*(db.users.add(each) for each in new))
    assert len(statements) < 10
    assert any("UNNEST" in sql.upper() for sql in statements)
    assert [(each.id, each.email, each.name) for each in stored] == [(n.id, n.email, n.name) for n in new]
    assert {each.version for each in stored} == {1}
    assert await db.users.get_many(each.id for each in new) == {each.id: each for each in stored}


async def test_a_lone_add_is_one_statement_for_one_row(db: MultiDB, statements: list[str]):
    await db.users.add(new_users(1)[0])
    assert len(statements) == 1
    assert "UNNEST" not in statements[0].upper()


async def test_a_duplicate_fails_only_its_caller(db: MultiDB, statements: list[str]):
    await db.users.add(NewUser(email="USER20@example.com", name="First"))
    statements.clear()
    new = new_users()
    outcomes = await asyncio.gather(*(db.users.add(each) for each in new), return_exceptions=True)
    refused = outcomes.pop(20)
    assert isinstance(refused, AlreadyExistsError)
    assert refused.columns == ("email",)
    assert refused.constraint == "users_email_key"
    assert [each.id for each in outcomes if isinstance(each, User)] == [n.id for n in new if n is not new[20]]
    assert await db.users.count() == CALLERS
    # A conflict refuses no batch: only who met it asks again.
    assert len(statements) < 12


async def test_of_one_id_in_a_batch_one_is_stored(db: MultiDB):
    """What comes back of a batch is told apart by the id: nobody may be told of another's row."""
    new = new_users()
    first, second = new[IN_THE_BATCH], new[IN_THE_BATCH].model_copy(update={"email": "second@example.com"})
    new.insert(40, second)
    outcomes = await asyncio.gather(*(db.users.add(each) for each in new), return_exceptions=True)
    told = {id(each): outcome for each, outcome in zip(new, outcomes, strict=True)}
    stored, refused = told[id(first)], told[id(second)]
    assert isinstance(stored, User)
    assert stored.email == first.email
    assert isinstance(refused, AlreadyExistsError)
    assert refused.columns == ("id",)
    assert await db.users.count() == CALLERS
    assert sum(isinstance(each, User) for each in outcomes) == CALLERS


@pytest.mark.parametrize("of_no_company", [True, False])
async def test_what_breaks_a_constraint_fails_only_its_caller(
    db: MultiDB, company: Company, of_no_company: bool
):
    """A CHECK or a foreign key refuses the whole statement, and whoever shared it tries again."""
    new = [event(company, title=f"Show {n}") for n in range(CALLERS)]
    wrong = {"company_id": uuid7()} if of_no_company else {"ends_at": NOON}
    for n in (20, 21, 50):
        new[n] = new[n].model_copy(update=wrong)
    outcomes = await asyncio.gather(*(db.calendar_events.add(each) for each in new), return_exceptions=True)
    for n, (each, outcome) in enumerate(zip(new, outcomes, strict=True)):
        if n in (20, 21, 50):
            assert isinstance(outcome, ConstraintError)
            assert not isinstance(outcome, AlreadyExistsError)
            assert outcome.operation == "calendar_events.add"
        else:
            assert isinstance(outcome, CalendarEvent)
            assert (outcome.id, outcome.title) == (each.id, each.title)
    assert len({id(each) for each in outcomes}) == CALLERS
    assert await db.calendar_events.count() == CALLERS - 3
    assert idle(db)


async def test_of_events_for_one_room_one_gets_it(db: MultiDB, company: Company):
    """What an exclusion constraint refuses is a conflict to `ON CONFLICT DO NOTHING` too."""
    room = uuid7()
    new = [event(company, title=f"Show {n}", resource_id=room if n % 2 else None) for n in range(CALLERS)]
    outcomes = await asyncio.gather(*(db.calendar_events.add(each) for each in new), return_exceptions=True)
    booked = [n for n, each in enumerate(outcomes) if n % 2 and isinstance(each, CalendarEvent)]
    assert len(booked) == 1
    assert sum(isinstance(each, ConstraintError) for each in outcomes) == CALLERS // 2 - 1
    assert all(isinstance(each, CalendarEvent) for each in outcomes[::2])


async def test_arrays_and_nothing_arrive_by_a_batch(db: MultiDB, company: Company):
    new = [
        event(company, attendees=tuple(uuid7() for _ in range(n % 3)), location="Hall" if n % 2 else None)
        for n in range(CALLERS)
    ]
    stored = await asyncio.gather(*(db.calendar_events.add(each) for each in new))
    assert [(each.id, each.attendees, each.location) for each in stored] == [
        (n.id, n.attendees, n.location) for n in new
    ]


async def test_a_cancelled_caller_leaves_the_others_their_rows(db: MultiDB):
    new = new_users()
    tasks = [asyncio.create_task(db.users.add(each)) for each in new]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for n, (each, outcome) in enumerate(zip(new, outcomes, strict=True)):
        if n % 3 == 0:
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            assert isinstance(outcome, User)
            assert outcome.id == each.id
    assert idle(db)
    kept = [each.id for n, each in enumerate(new) if n % 3]
    assert list(await db.users.get_many(kept)) == kept


async def test_a_batch_goes_on_without_one_who_leaves_it(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """The one who leaves was of a batch that is under way: it is not theirs to stop."""
    under_way, go_on = asyncio.Event(), asyncio.Event()
    fetch = db.postgres.fetch

    async def held(statement: Any, *args: Any, **kwargs: Any) -> Any:
        if "UNNEST" in statement.sql.upper():
            under_way.set()
            await go_on.wait()
        return await fetch(statement, *args, **kwargs)

    monkeypatch.setattr(db.postgres, "fetch", held)
    new = new_users()
    tasks = [asyncio.create_task(db.users.add(each)) for each in new]
    await under_way.wait()
    tasks[40].cancel()
    go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes.pop(40), asyncio.CancelledError)
    assert all(isinstance(each, User) for each in outcomes)
    # What was sent is stored, whoever has stopped waiting for the answer.
    assert await db.users.count() == CALLERS


async def test_inside_a_transaction_an_add_is_never_shared(db: MultiDB, statements: list[str]):
    barrier = asyncio.Barrier(4)

    async def adder(n: int) -> None:
        async with db.transaction():
            await barrier.wait()
            for each in range(10):
                await db.users.add(NewUser(email=f"{n}.{each}@example.com", name="Mine"))

    await asyncio.gather(*(adder(n) for n in range(4)))
    assert len(statements) == 40
    assert not any("UNNEST" in sql.upper() for sql in statements)


async def test_a_rolled_back_transaction_takes_nobodys_adds_along(db: MultiDB):
    inside, others_done = asyncio.Event(), asyncio.Event()

    async def undone() -> None:
        with pytest.raises(KeyError):
            async with db.transaction():
                for n in range(10):
                    await db.users.add(NewUser(email=f"undone{n}@example.com", name="Never"))
                    inside.set()
                await others_done.wait()
                raise KeyError

    task = asyncio.create_task(undone())
    await inside.wait()
    await asyncio.gather(*(db.users.add(each) for each in new_users()))
    others_done.set()
    await task
    assert await db.users.count() == CALLERS
    assert not await db.users.exists(name="Never")


# --- reads that share


async def test_exists_that_meet_become_few_statements(db: MultiDB, statements: list[str]):
    await db.users.add_many(new_users())
    statements.clear()
    # Letter by letter, and each asked for by two.
    asked = [f"user{n}@example.com" for n in range(0, 2 * CALLERS, 2)] * 2
    found = await asyncio.gather(
        *(db.users.exists(email=email) for email in asked), db.users.exists(email="USER2@example.com")
    )
    assert found == [n < CALLERS for n in range(0, 2 * CALLERS, 2)] * 2 + [False]
    assert len(statements) < 10


async def test_exists_inside_a_transaction_sees_its_own(db: MultiDB, statements: list[str]):
    async with db.transaction():
        await db.users.add(NewUser(email="ada@example.com", name="Ada"))
        assert await db.users.exists(email="ada@example.com")
    assert len(statements) == 2


async def test_a_page_is_included_in_one_statement_a_relation(
    db: MultiDB, company: Company, statements: list[str]
):
    new = new_users(50)
    await db.users.add_many(new)
    await db.user_profiles.add_many(
        NewUserProfile(user_id=each.id, display_name=each.name) for each in new[::2]
    )
    await db.company_users.add_many(
        NewCompanyUser(company_id=company.id, user_id=each.id, role="member") for each in new[::5]
    )
    statements.clear()
    page = await db.users.find(order_by="id", limit=50, include=("profile", "companies"))
    assert len(statements) == 3
    assert [each.id for each in page] == sorted(each.id for each in new)
    names = {each.id: each.name for each in new[::2]}
    members = {each.id for each in new[::5]}
    for user in page:
        assert (user.profile.display_name if user.profile else None) == names.get(user.id)
        assert user.companies == ((company,) if user.id in members else ())


async def test_includes_that_meet_become_few_statements(db: MultiDB, statements: list[str]):
    new = new_users()
    await db.users.add_many(new)
    await db.user_profiles.add_many(NewUserProfile(user_id=each.id, display_name=each.name) for each in new)
    statements.clear()
    with db.uncached():
        found = await asyncio.gather(*(db.users.get(each.id, include=("profile",)) for each in new))
    assert len(statements) < 20
    for each, user in zip(new, found, strict=True):
        assert user is not None
        assert user.profile is not None
        assert user.profile.display_name == each.name
    # Not included, not there: no access sends a statement behind the caller's back.
    with pytest.raises(DataError):
        assert (await db.users.fetch(new[0].id)).profile
