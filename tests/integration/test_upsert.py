"""`upsert`: add or change, atomically; and `fence`: a write of a lock that was lost is refused."""

import asyncio
from typing import Any

import pytest

from multidb import (
    AlreadyExistsError,
    Company,
    ConflictError,
    DataError,
    Document,
    MultiDB,
    NewCompany,
    NewDocument,
    NewForm,
    NewUser,
    NotFoundError,
    User,
    uuid7,
)

CALLERS = 64


@pytest.fixture
async def ada(db: MultiDB) -> User:
    return await db.users.add(NewUser(email="ada@example.com", name="Ada"))


@pytest.fixture
async def company(db: MultiDB) -> Company:
    return await db.companies.add(NewCompany(name="Looms", slug="looms"))


@pytest.fixture
async def document(db: MultiDB, company: Company, ada: User) -> Document:
    return await db.documents.add(NewDocument(company_id=company.id, owner_id=ada.id, title="Notes"))


async def test_of_a_new_key_many_upserts_make_one_row(db: MultiDB):
    """Each writes once, and none is refused: the row says how many have come."""
    new = [NewUser(email="ada@example.com", name=f"Ada {n}") for n in range(CALLERS)]
    told = await asyncio.gather(*(db.users.upsert(each, on="email") for each in new))
    assert await db.users.count() == 1
    (stored,) = await db.users.find()
    assert stored.version == CALLERS
    assert sorted(each.version for each in told) == list(range(1, CALLERS + 1))
    assert {each.id for each in told} == {stored.id}
    # Everybody was told of what they wrote themselves.
    assert [each.name for each in told] == [each.name for each in new]
    assert stored == next(each for each in told if each.version == CALLERS)


async def test_a_new_row_is_told_as_added(db: MultiDB):
    new = NewUser(email="ada@example.com", name="Ada")
    stored = await db.users.upsert(new, on="email")
    assert stored.id == new.id
    assert stored.version == 1
    assert stored.created_at == stored.updated_at


async def test_the_row_that_is_there_keeps_its_id_and_birth(db: MultiDB, ada: User):
    changed = await db.users.upsert(NewUser(email="ada@example.com", name="Lovelace"), on="email")
    assert changed == ada.model_copy(
        update={"name": "Lovelace", "version": 2, "updated_at": changed.updated_at}
    )
    assert changed.updated_at > ada.updated_at


async def test_what_was_not_given_stays(db: MultiDB, company: Company):
    """A default is what a new row gets, and no reason to undo what someone has set."""
    key: dict[str, Any] = {"company_id": company.id, "name": "Order"}
    await db.forms.add(NewForm(**key, description="What to weave", definition={"type": "object"}))
    changed = await db.forms.upsert(NewForm(**key, definition={"type": "array"}), on=("company_id", "name"))
    assert changed.description == "What to weave"
    assert changed.definition == {"type": "array"}
    cleared = await db.forms.upsert(
        NewForm(**key, description=None, definition={}), on=("name", "company_id")
    )
    assert cleared.description is None
    assert cleared.version == 3


async def test_the_key_is_what_the_index_holds(db: MultiDB, ada: User):
    """Users are unique by the folded e-mail, which no caller gives."""
    changed = await db.users.upsert(NewUser(email="ADA@Example.com", name="Ada"), on="email")
    assert changed.id == ada.id
    assert changed.version == 2
    assert await db.users.by_email("ada@EXAMPLE.com") == changed


async def test_by_id(db: MultiDB, ada: User):
    changed = await db.users.upsert(NewUser(id=ada.id, email="Countess@example.com", name="Lovelace"))
    assert (changed.id, changed.version) == (ada.id, 2)
    assert await db.users.by_email("countess@example.com") == changed
    # What follows from the e-mail has gone along: the old one is free.
    assert await db.users.by_email("ada@example.com") is None
    await db.users.upsert(NewUser(email="ada@example.com", name="Another"))
    assert await db.users.count() == 2


@pytest.mark.parametrize("on", ["name", ("email", "name"), "nothing", (), None, 7, [1]])
async def test_by_what_is_not_unique_is_refused(db: MultiDB, ada: User, on: Any):
    new = NewUser(email="new@example.com", name="New")
    with pytest.raises(DataError, match="`on`"):
        await db.users.upsert(new, on=on)
    with pytest.raises(DataError, match="`on`"):
        await db.users.upsert_many([new], on=on)
    assert await db.users.count() == 1


async def test_a_deleted_row_of_the_key_is_left_alone(db: MultiDB, ada: User):
    await db.users.delete(ada.id)
    stored = await db.users.upsert(NewUser(email="ada@example.com", name="Another"), on="email")
    assert stored.id != ada.id
    assert stored.version == 1
    # The id is unique among the deleted too.
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.upsert(NewUser(id=ada.id, email="new@example.com", name="New"))
    assert caught.value.columns == ("id",)
    assert await db.users.get(ada.id) is None


async def test_another_unique_value_that_is_taken_is_refused(db: MultiDB, ada: User):
    other = await db.users.add(NewUser(email="other@example.com", name="Other"))
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.upsert(NewUser(id=other.id, email="ADA@example.com", name="Thief"))
    assert caught.value.columns == ("email",)
    assert caught.value.constraint == "users_email_key"
    assert "ada@" not in str(caught.value).lower()
    with pytest.raises(AlreadyExistsError) as caught:
        await db.users.upsert(NewUser(id=ada.id, email="new@example.com", name="Thief"), on="email")
    assert caught.value.columns == ("id",)
    with db.uncached():
        assert await db.users.get_many([ada.id, other.id]) == {ada.id: ada, other.id: other}


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("many", [False, True])
async def test_the_next_read_sees_it(db: MultiDB, ada: User, many: bool, in_transaction: bool):
    """The id that the caller brings is not that of the row, so the answer tells what to forget."""
    assert await db.users.get(ada.id) == ada
    new = NewUser(email="ada@example.com", name="Lovelace")

    async def write() -> None:
        if many:
            assert await db.users.upsert_many([new], on="email") == 1
        else:
            await db.users.upsert(new, on="email")

    if in_transaction:
        async with db.transaction():
            await write()
    else:
        await write()
    assert (await db.users.fetch(ada.id)).name == "Lovelace"


