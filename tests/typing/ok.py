"""What type checkers must accept, and the types they must see. Checked by `test_typing.py`; never run."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import assert_type
from uuid import UUID

import sqlalchemy as sa

from multidb import (
    AppendOnlyRepository,
    CachePolicy,
    Company,
    Health,
    LogLevel,
    Model,
    MongoRepository,
    MultiDB,
    NewCompany,
    NewUser,
    Page,
    PostgresRepository,
    RealtimeEvent,
    Row,
    Session,
    Settings,
    SystemLog,
    Transaction,
    User,
    UserChanges,
    VersionedDocument,
)
from multidb.models import DocumentMetadataChanges, UndeliveredEffect


class Invoice(Row):
    number: str


class NewInvoice(Model):
    id: UUID
    number: str


class InvoiceChanges(Model):
    number: str = ""


invoices = sa.Table("invoices", sa.MetaData(), sa.Column("number", sa.Text))


class InvoiceRepository(PostgresRepository[Invoice, NewInvoice, InvoiceChanges]):
    table = invoices
    cache = CachePolicy("cache:invoice:{id}", ttl=timedelta(minutes=5), local=True)
    unique = {"invoices_pkey": ("id",)}


class ReceiptRepository(PostgresRepository[Invoice, NewInvoice]):
    table = invoices


class LogRepository(AppendOnlyRepository[SystemLog]):
    collection = "logs"
    order_by = "-timestamp"


class Memo(VersionedDocument):
    text: str


class NewMemo(Model):
    id: UUID = UUID(int=0)
    text: str


class MemoRepository(MongoRepository[Memo]):
    collection = "memos"


class PaperRepository(MongoRepository[Memo, NewMemo]):
    collection = "papers"


async def opening(settings: Settings) -> None:
    async with MultiDB(settings, repositories=[InvoiceRepository, LogRepository]) as db:
        assert_type(db, MultiDB)
        assert_type(await db.health(), Health)
    async with MultiDB() as db:
        assert_type(db, MultiDB)
    async with MultiDB.embedded("./.multidb") as db:
        assert_type(db, MultiDB)


async def rows(db: MultiDB, id: UUID) -> None:
    assert_type(await db.users.get(id), User | None)
    assert_type(await db.users.fetch(id), User)
    assert_type(await db.users.get_many([id]), dict[UUID, User])
    assert_type(await db.users.get_many(id for _ in range(3)), dict[UUID, User])
    assert_type(await db.users.find_one(name="Ada"), User | None)
    assert_type(await db.users.by_email("ada@example.com"), User | None)
    assert_type(await db.users.count(), int)
    assert_type(await db.users.exists(name="Ada"), bool)
    assert_type(await db.users.add_many([]), int)
    assert_type(await db.users.update(id, UserChanges(name="Ada")), User)
    assert_type(await db.users.update(id, UserChanges(name="Ada"), version=3), User)
    assert_type(await db.users.update(id, name="Ada", version=3), User)
    assert_type(await db.users.delete(id, version=3), bool)
    assert_type(await db.users.restore(id), User)
    assert_type(await db.companies.get(id), Company | None)
    assert_type((await db.users.fetch(id)).created_at, datetime)
    assert_type((await db.users.fetch(id)).email, str)
    assert_type((await db.users.fetch(id)).version, int)


async def adding(db: MultiDB) -> None:
    """The fields with a default need not be given: ids and moments are made by the client."""
    assert_type(await db.users.add(NewUser(email="ada@example.com", name="Ada")), User)
    assert_type(await db.companies.add(NewCompany(name="Engines", slug="engines")), Company)
    entry = SystemLog(level=LogLevel.INFO, service="shop", message="it began")
    assert_type(await db.system_logs.append(entry), UUID)
    assert_type(NewUser(email="ada@example.com", name="Ada").id, UUID)
    assert_type(entry.timestamp, datetime)


async def pages(db: MultiDB) -> None:
    page = await db.users.find(invoices.c.number == "1", order_by=["-created_at", "id"], limit=10)
    assert_type(page, Page[User])
    assert_type(page.items, tuple[User, ...])
    assert_type(page.next, str | None)
    assert_type(iter(page), Iterator[User])
    assert_type([user.email for user in page], list[str])
    for user in page:
        assert_type(user, User)
    assert_type(await db.users.find(name="Ada", after=page.next), Page[User])
    assert_type(await db.system_logs.find({"level": "error"}, order_by="-timestamp"), Page[SystemLog])


async def logs(db: MultiDB, id: UUID) -> None:
    assert_type(await db.system_logs.get(id), SystemLog | None)
    assert_type(await db.system_logs.fetch(id), SystemLog)
    assert_type(await db.system_logs.append_many([]), int)
    assert_type([entry.message async for entry in db.system_logs.stream(level="error")], list[str])


async def documents(db: MultiDB, id: UUID) -> None:
    memos, papers = db[MemoRepository], db[PaperRepository]
    assert_type(await memos.add(memos.new_model(text="a")), Memo)
    assert_type(await papers.add(NewMemo(text="a")), Memo)
    assert_type(await papers.upsert(NewMemo(text="a"), on="text"), Memo)
    assert_type(await papers.put(NewMemo(text="a"), version=3), Memo)
    assert_type(await papers.update(id, text="b", version=3), Memo)
    assert_type(await papers.delete(id), bool)
    assert_type(await papers.update_many({"text": "a"}, changes={"text": "b"}), int)

    async def work() -> Memo:
        return await papers.fetch(id)

    async with db.mongo_transaction():
        assert_type(await papers.find(before=None), Page[Memo])
    assert_type(await db.run_mongo_transaction(work), Memo)


async def sessions(db: MultiDB, id: UUID) -> None:
    token, session = await db.sessions.create(id, device="phone")
    assert_type(token, str)
    assert_type(session, Session)
    assert_type(await db.sessions.get(token), Session | None)
    assert_type(await db.sessions.revoke(token), bool)


async def own_repositories(db: MultiDB, id: UUID) -> None:
    assert_type(db[InvoiceRepository], InvoiceRepository)
    assert_type(await db[InvoiceRepository].get(id), Invoice | None)
    assert_type(await db[InvoiceRepository].find(), Page[Invoice])
    assert_type(await db[InvoiceRepository].add(NewInvoice(id=id, number="1")), Invoice)
    assert_type(await db[InvoiceRepository].update(id, InvoiceChanges(number="2")), Invoice)
    # Two type arguments are enough: the changes are then made from what can be given.
    assert_type(await db[ReceiptRepository].update(id, number="2"), Invoice)
    assert_type(await db[LogRepository].get(id), SystemLog | None)


async def caching(db: MultiDB, id: UUID) -> None:
    @db.cached("cache:user:{user_id}", ttl=timedelta(minutes=5))
    async def load_user(user_id: UUID) -> User | None:
        return await db.users.get(user_id)

    @db.cached("cache:score:{user_id}:{board}", ttl=timedelta(minutes=5))
    async def score(user_id: UUID, board: str, *, fresh: bool = False) -> dict[str, int]:
        return {}

    assert_type(await load_user(id), User | None)
    assert_type(await load_user(user_id=id), User | None)
    assert_type(await load_user.invalidate(id), None)
    assert_type(await load_user.invalidate(user_id=id), None)
    assert_type(await score(id, "chess", fresh=True), dict[str, int])
    assert_type(await score.invalidate(id, board="chess"), None)
    with db.uncached():
        assert_type(await score(id, board="chess"), dict[str, int])


async def transactions(db: MultiDB, id: UUID) -> None:
    async with db.transaction(), db.transaction():
        assert_type(await db.users.fetch(id), User)


async def effects(db: MultiDB, id: UUID, log: SystemLog) -> None:
    async with db.transaction() as tx:
        assert_type(tx, Transaction)
        assert_type(await tx.system_logs.append_many([]), int)
        assert_type(await tx.realtime_events.publish(RealtimeEvent(channel="c", kind="k")), UUID)
        assert_type(await tx.document_metadata.update(id, author="Ada"), None)
        assert_type(await tx.document_metadata.update(id, DocumentMetadataChanges(author=None)), None)
        assert_type(await tx.dynamic_configurations.set("limits.uploads", 7, by="ada"), None)
        assert_type(await tx.sessions.revoke_all(id, except_=id), None)
        assert_type(await tx.counters.increment("/e", by=3), None)
        assert_type(await tx[PaperRepository].add(NewMemo(text="short")), UUID)
        assert_type(await tx[LogRepository].append(log), UUID)
        tx.uploads.abort(id)  # may be awaited, and need not be
        tx.on_commit(db.close)
    assert_type(await db.outbox.find(dead=True), list[UndeliveredEffect])

    async def work(tx: Transaction) -> User:
        tx.sessions.revoke_all(id)
        return await db.users.fetch(id)

    assert_type(await db.run_transaction(work), User)


async def stream(page: Page[User]) -> AsyncIterator[str]:
    """A page is a plain iterable of its items."""
    for user in page:
        yield user.name
