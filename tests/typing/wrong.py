# mypy: ignore-errors
# The line above is for `mypy` over the whole of tests/; `test_typing.py` takes it away.
"""What type checkers must refuse: each line that ends in `# error:`, and no other. Never run."""

from datetime import timedelta
from uuid import UUID

from multidb import (
    CachePolicy,
    LogLevel,
    Model,
    MultiDB,
    NewCompany,
    NewUser,
    Page,
    PostgresRepository,
    Row,
    Settings,
    SystemLog,
    User,
    UserChanges,
)


class Invoice(Row):
    number: str


class NewInvoice(Model):
    id: UUID
    number: str


class InvoiceRepository(PostgresRepository[Invoice, NewInvoice]):
    pass


class NotAModel:
    pass


class WrongRepository(PostgresRepository[NotAModel, NewInvoice]):  # error: not a Row
    pass


async def arguments(db: MultiDB, settings: Settings, id: UUID) -> None:
    await db.users.get("7")  # error: an id is a UUID
    await db.users.get(7)  # error: an id is a UUID
    await db.users.fetch()  # error: whose?
    await db.users.get_many(id)  # error: many
    await db.users.get_many(["7"])  # error: an id is a UUID
    await db.users.find(limit="10")  # error: a number
    await db.users.find(after=7)  # error: a cursor
    await db.users.find(order_by=7)  # error: names
    await db.users.find("name = 'Ada'")  # error: a filter is an expression
    await db.users.delete(id, 3)  # error: the version is by keyword
    await db.users.update(id, UserChanges(name="Ada"), 3)  # error: the version is by keyword
    await db.users.update(id, {"name": "Ada"})  # error: changes are a model
    await db.users.update(id, NewCompany(id=id, name="A", slug="a"))  # error: another entity's
    await db.users.add(NewCompany(id=id, name="A", slug="a"))  # error: another entity
    await db.users.add({"email": "a@b", "name": "Ada"})  # error: a model
    await db.users.add_many(NewUser(id=id, email="a@b", name="Ada"))  # error: many
    await db.system_logs.append("it began")  # error: an entry is a model
    await db.system_logs.find("level = 'error'")  # error: a filter is a mapping
    await db.sessions.create(id, "phone")  # error: the device is by keyword
    await db.sessions.get(id)  # error: a token is a string
    MultiDB(settings, [InvoiceRepository])  # error: repositories are by keyword
    MultiDB(repositories=[Invoice])  # error: not a repository
    db[Invoice]  # error: not a repository
    print(db.nobodies)  # error: no such entity
    CachePolicy("cache:{id}", ttl=300)  # error: a duration is a timedelta


def names(id: UUID) -> None:
    NewUser(id=id, email="a@b", nmae="Ada")  # error: misspelt
    NewUser(id=id, email="a@b")  # error: no name
    NewUser(id=id, email="a@b", name=7)  # error: a name is text
    UserChanges(nmae="Ada")  # error: misspelt
    UserChanges(name=7)  # error: a name is text
    SystemLog(level=LogLevel.INFO, service="shop")  # error: no message


async def results(db: MultiDB, id: UUID) -> None:
    user = await db.users.get(id)
    print(user.email)  # error: there may be none
    found = await db.users.fetch(id)
    print(found.emial)  # error: misspelt
    page = await db.users.find()
    page.items.append(found)  # error: a tuple
    print(page[0].email)  # error: a page is read from its items
    for each in page:
        print(each.slug)  # error: a user has none
    wrong: Page[Invoice] = page  # error: of users
    number: int = await db.users.get_many([id])  # error: a dict
    print(wrong, number)


async def effects(db: MultiDB, id: UUID) -> None:
    async with db.transaction() as tx:
        tx.system_logs.append("it began")  # error: an entry
        tx.system_logs.emit("it began")  # error: nothing that can follow a commit
        tx.document_metadata.put(NewUser(email="a@b", name="A"), version=1)  # error: of another entity
        tx.document_metadata.delete("7")  # error: an id is a UUID
        tx.dynamic_configurations.set("a", 1, "ada")  # error: by keyword
        tx.sessions.create(id)  # error: nothing that can follow a commit
        tx.counters.increment("/e", by="3")  # error: a number
        tx.users.delete(id)  # error: of PostgreSQL, which joins by itself
        tx[InvoiceRepository].add(id)  # error: of PostgreSQL, which joins by itself
        number: int = await tx.document_metadata.delete(id)  # error: nothing comes back
        print(number)


async def caching(db: MultiDB, id: UUID) -> None:
    @db.cached("cache:user:{user_id}", ttl=timedelta(minutes=5))
    async def load_user(user_id: UUID, *, fresh: bool = False) -> User | None:
        return await db.users.get(user_id)

    await load_user("7")  # error: an id is a UUID
    await load_user()  # error: whose?
    await load_user(id, True)  # error: by keyword
    await load_user(id, fersh=True)  # error: misspelt
    await load_user.invalidate("7")  # error: the same parameters
    await load_user.invalidate()  # error: the same parameters
    await load_user.invalidate(id, fersh=True)  # error: the same parameters
    print((await load_user(id)).email)  # error: there may be none

    @db.cached("cache:user:{user_id}", ttl=300)  # error: a duration is a timedelta
    async def numbered(user_id: UUID) -> User | None:
        return await db.users.get(user_id)

    @db.cached("cache:user:{user_id}", ttl=timedelta(minutes=5))  # error: an async function
    def waiting(user_id: UUID) -> User:
        raise NotImplementedError
