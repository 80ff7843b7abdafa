"""The audit log as an application reads it: who, for which request, and what it was before."""

from datetime import UTC, datetime, timedelta

import pytest

from multidb import MultiDB, NewCompany, NewDocument, NewUser, TransactionError
from multidb.models.ids import uuid7


async def test_a_transaction_tells_who_acts_and_for_which_request(db: MultiDB):
    async with db.transaction(actor="ada", request_id="r-1"):
        company = await db.companies.add(NewCompany(name="Engines", slug="engines"))
        async with db.transaction():
            await db.companies.update(company.id, name="Looms")
    await db.companies.update(company.id, name="Mills")
    added, renamed, again = await db.audit_logs.history("companies", company.id)
    assert [(e.action, e.actor, e.request_id) for e in (added, renamed, again)] == [
        ("insert", "ada", "r-1"),
        ("update", "ada", "r-1"),
        ("update", None, None),
    ]
    assert renamed.old is not None
    assert renamed.new is not None
    assert (renamed.old["name"], renamed.new["name"]) == ("Engines", "Looms")
    assert renamed.company_id == company.id
    assert added.ts < renamed.ts < again.ts


async def test_who_acts_belongs_to_the_outermost_transaction(db: MultiDB):
    async with db.transaction():
        with pytest.raises(TransactionError, match="outermost"):
            async with db.transaction(actor="eve"):
                pytest.fail("the body ran")


async def test_run_transaction_tells_it_too(db: MultiDB):
    new = NewCompany(name="Engines", slug="engines")
    await db.run_transaction(lambda: db.companies.add(new), actor="'; --", request_id="r\\1")
    (entry,) = await db.audit_logs.history("companies", new.id)
    assert (entry.actor, entry.request_id) == ("'; --", "r\\1")


async def test_it_is_found_by_person_time_and_kind_the_newest_first(db: MultiDB):
    for actor in ("ada", "bob", "ada"):
        async with db.transaction(actor=actor):
            await db.companies.add(NewCompany(name=actor, slug=f"c-{uuid7().hex}"))
    c = db.audit_logs.c
    page = await db.audit_logs.find(actor="ada", limit=1)
    rest = await db.audit_logs.find(actor="ada", limit=1, after=page.next)
    assert page.items[0].ts > rest.items[0].ts
    assert rest.next is None
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert await db.audit_logs.count(c.ts.between(now - hour, now + hour), c.action == "insert") == 3
    assert await db.audit_logs.count(c.ts < now - hour) == 0


async def test_personal_values_do_not_stand_in_it(db: MultiDB):
    user = await db.users.add(NewUser(email="ada@example.com", name="Ada"))
    await db.users.update(user.id, name="Augusta")
    added, renamed = await db.audit_logs.history("users", user.id)
    assert added.new is not None
    assert added.new["email"] == added.new["name"] == "***"
    assert (renamed.old, renamed.new) != (None, None)
    assert "Ada" not in added.model_dump_json() + renamed.model_dump_json()
    assert "ada@" not in added.model_dump_json()


async def test_bulk_writes_are_in_it_row_by_row(db: MultiDB):
    company = await db.companies.add(NewCompany(name="Engines", slug="engines"))
    user = await db.users.add(NewUser(email="ada@example.com", name="Ada"))
    await db.documents.add_many(
        NewDocument(company_id=company.id, owner_id=user.id, title=f"Letter {n}") for n in range(120)
    )
    async with db.transaction(actor="ada"):
        await db.documents.update_many(db.documents.c.title.like("Letter 1%"), changes={"status": "ready"})
    assert await db.audit_logs.count(entity="documents", action="insert") == 120
    assert await db.audit_logs.count(entity="documents", action="update", actor="ada") == 31


async def test_it_cannot_be_written_to(db: MultiDB):
    assert not [name for name in ("add", "update", "delete", "upsert") if hasattr(db.audit_logs, name)]
