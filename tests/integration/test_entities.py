"""What single entities can do beyond what every repository can."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from multidb import (
    Company,
    ConflictError,
    DataError,
    InvalidCursorError,
    KanbanBoard,
    KanbanCard,
    MultiDB,
    NewCompany,
    NewDocument,
    NewKanbanBoard,
    NewKanbanCard,
    NewKanbanColumn,
    NewUser,
    NewUserProfile,
    NewUserSession,
    NotFoundError,
    User,
)
from multidb.models.ids import uuid7


@pytest.fixture
async def company(db: MultiDB) -> Company:
    return await db.companies.add(NewCompany(name="Engines", slug="engines"))


@pytest.fixture
async def ada(db: MultiDB) -> User:
    return await db.users.add(NewUser(email="ada@example.com", name="Ada"))


# --- memberships


async def test_a_user_joins_changes_role_and_leaves(db: MultiDB, company: Company, ada: User):
    joined = await db.company_users.join(company.id, user_id=ada.id)
    assert (joined.role, joined.version) == ("member", 1)
    again = await db.company_users.join(company.id, user_id=ada.id, role="owner")
    assert (again.id, again.role, again.version) == (joined.id, "owner", 2)
    assert await db.company_users.membership(company.id, user_id=ada.id) == again
    assert await db.company_users.leave(company.id, user_id=ada.id)
    assert not await db.company_users.leave(company.id, user_id=ada.id)
    assert await db.company_users.membership(company.id, user_id=ada.id) is None


async def test_what_is_no_membership_is_refused_by_name(db: MultiDB, company: Company, ada: User):
    role: Any = "boss"
    with pytest.raises(DataError, match="`role` of NewCompanyUser"):
        await db.company_users.join(company.id, user_id=ada.id, role=role)
    slug: Any = 7
    with pytest.raises(DataError, match="`slug` of Company"):
        await db.companies.by_slug(slug)


async def test_many_joining_at_once_are_one_membership(db: MultiDB, company: Company, ada: User):
    await asyncio.gather(*(db.company_users.join(company.id, user_id=ada.id) for _ in range(20)))
    assert await db.company_users.count() == 1


async def test_members_come_with_their_users_and_memberships_with_their_companies(
    db: MultiDB, company: Company, ada: User
):
    other = await db.users.add(NewUser(email="bob@example.com", name="Bob"))
    for user in (ada, other):
        await db.company_users.join(company.id, user_id=user.id)
    page = await db.company_users.members(company.id, limit=1)
    rest = await db.company_users.members(company.id, limit=1, after=page.next)
    assert [each.user for each in (*page, *rest)] == [ada, other]
    assert [each.company for each in await db.company_users.memberships(ada.id)] == [company]


# --- relations


async def test_a_user_comes_with_profile_and_companies(db: MultiDB, company: Company, ada: User):
    profile = await db.user_profiles.add(NewUserProfile(user_id=ada.id, display_name="The Countess"))
    await db.company_users.join(company.id, user_id=ada.id)
    user = await db.users.fetch(ada.id, include=("profile", "companies"))
    assert user == ada
    assert user.profile == profile
    assert user.companies == (company,)
    assert "profile" not in user.model_dump()
    (found,) = await db.users.find(include=("profile",))
    assert found.profile == profile
    many = await db.users.get_many([ada.id], include=("companies",))
    assert many[ada.id].companies == (company,)


@pytest.mark.parametrize("email", [None, 7, b"ada@example.com"])
async def test_by_email_takes_text(db: MultiDB, email: Any):
    with pytest.raises(DataError, match="`email` must be a text, not"):
        await db.users.by_email(email)


async def test_what_is_not_there_is_none_or_nothing(db: MultiDB, ada: User):
    user = await db.users.fetch(ada.id, include=("profile", "companies"))
    assert user.profile is None
    assert user.companies == ()


async def test_what_was_not_asked_for_is_refused(db: MultiDB, ada: User):
    with pytest.raises(DataError, match=r"include=\('profile',\)"):
        _ = (await db.users.fetch(ada.id)).profile
    with pytest.raises(DataError, match="`friends` is no relation of User; it has profile, companies"):
        await db.users.get(ada.id, include=("friends",))
    wrong: Any
    for wrong in ("profile", 7):
        with pytest.raises(DataError, match="several names"):
            await db.users.get(ada.id, include=wrong)
    for wrong in ([["profile"]], [None]):
        with pytest.raises(DataError, match="is no relation of User"):
            await db.users.get(ada.id, include=wrong)


async def test_the_very_ends_of_time_come_back_with_their_zone(db: MultiDB, ada: User):
    ends = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    for end in ends:
        added = await db.user_sessions.add(NewUserSession(user_id=ada.id, started_at=end))
        assert added.started_at == end
    assert [each.started_at async for each in db.user_sessions.stream(order_by="started_at")] == ends


# --- search


@pytest.fixture
async def library(db: MultiDB, company: Company, ada: User) -> dict[str, str]:
    texts = {
        "Steam engines": "On the motion of pistons and the heat of boilers.",
        "Looms": "Weaving with punched cards. The engine turns, the engines turn the looms.",
        "Poems": "She walks in beauty, like the night.",
    }
    await db.documents.add_many(
        NewDocument(company_id=company.id, owner_id=ada.id, title=title, body=body)
        for title, body in texts.items()
    )
    return texts


async def test_search_ranks_the_title_first_and_shows_where(db: MultiDB, library: dict[str, str]):
    found = await db.documents.search("engine")
    assert [each.document.title for each in found] == ["Steam engines", "Looms"]
    assert [each.rank for each in found] == sorted((each.rank for each in found), reverse=True)
    assert "**engines**" in found.items[0].snippet
    assert "**engine**" in found.items[1].snippet
    assert [each.document.body for each in found] == [library["Steam engines"], library["Looms"]]


async def test_search_knows_phrases_exclusions_and_alternatives(db: MultiDB, library: dict[str, str]):
    async def titles(query: str) -> set[str]:
        return {each.document.title for each in await db.documents.search(query)}

    assert await titles('"punched cards"') == {"Looms"}
    assert await titles("engine -looms") == {"Steam engines"}
    assert await titles("boiler or beauty") == {"Steam engines", "Poems"}
    assert await titles("") == await titles("the") == set()
    assert await titles("'); DROP TABLE documents; --") == set()


async def test_search_goes_on_where_a_page_ended(db: MultiDB, company: Company, ada: User):
    await db.documents.add_many(
        NewDocument(company_id=company.id, owner_id=ada.id, title="engine " * (1 + n % 3)) for n in range(10)
    )
    titles, ids, after = [], [], None
    while True:
        page = await db.documents.search("engine", db.documents.c.status == "draft", limit=3, after=after)
        titles += [each.document.title for each in page]
        ids += [each.document.id for each in page]
        after = page.next
        if after is None:
            break
    assert len(set(ids)) == 10
    assert titles == sorted(titles, key=len, reverse=True)
    first = await db.documents.search("engine", limit=3)
    with pytest.raises(InvalidCursorError):
        await db.documents.search("engines", limit=3, after=first.next)


async def test_search_sees_no_deleted_document(db: MultiDB, library: dict[str, str]):
    (found,) = await db.documents.search("beauty")
    await db.documents.delete(found.document.id)
    assert not (await db.documents.search("beauty")).items


# --- kanban


@pytest.fixture
async def board(db: MultiDB, company: Company) -> KanbanBoard:
    board = await db.kanban_boards.add(NewKanbanBoard(company_id=company.id, name="Works"))
    for name in ("todo", "doing"):
        rank = await db.kanban_columns.place(board.id)
        await db.kanban_columns.add(
            NewKanbanColumn(company_id=company.id, board_id=board.id, name=name, rank=rank)
        )
    todo, _ = (await db.kanban_boards.fetch(board.id, include=("columns",))).columns
    for title in "abc":
        rank = await db.kanban_cards.place(todo.id)
        await db.kanban_cards.add(
            NewKanbanCard(company_id=company.id, board_id=board.id, column_id=todo.id, title=title, rank=rank)
        )
    return await db.kanban_boards.fetch(board.id, include=("columns", "cards"))


async def cards_of(db: MultiDB, board: KanbanBoard, column: int) -> list[KanbanCard]:
    cards = (await db.kanban_boards.fetch(board.id, include=("cards",))).cards
    return [card for card in cards if card.column_id == board.columns[column].id]


async def test_a_card_moves_and_touches_no_other(db: MultiDB, board: KanbanBoard):
    a, b, c = board.cards
    moved = await db.kanban_cards.move(c.id, before=a.id)
    assert moved.version == 2
    assert await cards_of(db, board, 0) == [moved, a, b]
    moved = await db.kanban_cards.move(c.id, after=a.id)
    assert await cards_of(db, board, 0) == [a, moved, b]
    moved = await db.kanban_cards.move(c.id)
    assert await cards_of(db, board, 0) == [a, b, moved]
    moved = await db.kanban_cards.move(a.id, column_id=board.columns[1].id)
    assert await cards_of(db, board, 1) == [moved]
    assert [card.title for card in await cards_of(db, board, 0)] == ["b", "c"]


async def test_cards_that_move_to_one_place_at_once_all_arrive(db: MultiDB, board: KanbanBoard):
    a, b, c = board.cards
    moved = [db.kanban_cards.move(each.id, column_id=board.columns[1].id) for each in (a, b, c)]
    await asyncio.gather(*moved)
    assert {card.title for card in await cards_of(db, board, 1)} == {"a", "b", "c"}


async def test_a_wrong_place_is_refused(db: MultiDB, board: KanbanBoard):
    a, b, _ = board.cards
    with pytest.raises(DataError, match="not both"):
        await db.kanban_cards.move(a.id, before=b.id, after=b.id)
    with pytest.raises(DataError, match="`before`"):
        await db.kanban_cards.move(a.id, before=a.id)
    with pytest.raises(DataError, match="`after`"):
        await db.kanban_cards.move(a.id, column_id=board.columns[1].id, after=b.id)
    with pytest.raises(NotFoundError):
        await db.kanban_cards.move(uuid7())
    with pytest.raises(ConflictError):
        await db.kanban_cards.move(a.id, version=7)


async def test_columns_move_too(db: MultiDB, board: KanbanBoard):
    todo, doing = board.columns
    moved = await db.kanban_columns.move(doing.id, before=todo.id)
    assert (await db.kanban_boards.fetch(board.id, include=("columns",))).columns == (moved, todo)
