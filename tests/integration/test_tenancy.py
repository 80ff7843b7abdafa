"""`db.tenant(...)`: every method of every repository of companies' rows, tried across two companies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from multidb import (
    DataError,
    MultiDB,
    MultiDBError,
    NewCalendarEvent,
    NewCompany,
    NewCompanyUser,
    NewDocument,
    NewForm,
    NewJob,
    NewKanbanBoard,
    NewKanbanCard,
    NewKanbanColumn,
    NewUser,
    NotFoundError,
    Page,
    PostgresRepository,
    Settings,
)
from multidb.models.ids import uuid7
from multidb.registry import BUILT_IN
from multidb.repositories.job_endings import Ending
from multidb.repositories.postgres_reader import PostgresReader
from multidb.stores.postgres.engine import connect

TENANTS = [each for each in BUILT_IN if issubclass(each, PostgresReader) and each.tenant is not None]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class House(NamedTuple):
    """A company, and a row of it in each table, by entity."""

    id: Any
    rows: dict[str, Any]
    #: Makes another row of this company.
    new: dict[str, Callable[[], Any]]


async def house(db: MultiDB, name: str) -> House:
    company = await db.companies.add(NewCompany(name=name, slug=name))
    user = await db.users.add(NewUser(email=f"{name}@example.com", name=name))
    board = await db.kanban_boards.add(NewKanbanBoard(company_id=company.id, name=name))
    column = await db.kanban_columns.add(
        NewKanbanColumn(company_id=company.id, board_id=board.id, name=name, rank="V")
    )
    ids = {"company_id": company.id}
    on_board = {**ids, "board_id": board.id}
    new: dict[str, Callable[[], Any]] = {
        "companies": lambda: NewCompany(name=name, slug=f"{name}-{uuid7().hex}"),
        "company_users": lambda: NewCompanyUser(**ids, user_id=user.id),
        "documents": lambda: NewDocument(**ids, owner_id=user.id, title="secret plans"),
        "jobs": lambda: NewJob(**ids, queue="ai", kind="read", payload={}),
        "forms": lambda: NewForm(**ids, name="survey", definition={}),
        "calendar_events": lambda: NewCalendarEvent(
            **ids, title="meeting", starts_at=NOON, ends_at=NOON + timedelta(hours=1)
        ),
        "kanban_boards": lambda: NewKanbanBoard(**ids, name=name),
        "kanban_columns": lambda: NewKanbanColumn(**on_board, name=name, rank="k"),
        "kanban_cards": lambda: NewKanbanCard(**on_board, column_id=column.id, title=name, rank="V"),
    }
    rows: dict[str, Any] = {"companies": company, "kanban_boards": board, "kanban_columns": column}
    for entity, make in new.items():
        if entity not in rows:
            rows[entity] = await getattr(db, entity).add(make())
    (rows["audit_logs"],) = await db.audit_logs.history("documents", rows["documents"].id)
    return House(company.id, rows, new)


#: By method, the ways to reach another company's row by it: repository, our row, theirs, and how
#: to make a new one of theirs.
Reach = Callable[[Any, Any, Any, Callable[[], Any]], Awaitable[Any]]


async def streamed(rows: AsyncIterator[Any]) -> list[Any]:
    return [row async for row in rows]


async def heard(jobs: Any) -> list[Any]:
    names: list[Any] = []
    async with jobs.listen(names.append):
        return names


READS: dict[str, list[Reach]] = {
    "get": [lambda r, _, t, __: r.get(t.id), lambda r, _, t, __: r.get(t.id, include=tuple(r.relations))],
    "fetch": [lambda r, _, t, __: r.fetch(t.id)],
    "get_many": [lambda r, o, t, _: r.get_many([o.id, t.id], include=tuple(r.relations))],
    "find": [
        lambda r, *_: r.find(),
        lambda r, _, t, __: r.find(id=t.id),
        lambda r, _, t, __: r.find((r.c.id == t.id) | ~(r.c.id == t.id)),
        lambda r, _, t, __: r.find(sa.or_(r.table.c.id == t.id, sa.true())),
        lambda r, _, t, __: r.find(**{r.tenant: getattr(t, r.tenant)}),
        lambda r, *_: r.find(total=True, include=tuple(r.relations), order_by="-id"),
    ],
    "find_one": [lambda r, _, t, __: r.find_one(id=t.id)],
    "stream": [lambda r, *_: streamed(r.stream()), lambda r, *_: streamed(r.stream(sa.true()))],
    "count": [lambda r, _, t, __: r.count(id=t.id)],
    "exists": [lambda r, _, t, __: r.exists(id=t.id), lambda r, _, t, __: r.exists(r.c.id == t.id)],
    "related": [lambda r, _, t, __: r.related([t.id], by="id")],
    "history": [lambda r, _, t, __: r.history("documents", t.entity_id)],
    "stats": [lambda r, *_: r.stats()],
    "listen": [lambda r, *_: heard(r)],
}
WRITES: dict[str, list[Reach]] = {
    "add": [lambda r, _, __, new: r.add(new())],
    "add_many": [
        lambda r, _, __, new: r.add_many([new()]),
        lambda r, _, __, new: r.add_many([new() for _ in range(150)]),
    ],
    "update": [lambda r, _, t, __: r.update(t.id, change(r)), lambda r, _, t, __: r.update(t.id)],
    "update_many": [lambda r, *_: r.update_many(sa.true(), changes=change(r))],
    "upsert": [
        lambda r, _, t, new: r.upsert(new().model_copy(update={"id": t.id})),
        lambda r, o, t, new: r.upsert(ours_as(r, o, t, new)),
    ],
    "upsert_many": [
        lambda r, _, t, new: r.upsert_many([new().model_copy(update={"id": t.id})]),
        lambda r, o, t, new: r.upsert_many([ours_as(r, o, t, new)]),
    ],
    "delete": [lambda r, _, t, __: r.delete(t.id)],
    "delete_many": [lambda r, _, t, __: r.delete_many(id=t.id), lambda r, *_: r.delete_many(sa.true())],
    "restore": [lambda r, _, t, __: r.restore(t.id)],
    "by_slug": [lambda r, _, t, __: r.by_slug(t.slug)],
    "by_name": [lambda r, _, t, __: r.by_name(t.company_id, name=t.name)],
    "join": [lambda r, _, t, __: r.join(t.company_id, user_id=t.user_id, role="owner")],
    "leave": [lambda r, _, t, __: r.leave(t.company_id, user_id=t.user_id)],
    "membership": [lambda r, _, t, __: r.membership(t.company_id, user_id=t.user_id)],
    "members": [lambda r, _, t, __: r.members(t.company_id)],
    "memberships": [lambda r, _, t, __: r.memberships(t.user_id)],
    "search": [lambda r, *_: r.search("secret")],
    "place": [lambda r, _, t, __: r.place(getattr(t, "column_id", None) or t.board_id, before=t.id)],
    "move": [
        lambda r, _, t, __: r.move(t.id),
        lambda r, o, t, _: r.move(o.id, before=t.id),
    ],
    "enqueue": [
        lambda r, _, __, new: r.enqueue(new()),
        lambda r, _, __, new: r.enqueue(new().model_copy(update={"idempotency_key": "once"})),
        lambda r, o, t, _: r.enqueue(
            NewJob(company_id=o.company_id, queue="ai", kind="x", payload={}, depends_on=(t.id,))
        ),
    ],
    "enqueue_many": [
        lambda r, _, __, new: r.enqueue_many([new()]),
        lambda r, _, __, new: r.enqueue_many([new().model_copy(update={"idempotency_key": "once"})]),
    ],
    "claim": [
        lambda r, _, t, __: r.claim(t.queue, worker="thief", limit=1000),
        lambda r, _, t, __: r.claim(t.queue, worker="thief", limit=1000, fair=True),
    ],
    # Queues have workers and limits, whichever company's the jobs are.
    "rescue": [lambda r, *_: r.rescue()],
    "limit": [lambda r, _, t, __: r.limit(t.queue, at_most=1000), lambda r, _, t, __: r.limit(t.queue)],
    "prune": [lambda r, *_: r.prune(timedelta(0))],
    "cancel": [lambda r, _, t, __: r.cancel(t.id), lambda r, _, t, __: r.cancel(t)],
    "retry": [lambda r, _, t, __: r.retry(t.id)],
    "discard": [lambda r, _, t, __: r.discard(t.id)],
    "heartbeat": [lambda r, _, t, __: r.heartbeat([t])],
    "progress": [lambda r, _, t, __: r.progress(t, 0.5)],
    "complete": [lambda r, _, t, __: r.complete(t)],
    "fail": [lambda r, _, t, __: r.fail(t, "stolen")],
    "snooze": [lambda r, _, t, __: r.snooze(t, timedelta(hours=1))],
    "release": [lambda r, _, t, __: r.release(t)],
    "finish": [lambda r, _, t, __: r.finish([Ending(t, "completed")])],
}
NOT_CALLS = {"target", "entity", "check", "claims", "model", "new_model", "changes_model"}


def change(repository: Any) -> Any:
    """Return a change that fits any row of the repository."""
    values = {"name": "stolen", "title": "stolen", "role": "owner", "priority": 7}
    fields = repository.changes_model.model_fields
    return repository.changes_model(**{name: value for name, value in values.items() if name in fields})


def ours_as(repository: Any, ours: Any, theirs: Any, new: Callable[[], Any]) -> Any:
    """Return a new row of ours that has the id of theirs."""
    return new().model_copy(
        update={"id": theirs.id, **({} if repository.tenant == "id" else {"company_id": ours.company_id})}
    )


def nothing() -> None:
    """Make nothing: of what is only read, there is nothing new."""


def found_in(result: Any) -> Iterable[Any]:
    """Yield every id in what a call returned, those of what it includes too."""
    if isinstance(result, BaseModel):
        yield getattr(result, "id", None)
        for value in vars(result).values():
            yield from found_in(value)
    elif isinstance(result, Page):
        yield from found_in(result.items)
    elif isinstance(result, dict):
        yield from found_in(list(result.values()))
    elif isinstance(result, list | tuple):
        for each in result:
            yield from found_in(each)


async def leaks(db: MultiDB, settings: Settings, ours: House, theirs: House) -> list[str]:
    """Return the calls that showed or changed something of the other company."""
    async with AsyncExitStack() as stack:
        outside = await connect(settings)
        stack.push_async_callback(outside.close)
        return await leaks_seen(db, outside, ours, theirs)


async def leaks_seen(db: MultiDB, outside: Any, ours: House, theirs: House) -> list[str]:
    found = []
    hidden = {row.id for row in theirs.rows.values()}
    before = await contents(outside, theirs)
    for repository in TENANTS:
        entity = repository.entity()
        rows = getattr(db, entity)
        for method in methods(repository):
            for number, reach in enumerate((READS | WRITES)[method]):
                call = f"{entity}.{method} #{number}"
                try:
                    async with db.tenant(ours.id):
                        result = await reach(
                            rows, ours.rows[entity], theirs.rows[entity], theirs.new.get(entity, nothing)
                        )
                except MultiDBError:
                    result = None
                if hidden & set(found_in(result)) or (method in {"count", "exists"} and result):
                    found.append(f"{call} shows it")
                if await contents(outside, theirs) != before:
                    found.append(f"{call} changed it")
                    before = await contents(outside, theirs)
    return found


def methods(repository: type) -> list[str]:
    names = [name for name in dir(repository) if not name.startswith("_") and name not in NOT_CALLS]
    calls = [name for name in names if callable(getattr(repository, name))]
    # Last what takes our own rows away.
    return sorted(calls, key=lambda name: ("delete" in name, name))


async def contents(outside: Any, of: House) -> dict[str, list[str]]:
    """Return all rows of a company, as text, read past the library."""
    return {
        repository.entity(): [
            row[0]
            for row in await outside.fetch(
                f"SELECT t::text FROM {repository.target()} t WHERE {repository.tenant} = $1 ORDER BY 1",
                of.id,
            )
        ]
        for repository in TENANTS
    }


@pytest.fixture
async def ours(db: MultiDB) -> House:
    return await house(db, "ours")


@pytest.fixture
async def theirs(db: MultiDB) -> House:
    return await house(db, "theirs")


def test_every_method_of_every_repository_is_tried():
    for repository in TENANTS:
        assert set(methods(repository)) <= set(READS | WRITES), repository.__name__


async def test_nothing_leaks(db: MultiDB, multidb_settings: Settings, ours: House, theirs: House):
    assert await leaks(db, multidb_settings, ours, theirs) == []


async def test_the_library_alone_lets_nothing_leak(
    db: MultiDB, multidb_settings: Settings, ours: House, theirs: House
):
    async with db.postgres.engine.begin() as connection:
        for repository in TENANTS:
            await connection.execute(sa.text(f"ALTER TABLE {repository.target()} DISABLE ROW LEVEL SECURITY"))
    assert await leaks(db, multidb_settings, ours, theirs) == []


async def test_the_database_alone_lets_nothing_leak(
    db: MultiDB, multidb_settings: Settings, ours: House, theirs: House, monkeypatch: pytest.MonkeyPatch
):
    """Take out what the library adds to its statements, and what it checks before it sends them."""
    columns_of = PostgresRepository._columns_of

    def unchecked(self: Any, values: Any, operation: str, _: Any) -> Any:
        return columns_of(self, values, operation, None)

    monkeypatch.setattr(PostgresRepository, "_columns_of", unchecked)
    monkeypatch.setattr(PostgresReader, "_crud", lambda self, _: self._crud_of_all)
    assert await leaks(db, multidb_settings, ours, theirs) == []


async def test_nothing_leaks_inside_a_transaction(
    db: MultiDB, multidb_settings: Settings, ours: House, theirs: House
):
    """One that began outside: it switches at each call, also after what failed."""
    found = []
    hidden = {row.id for row in theirs.rows.values()}
    for repository in TENANTS:
        rows = getattr(db, repository.entity())
        for method in methods(repository):
            for number, reach in enumerate((READS | WRITES)[method]):
                async with db.transaction():
                    mine, other = ours.rows[repository.entity()], theirs.rows[repository.entity()]
                    try:
                        async with db.transaction(), db.tenant(ours.id):
                            result = await reach(
                                rows, mine, other, theirs.new.get(repository.entity(), nothing)
                            )
                    except MultiDBError:
                        result = None
                    if hidden & set(found_in(result)):
                        found.append(f"{rows.entity()}.{method} #{number}")
                    if not await rows.exists(id=other.id):
                        found.append(f"{rows.entity()}.{method} #{number} took it away, or kept the scope")
    assert found == []


# --- what it is


async def test_our_own_rows_are_seen_changed_and_added(db: MultiDB, ours: House, theirs: House):
    async with db.tenant(ours.id):
        for repository in TENANTS:
            rows = getattr(db, repository.entity())
            row = ours.rows[repository.entity()]
            assert await rows.get(row.id) == row
            assert row.id in {each.id for each in await rows.find()}
            if isinstance(rows, PostgresRepository):
                assert (await rows.update(row.id, change(rows))).version == 2
        added = await db.documents.add(ours.new["documents"]())
        assert await db.documents.add_many([ours.new["documents"]() for _ in range(150)]) == 150
        assert await db.documents.count() == 152
        assert await db.documents.delete(added.id)
    assert await db.documents.count() == 152


async def test_another_companys_deleted_row_is_not_restored(db: MultiDB, ours: House, theirs: House):
    document = theirs.rows["documents"]
    await db.documents.delete(document.id)
    async with db.tenant(ours.id):
        with pytest.raises(NotFoundError):
            await db.documents.restore(document.id)
    assert await db.documents.get(document.id) is None


async def test_batches_of_two_companies_never_mix(db: MultiDB, ours: House, theirs: House):
    async def get(scope: House, row: Any) -> Any:
        async with db.tenant(scope.id):
            return await db.documents.get(row.id)

    mine, other = ours.rows["documents"], theirs.rows["documents"]
    pairs = [(ours, mine), (theirs, other), (ours, other), (theirs, mine)] * 25
    got = await asyncio.gather(*(get(scope, row) for scope, row in pairs))
    assert got == [mine, other, None, None] * 25


async def test_the_scope_nests_reaches_tasks_and_can_be_lifted(db: MultiDB, ours: House, theirs: House):
    async def mine() -> bool:
        return await db.documents.exists(id=ours.rows["documents"].id)

    async with db.tenant(theirs.id):
        assert not await mine()
        assert not await asyncio.create_task(mine())
        async with db.tenant(ours.id):
            assert await mine()
        async with db.unscoped():
            assert await mine()
        assert not await mine()
    assert await mine()


async def test_no_connection_keeps_a_scope(db: MultiDB, ours: House, theirs: House):
    async with db.tenant(ours.id):
        for _ in range(3):
            await asyncio.gather(*(db.documents.count() for _ in range(20)))
            with pytest.raises(NotFoundError):
                await db.documents.fetch(theirs.rows["documents"].id)
    async with db.postgres.engine.connect() as connection:
        row = (await connection.execute(sa.text("SELECT current_user, session_user"))).one()
    assert row[0] == row[1]
    assert await db.documents.count() == 2


async def test_a_rolled_back_savepoint_takes_its_scope_with_it(db: MultiDB, ours: House, theirs: House):
    async with db.transaction():
        async with db.tenant(ours.id):
            assert await db.documents.count() == 1
            with pytest.raises(NotFoundError):
                async with db.transaction(), db.tenant(theirs.id):
                    assert await db.documents.exists(id=theirs.rows["documents"].id)
                    await db.documents.fetch(ours.rows["documents"].id)
            assert await db.documents.exists(id=ours.rows["documents"].id)
            assert await db.documents.count() == 1
        assert await db.documents.count() == 2


async def test_a_setting_makes_the_scope_required(multidb_settings: Settings, ours: House):
    async with MultiDB(multidb_settings.model_copy(update={"tenant_required": True})) as db:
        with pytest.raises(DataError, match="whose rows"):
            await db.documents.find()
        with pytest.raises(DataError, match="whose rows"):
            await db.documents.add(ours.new["documents"]())
        async with db.unscoped():
            assert await db.documents.count() == 1
        async with db.tenant(ours.id):
            assert await db.documents.count() == 1
        assert await db.users.count() == 1


def test_a_company_is_a_uuid(multidb_servers: Settings):
    with pytest.raises(DataError, match="must be a UUID, not str"):
        MultiDB(multidb_servers).tenant("7")  # type: ignore[arg-type]
