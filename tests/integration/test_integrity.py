"""What the tables themselves refuse, whoever writes: double bookings, and what belongs to another company."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from multidb import (
    CalendarEvent,
    ConstraintError,
    MultiDB,
    NewCalendarEvent,
    NewCompany,
    NewDocument,
    NewJob,
    NewKanbanBoard,
    NewKanbanCard,
    NewKanbanColumn,
    NewUser,
)
from multidb.models.ranks import between
from tests.integration.postgres import raw

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def company(db: MultiDB, name: str = "Engines") -> UUID:
    return (await db.companies.add(NewCompany(name=name, slug=f"{name}-{uuid4()}".lower()))).id


# --- calendar


async def book(
    db: MultiDB, company_id: UUID, resource_id: UUID | None, starts: datetime = NOON, lasts: timedelta = HOUR
) -> CalendarEvent:
    return await db.calendar_events.add(
        NewCalendarEvent(
            company_id=company_id,
            resource_id=resource_id,
            title="Tea",
            starts_at=starts,
            ends_at=starts + lasts,
        )
    )


async def test_a_resource_is_booked_once_at_a_time(db: MultiDB):
    mine, room = await company(db), uuid4()
    booked = await book(db, mine, room)
    for starts, lasts in (
        (NOON, HOUR),
        (NOON - HOUR / 2, HOUR),
        (NOON + HOUR / 4, HOUR / 4),
        (NOON - HOUR, HOUR * 9),
    ):
        with pytest.raises(ConstraintError) as caught:
            await book(db, mine, room, starts, lasts)
        assert caught.value.constraint == "calendar_events_resource_id_excl"
        assert caught.value.columns == ("resource_id", "starts_at", "ends_at")
    # One that ends when the next begins does not overlap it.
    before, after = await book(db, mine, room, NOON - HOUR), await book(db, mine, room, NOON + HOUR)
    with pytest.raises(ConstraintError):
        await db.calendar_events.update(before.id, ends_at=NOON + timedelta(seconds=1))
    await db.calendar_events.delete(booked.id)
    assert (await db.calendar_events.update(before.id, ends_at=NOON + HOUR)).ends_at == after.starts_at
    with pytest.raises(ConstraintError):
        await db.calendar_events.restore(booked.id)


async def test_what_shares_no_resource_may_overlap(db: MultiDB):
    mine, other, room = await company(db), await company(db), uuid4()
    for company_id, resource_id in ((mine, room), (mine, uuid4()), (other, room), (mine, None), (mine, None)):
        await book(db, company_id, resource_id)
    assert await db.calendar_events.count() == 5


async def test_an_event_ends_after_it_starts(db: MultiDB):
    mine = await company(db)
    for lasts in (timedelta(0), -HOUR):
        with pytest.raises(ConstraintError) as caught:
            await book(db, mine, None, NOON, lasts)
        assert caught.value.constraint == "calendar_events_ends_after_start_check"


async def test_attendees_come_back_as_they_were_given(db: MultiDB):
    mine, attendees = await company(db), (uuid4(), uuid4())
    new = NewCalendarEvent(
        company_id=mine, title="Tea", starts_at=NOON, ends_at=NOON + HOUR, attendees=attendees
    )
    added = await db.calendar_events.add(new)
    assert added.attendees == attendees
    assert (await db.calendar_events.fetch(added.id)).attendees == attendees
    assert (await db.calendar_events.update(added.id, attendees=())).attendees == ()


# --- kanban


class Board:
    """A company's board with two columns."""

    company: UUID
    board: UUID
    todo: UUID
    done: UUID


async def board(db: MultiDB) -> Board:
    made = Board()
    made.company = await company(db)
    made.board = (await db.kanban_boards.add(NewKanbanBoard(company_id=made.company, name="Work"))).id
    made.todo, made.done = [
        (
            await db.kanban_columns.add(
                NewKanbanColumn(company_id=made.company, board_id=made.board, name=name, rank=rank)
            )
        ).id
        for name, rank in (("To do", "V"), ("Done", "W"))
    ]
    return made


def card(on: Board, **changes: Any) -> NewKanbanCard:
    fields: dict[str, Any] = {
        "company_id": on.company,
        "board_id": on.board,
        "column_id": on.todo,
        "title": "Sweep",
        "rank": "V",
        **changes,
    }
    return NewKanbanCard(**fields)


async def test_a_card_hangs_on_its_own_companys_board_and_on_that_boards_column(db: MultiDB):
    mine, other = await board(db), await board(db)
    for wrong in (
        {"company_id": other.company},
        {"board_id": other.board},
        {"column_id": other.todo},
        {"board_id": other.board, "column_id": other.todo},
        {"company_id": other.company, "board_id": other.board},
        {"company_id": await company(db)},
    ):
        with pytest.raises(ConstraintError) as caught:
            await db.kanban_cards.add(card(mine, **wrong))
        assert caught.value.constraint == "kanban_cards_column_id_fkey", wrong
    added = await db.kanban_cards.add(card(mine))
    with pytest.raises(ConstraintError):
        await db.kanban_cards.update(added.id, column_id=other.done)
    with pytest.raises(ConstraintError):
        await db.kanban_columns.add(
            NewKanbanColumn(company_id=mine.company, board_id=other.board, name="Theirs", rank="X")
        )