async def test_a_rolled_back_upsert_is_not_remembered(db: MultiDB, ada: User):
    async with db.transaction():
        with pytest.raises(KeyError):
            async with db.transaction():
                await db.users.upsert(NewUser(email="ada@example.com", name="Never"), on="email")
                assert (await db.users.fetch(ada.id)).name == "Never"
                raise KeyError
        assert await db.users.fetch(ada.id) == ada
    assert await db.users.fetch(ada.id) == ada


# --- fences


async def fence_of(db: MultiDB, document: Document) -> int:
    async with db.postgres.engine.connect() as connection:
        statement = db.documents.table.select().where(db.documents.table.c.id == document.id)
        return int((await connection.execute(statement)).one().fence)


async def test_the_holder_of_an_older_lock_is_refused(db: MultiDB, document: Document):
    await db.documents.update(document.id, status="processing", fence=7)
    with pytest.raises(ConflictError, match="later lock") as caught:
        await db.documents.update(document.id, status="failed", fence=6)
    assert caught.value.version == 2
    assert not caught.value.retryable
    assert (await db.documents.fetch(document.id)).status == "processing"
    assert await fence_of(db, document) == 7


async def test_the_same_lock_and_a_later_one_pass(db: MultiDB, document: Document):
    for n, fence in enumerate((7, 7, 8, 2**62), start=2):
        changed = await db.documents.update(document.id, title=f"Notes {n}", fence=fence)
        assert (changed.title, changed.version) == (f"Notes {n}", n)
        assert await fence_of(db, document) == fence


async def test_a_fence_alone_is_taken_over(db: MultiDB, document: Document):
    """Whoever comes later shuts the others out before it has anything to write."""
    assert (await db.documents.update(document.id, fence=9)).version == 2
    with pytest.raises(ConflictError):
        await db.documents.update(document.id, fence=8)
    with pytest.raises(ConflictError):
        await db.documents.update(document.id, title="Late", fence=8)


async def test_a_write_without_a_fence_is_not_held_to_it(db: MultiDB, document: Document):
    await db.documents.update(document.id, fence=9)
    assert (await db.documents.update(document.id, title="By hand")).title == "By hand"
    assert await fence_of(db, document) == 9


async def test_fence_and_version_must_both_hold(db: MultiDB, document: Document):
    await db.documents.update(document.id, title="First", fence=5, version=1)
    with pytest.raises(ConflictError, match="has version 2, not 1") as caught:
        await db.documents.update(document.id, title="Stale", fence=6, version=1)
    assert caught.value.version == 2
    with pytest.raises(ConflictError, match="later lock") as caught:
        await db.documents.update(document.id, title="Late", fence=4, version=2)
    assert caught.value.version == 2
    assert await fence_of(db, document) == 5
    assert (await db.documents.update(document.id, title="Both", fence=6, version=2)).version == 3


async def test_of_many_holders_the_latest_stands(db: MultiDB, document: Document):
    outcomes = await asyncio.gather(
        *(db.documents.update(document.id, title=f"{n}", fence=n) for n in range(1, 33)),
        return_exceptions=True,
    )
    stored = await db.documents.fetch(document.id)
    assert stored.title == "32"
    assert await fence_of(db, document) == 32
    refused = [each for each in outcomes if isinstance(each, ConflictError)]
    written = [each for each in outcomes if isinstance(each, Document)]
    assert len(refused) + len(written) == 32
    assert stored.version == 1 + len(written)


async def test_a_row_that_is_not_there_is_not_found_whatever_the_fence(db: MultiDB, document: Document):
    with pytest.raises(NotFoundError):
        await db.documents.update(uuid7(), title="x", fence=1)
    await db.documents.delete(document.id)
    with pytest.raises(NotFoundError):
        await db.documents.update(document.id, title="x", fence=1)


async def test_a_table_without_fences_refuses_one(db: MultiDB, ada: User):
    with pytest.raises(DataError, match="`users` has no such column"):
        await db.users.update(ada.id, name="Never", fence=1)
    assert await db.users.fetch(ada.id) == ada


@pytest.mark.parametrize("fence", ["7", 7.0, True, -1])
async def test_what_no_lock_gives_is_refused(db: MultiDB, document: Document, fence: Any):
    with pytest.raises(DataError, match="`fence` must be"):
        await db.documents.update(document.id, title="Never", fence=fence)
    assert await db.documents.fetch(document.id) == document


@pytest.mark.parametrize("version", ["1", 1.0, True, -1])
async def test_what_no_row_has_for_a_version_is_refused(db: MultiDB, document: Document, version: Any):
    for call in (
        db.documents.update(document.id, title="Never", version=version),
        db.documents.update(document.id, version=version),
        db.documents.delete(document.id, version=version),
    ):
        with pytest.raises(DataError, match="`version` must be"):
            await call
    assert await db.documents.fetch(document.id) == document


async def test_a_stale_version_tells_the_current_one(db: MultiDB, ada: User):
    for _ in range(3):
        await db.users.update(ada.id, name="Ada")
    for call in (db.users.update(ada.id, name="Never", version=1), db.users.delete(ada.id, version=1)):
        with pytest.raises(ConflictError) as caught:
            await call
        assert caught.value.version == 4
