"""`update_many`, `delete_many` and `upsert_many`: counts, versions, the cache, and all or nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from multidb import (
    AlreadyExistsError,
    Company,
    DataError,
    MultiDB,
    NewCompany,
    NewForm,
    NewUser,
    User,
    UserChanges,
)

#: Rows a round trip, as the documentation has it.
CHUNK = 5_000


def new_user(n: int, **more: Any) -> NewUser:
    return NewUser(**{"email": f"user{n}@example.com", "name": f"User {n % 3}", **more})


@pytest.fixture
async def users(db: MultiDB) -> list[User]:
    """Ten users, each in the cache."""
    await db.users.add_many(new_user(n) for n in range(10))
    return [await db.users.fetch(each.id) for each in await db.users.find(order_by="id")]


@pytest.fixture
async def company(db: MultiDB) -> Company:
    return await db.companies.add(NewCompany(name="Looms", slug="looms"))


async def names(db: MultiDB, users: list[User]) -> list[str]:
    """The names as everybody is told them, the cache included."""
    return [(await db.users.fetch(each.id)).name for each in users]


@pytest.mark.parametrize("changes", [{"name": "New"}, UserChanges(name="New")], ids=["by name", "object"])
async def test_update_many_changes_those_that_match(db: MultiDB, users: list[User], changes: Any):
    c = db.users.c
    assert await db.users.update_many(c.name == "User 0", c.id != users[0].id, changes=changes) == 3
    for n, before in enumerate(users):
        after = await db.users.fetch(before.id)
        if n in (3, 6, 9):
            assert after == before.model_copy(
                update={"name": "New", "version": 2, "updated_at": after.updated_at}
            )
            assert after.updated_at > before.updated_at
        else:
            assert after == before
    assert await db.users.update_many(name="nobody's", changes=changes) == 0


async def test_update_many_keeps_what_follows_from_a_field(db: MultiDB, users: list[User]):
    assert await db.users.update_many(id=users[0].id, changes={"email": "ADA@example.com"}) == 1
    found = await db.users.by_email("ada@example.com")
    assert found is not None
    assert found.id == users[0].id


async def test_update_many_of_nothing_changes_nothing(db: MultiDB, users: list[User]):
    assert await db.users.update_many(name="User 0", changes={}) == 4
    assert await db.users.fetch(users[0].id) == users[0]


async def test_update_many_is_all_or_nothing(db: MultiDB, users: list[User]):
    with pytest.raises(AlreadyExistsError):
        await db.users.update_many(name="User 0", changes={"email": "same@example.com"})
    assert [await db.users.fetch(each.id) for each in users] == users


async def test_delete_many_marks_those_that_match(db: MultiDB, users: list[User]):
    assert await db.users.delete_many(name="User 0") == 4
    for n, each in enumerate(users):
        assert await db.users.get(each.id) == (None if n % 3 == 0 else each)
    assert await db.users.delete_many(name="User 0") == 0
    restored = await db.users.restore(users[0].id)
    assert restored.version == 3


async def test_what_is_deleted_is_not_changed(db: MultiDB, users: list[User]):
    await db.users.delete(users[0].id)
    assert await db.users.update_many(name="User 0", changes={"name": "New"}) == 3
    assert (await db.users.restore(users[0].id)).name == "User 0"


async def test_without_a_filter_both_are_refused(db: MultiDB, users: list[User]):
    with pytest.raises(DataError, match="filter"):
        await db.users.update_many(changes={"name": "Everybody"})
    with pytest.raises(DataError, match="filter"):
        await db.users.delete_many()
    assert await names(db, users) == [each.name for each in users]


@pytest.mark.parametrize("wrong", [None, {"name": "New"}, [], "name"])
async def test_what_is_neither_row_nor_changes_is_refused(db: MultiDB, wrong: Any):
    with pytest.raises(DataError, match="give a NewUser, not"):
        await db.users.upsert_many([wrong])
    if not isinstance(wrong, dict):
        with pytest.raises(DataError, match="give a UserChanges, not"):
            await db.users.update_many(name="User 0", changes=wrong)


async def test_tables_without_a_cache_count_too(db: MultiDB, company: Company):
    await db.forms.add_many(NewForm(company_id=company.id, name=f"{n}", definition={}) for n in range(5))
    c = db.forms.c
    assert await db.forms.update_many(c.name < "3", changes={"definition": {"a": [1]}}) == 3
    assert await db.forms.count(version=2) == 3
    assert {each.version: each.definition for each in await db.forms.find()} == {1: {}, 2: {"a": [1]}}
    assert await db.forms.delete_many(c.name >= "3") == 2
    assert await db.forms.count() == 3


@pytest.mark.parametrize("kept", [False, True])
async def test_the_cache_follows_a_savepoint(db: MultiDB, users: list[User], kept: bool):
    async def write() -> None:
        async with db.transaction():
            await db.users.update_many(name="User 0", changes={"name": "New"})
            await db.users.delete_many(name="User 1")
            await db.users.upsert_many([new_user(2, name="Upserted")], on="email")
            assert (await db.users.fetch(users[0].id)).name == "New"
            assert await db.users.get(users[1].id) is None
            if not kept:
                raise KeyError

    async with db.transaction():
        await db.users.update(users[9].id, name="Outer")
        if kept:
            await write()
        else:
            with pytest.raises(KeyError):
                await write()
            assert (await db.users.fetch(users[0].id)).name == "User 0"
    found = await db.users.get_many(each.id for each in users)
    assert found == {each.id: each for each in await db.users.find()}
    assert len(found) == (7 if kept else 10)
    assert found[users[0].id].name == ("New" if kept else "User 0")
    assert found[users[2].id].name == ("Upserted" if kept else "User 2")
    assert found[users[9].id].name == "Outer"


# --- upsert_many


async def test_upsert_many_adds_and_changes(db: MultiDB, users: list[User]):
    new = [new_user(n, name=f"New {n}") for n in range(5, 15)]
    seen: list[int] = []
    assert await db.users.upsert_many(iter(new), on="email", progress=seen.append) == 10
    assert seen[-1] == 10
    assert await db.users.count() == 15
    for n in range(5):
        # Those that were there keep their ids.
        assert await names(db, [users[n + 5]]) == [f"New {n + 5}"]
        assert (await db.users.fetch(new[n + 5].id)).version == 1
    assert await names(db, users[:5]) == [each.name for each in users[:5]]


@pytest.mark.parametrize("between", [0, 7, CHUNK])
async def test_of_several_of_one_key_the_last_wins(db: MultiDB, between: int):
    first = new_user(0, email="ada@example.com", name="First")
    last = new_user(0, email="ADA@example.com", name="Last")
    new = [first, *(new_user(n) for n in range(1, between + 1)), last]

    async def given() -> AsyncIterator[NewUser]:
        for each in new:
            yield each

    assert await db.users.upsert_many(given(), on="email") == between + 2
    stored = await db.users.by_email("ada@example.com")
    assert stored is not None
    assert (stored.id, stored.name, stored.email, stored.version) == (first.id, "Last", first.email, 2)
    assert await db.users.count() == between + 1


async def test_rows_that_give_different_fields(db: MultiDB, company: Company):
    def form(name: str, **more: Any) -> NewForm:
        return NewForm(**{"company_id": company.id, "name": name, "definition": {}, **more})

    await db.forms.add_many(form(name, description=f"About {name}") for name in "abcd")
    new = [
        form("a"),
        form("b", description="New"),
        form("c", definition={"type": "object"}),
        form("d", description=None),
        form("e"),
        form("f", description="New"),
        form("a", description="Later"),
    ]
    assert await db.forms.upsert_many(new, on=("company_id", "name")) == 7
    page = await db.forms.find(order_by="name")
    assert [(each.name, each.description, each.version) for each in page] == [
        ("a", "Later", 3),
        ("b", "New", 2),
        ("c", "About c", 2),
        ("d", None, 2),
        ("e", None, 1),
        ("f", "New", 1),
    ]
    assert page.items[2].definition == {"type": "object"}


@pytest.mark.parametrize("between", [0, CHUNK])
async def test_upsert_many_is_all_or_nothing(db: MultiDB, users: list[User], between: int):
    taken = new_user(0, id=users[3].id, email="new@example.com", name="Never")
    new = [new_user(n, name="Never") for n in range(between + 2)]
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.upsert_many([*new, taken], on="email")
    assert caught.value.columns == ("id",)
    assert await db.users.count() == 10
    assert await names(db, users) == [each.name for each in users]


async def test_upsert_many_of_a_deleted_id_is_refused(db: MultiDB, users: list[User]):
    await db.users.delete(users[0].id)
    new = [new_user(1, id=users[1].id, name="Never"), new_user(0, id=users[0].id)]
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.upsert_many(new)
    assert caught.value.columns == ("id",)
    assert await names(db, users[1:]) == [each.name for each in users[1:]]


async def test_a_failing_upsert_many_leaves_the_transaction_usable(db: MultiDB, users: list[User]):
    async with db.transaction():
        await db.users.update(users[0].id, name="Outer")
        with pytest.raises(AlreadyExistsError):
            await db.users.upsert_many([new_user(1, id=users[5].id, name="Never")], on="id")
        assert await db.users.upsert_many([new_user(1, name="Inner")], on="email") == 1
    assert (await names(db, users))[:3] == ["Outer", "Inner", "User 2"]


async def test_upserts_of_the_same_rows_at_once_all_arrive(db: MultiDB):
    """In one order, so that nobody waits in a circle."""
    new = [[new_user(n, name=f"Caller {caller}") for n in range(200)] for caller in range(8)]
    assert await asyncio.gather(*(db.users.upsert_many(each, on="email") for each in new)) == [200] * 8
    assert await db.users.count() == 200
    assert await db.users.count(version=8) == 200