async def test_moving_a_card_changes_that_card_alone(db: MultiDB):
    mine = await board(db)
    cards = [await db.kanban_cards.add(card(mine, rank=rank)) for rank in ("A", "B", "C")]
    moved = await db.kanban_cards.update(cards[2].id, rank=between(cards[0].rank, cards[1].rank))
    there = await db.kanban_cards.find(column_id=mine.todo, order_by="rank")
    assert [each.id for each in there] == [cards[0].id, moved.id, cards[1].id]
    assert [each.version for each in there] == [1, 2, 1]
    moved = await db.kanban_cards.update(moved.id, column_id=mine.done, rank="V")
    assert [each.id for each in await db.kanban_cards.find(column_id=mine.done)] == [moved.id]


async def test_ranks_are_ordered_byte_by_byte_whatever_the_servers_locale(db: MultiDB):
    mine = await board(db)
    ranks = ["A", "B", "Z", "a", "a1", "b", "0z", "9"]
    await db.kanban_cards.add_many(card(mine, rank=rank) for rank in ranks)
    found = await db.kanban_cards.find(order_by="rank")
    assert [each.rank for each in found] == sorted(ranks)


async def test_with_a_board_go_its_columns_and_cards(db: MultiDB):
    mine, other = await board(db), await board(db)
    for each in (mine, other):
        await db.kanban_cards.add(card(each))
    async with raw(db.settings) as connection:
        await connection.execute("DELETE FROM kanban_boards WHERE id = $1", mine.board)
    assert {each.board_id for each in await db.kanban_columns.find()} == {other.board}
    assert {each.board_id for each in await db.kanban_cards.find()} == {other.board}


# --- documents and jobs


async def test_documents_hold_their_company_and_owner_and_let_their_jobs_go(db: MultiDB):
    mine, other = await company(db), await company(db)
    owner = await db.users.add(NewUser(email="ada@example.com", name="Ada"))
    document = await db.documents.add(NewDocument(company_id=mine, owner_id=owner.id, title="Notes"))
    new: dict[str, Any] = {"queue": "ai", "kind": "summary", "payload": {}, "document_id": document.id}
    job = await db.jobs.add(NewJob(**new, company_id=mine))
    nobodys = await db.jobs.add(NewJob(**new))
    with pytest.raises(ConstraintError) as caught:
        await db.jobs.add(NewJob(**new, company_id=other))
    assert caught.value.constraint == "ai_processing_jobs_company_id_document_id_fkey"
    async with raw(db.settings) as connection:
        for table, id in (("companies", mine), ("users", owner.id)):
            with pytest.raises(Exception, match="documents"):
                await connection.execute(f"DELETE FROM {table} WHERE id = $1", id)
        await connection.execute("DELETE FROM documents")
        for left in (await db.jobs.fetch(job.id), await db.jobs.fetch(nobodys.id)):
            assert left.document_id is None
        assert (await db.jobs.fetch(job.id)).company_id == mine
        await connection.execute("DELETE FROM companies WHERE id = $1", mine)
    assert await db.jobs.get(job.id) is None
    assert await db.jobs.get(nobodys.id) is not None


async def test_a_document_is_found_by_its_words(db: MultiDB):
    mine = await company(db)
    owner = await db.users.add(NewUser(email="ada@example.com", name="Ada"))
    titled, worded = [
        await db.documents.add(NewDocument(company_id=mine, owner_id=owner.id, title=title, body=body))
        for title, body in (("Engines", ""), ("Notes", "The analytical engine weaves. " * 20_000))
    ]
    search = "SELECT id FROM documents, websearch_to_tsquery('english', 'engine') q"
    async with raw(db.settings) as connection:
        found = await connection.fetch(f"{search} WHERE search @@ q ORDER BY ts_rank(search, q, 32) DESC")
    assert {row["id"] for row in found} == {titled.id, worded.id}


async def test_a_body_of_many_different_words_can_be_stored(db: MultiDB):
    """A tsvector holds one megabyte; the words of a body may be more."""
    mine = await company(db)
    owner = await db.users.add(NewUser(email="ada@example.com", name="Ada"))
    words = " ".join(chr(0x4E00 + n % 20_000) + chr(0x20000 + n) for n in range(40_000)) * 10
    document = await db.documents.add(
        NewDocument(company_id=mine, owner_id=owner.id, title="Notes", body=words)
    )
    assert (await db.documents.fetch(document.id)).body == words
