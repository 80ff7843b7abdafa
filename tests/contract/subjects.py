"""What the contract suite runs over: each repository, and how to make things for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from multidb import (
    AppendOnlyRepository,
    Model,
    MultiDB,
    NewAiProcessingResult,
    NewCalendarEvent,
    NewCompany,
    NewCompanyUser,
    NewDocument,
    NewDocumentMetadata,
    NewForm,
    NewFormSubmission,
    NewJob,
    NewKanbanBoard,
    NewKanbanCard,
    NewKanbanColumn,
    NewUser,
    NewUserProfile,
    NewUserSession,
    RealtimeEvent,
    SystemLog,
    uuid7,
)
from multidb.registry import BUILT_IN
from multidb.repositories.repository import Repository
from tests.collections import Event, Events, NewPaper, Papers

#: What things hang on, made before the first of them.
COMPANY = NewCompany(id=UUID(int=1), name="Parent", slug="parent")
PEOPLE = [NewUser(id=UUID(int=100 + n), email=f"parent{n}@example.com", name="Parent") for n in range(60)]
BOARD = NewKanbanBoard(id=UUID(int=2), company_id=COMPANY.id, name="Parent")
COLUMN = NewKanbanColumn(
    id=UUID(int=3), company_id=COMPANY.id, board_id=BOARD.id, name="Parent", rank="parent"
)
FORM = NewForm(id=UUID(int=4), company_id=COMPANY.id, name="Parent", definition={"type": "object"})

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Subject:
    """One repository under the contract."""

    name: str
    #: Makes the n-th new thing, n less than 60; things with different n share no unique value.
    new: Callable[[int], Any]
    #: A field to sort and filter by, with the value the n-th thing has there; several share one.
    field: str
    value: Callable[[int], Any] = lambda n: f"Name {n % 3}"
    #: A value of that field which none of them has.
    nowhere: Any = "nobody's"
    #: Whether the field's type is text, whatever its bounds.
    field_is_text: bool = True
    #: What must be there first, by attribute on `MultiDB`.
    parents: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    #: The class of its repository, where that is not a built-in one.
    own: type[Repository] | None = None

    @property
    def changes(self) -> type[Model]:
        """The model of its changes."""
        repository = self.own or next(each for each in BUILT_IN if each.entity() == self.name)
        return repository.changes_model  # type: ignore[attr-defined, no-any-return]

    def repository(self, db: MultiDB) -> Any:
        return getattr(db, self.name) if self.own is None else db[self.own]

    async def prepare(self, db: MultiDB) -> None:
        """Store what the things hang on."""
        for name, parents in self.parents:
            await getattr(db, name).add_many(parents)

    async def store(self, db: MultiDB, n: int) -> Any:
        """Store the n-th thing and return it as stored."""
        repository = self.repository(db)
        new = self.new(n)
        if isinstance(repository, AppendOnlyRepository):
            await repository.append(new)
            return new
        return await repository.add(new)

    async def store_many(self, db: MultiDB, count: int) -> list[Any]:
        return [await self.store(db, n) for n in range(count)]


@dataclass(frozen=True)
class RowSubject(Subject):
    """A repository of rows, or of documents, that can also change and delete."""

    #: The n-th way to change a thing.
    change: Callable[[int], dict[str, Any]] = lambda n: {"name": f"New name {n}"}
    #: A change that does not fit.
    wrong: tuple[str, Any] = ("name", "  ")
    #: A field that takes any text with a letter in it and may be changed, if there is one.
    text: str | None = "name"
    #: The unique fields beside the id, the constraint that guards them, and another thing that has
    #: the n-th one's values there; nothing where there are none.
    unique: tuple[str, ...] = ()
    constraint: str = ""
    taken: Callable[[int], Any] | None = None
    #: Whether deleting only marks the row, and it can be restored.
    marks_deleted: bool = True
    #: Whether it is of PostgreSQL: many change together or not at all, and deleted rows are asked for.
    is_table: bool = True


def titled(n: int) -> dict[str, Any]:
    return {"title": f"New title {n}"}


def in_company(*more: tuple[str, tuple[Any, ...]]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    return (("companies", (COMPANY,)), *more)


USERS = RowSubject(
    "users",
    new=lambda n: NewUser(email=f"user{n}@example.com", name=f"Name {n % 3}"),
    field="name",
    unique=("email",),
    constraint="users_email_key",
    taken=lambda n: NewUser(email=f"USER{n}@Example.COM", name="Another"),
)

COMPANIES = RowSubject(
    "companies",
    new=lambda n: NewCompany(name=f"Name {n % 3}", slug=f"company-{n}"),
    field="name",
    unique=("slug",),
    constraint="companies_slug_key",
    taken=lambda n: NewCompany(name="Another", slug=f"company-{n}"),
)

USER_PROFILES = RowSubject(
    "user_profiles",
    new=lambda n: NewUserProfile(
        user_id=PEOPLE[n].id, display_name=f"Name {n % 3}", preferences={"theme": {"dark": True, "n": [n]}}
    ),
    field="display_name",
    parents=(("users", tuple(PEOPLE)),),
    change=lambda n: {"display_name": f"New name {n}"},
    wrong=("display_name", "  "),
    text="display_name",
    unique=("user_id",),
    constraint="user_profiles_user_id_key",
    taken=lambda n: NewUserProfile(user_id=PEOPLE[n].id, display_name="Another"),
    marks_deleted=False,
)

COMPANY_USERS = RowSubject(
    "company_users",
    new=lambda n: NewCompanyUser(
        company_id=COMPANY.id, user_id=PEOPLE[n].id, role=(("admin", "member", "owner")[n % 3])
    ),
    field="role",
    value=lambda n: ("admin", "member", "owner")[n % 3],
    nowhere="viewer",
    field_is_text=False,
    parents=in_company(("users", tuple(PEOPLE))),
    change=lambda n: {"role": "viewer"},
    wrong=("role", "king"),
    text=None,
    unique=("company_id", "user_id"),
    constraint="company_users_company_id_user_id_key",
    taken=lambda n: NewCompanyUser(company_id=COMPANY.id, user_id=PEOPLE[n].id),
    marks_deleted=False,
)

USER_SESSIONS = RowSubject(
    "user_sessions",
    new=lambda n: NewUserSession(user_id=PEOPLE[0].id, device=f"Name {n % 3}", ip="2001:db8::1"),
    field="device",
    parents=(("users", (PEOPLE[0],)),),
    change=lambda n: {"ended_at": NOON, "end_reason": f"reason {n}"},
    wrong=("ip", "not an address"),
    text="end_reason",
    marks_deleted=False,
)

DOCUMENTS = RowSubject(
    "documents",
    new=lambda n: NewDocument(
        company_id=COMPANY.id, owner_id=PEOPLE[0].id, title=f"Name {n % 3}", content_hash="0a" * 32, size=n
    ),
    field="title",
    parents=in_company(("users", (PEOPLE[0],))),
    change=lambda n: {"title": f"New title {n}", "status": "ready"},
    wrong=("status", "lost"),
    text="title",
)

JOBS = RowSubject(
    "jobs",
    new=lambda n: NewJob(queue="ai", kind=f"Name {n % 3}", payload={"n": n}, company_id=COMPANY.id),
    field="kind",
    parents=in_company(),
    change=lambda n: {"priority": n + 1, "payload": {"changed": n}},
    wrong=("priority", 40_000),
    text=None,
    marks_deleted=False,
)

FORMS = RowSubject(
    "forms",
    new=lambda n: NewForm(
        company_id=COMPANY.id, name=f"form {n}", description=f"Name {n % 3}", definition={"type": "object"}
    ),
    field="description",
    parents=in_company(),
    unique=("company_id", "name"),
    constraint="forms_company_id_name_key",
    taken=lambda n: NewForm(company_id=COMPANY.id, name=f"form {n}", definition={}),
)

CALENDAR_EVENTS = RowSubject(
    "calendar_events",
    new=lambda n: NewCalendarEvent(
        company_id=COMPANY.id,
        title=f"Name {n % 3}",
        starts_at=NOON,
        ends_at=NOON + timedelta(hours=1),
        attendees=tuple(each.id for each in PEOPLE[:n]),
    ),
    field="title",
    parents=in_company(),
    change=titled,
    wrong=("attendees", ["nobody"]),
    text="title",
)

KANBAN_BOARDS = RowSubject(
    "kanban_boards",
    new=lambda n: NewKanbanBoard(company_id=COMPANY.id, name=f"Name {n % 3}"),
    field="name",
    parents=in_company(),
)

KANBAN_COLUMNS = RowSubject(
    "kanban_columns",
    new=lambda n: NewKanbanColumn(
        company_id=COMPANY.id, board_id=BOARD.id, name=f"Name {n % 3}", rank=f"{n}V"
    ),
    field="name",
    parents=in_company(("kanban_boards", (BOARD,))),
    unique=("board_id", "rank"),
    constraint="kanban_columns_board_id_rank_key",
    taken=lambda n: NewKanbanColumn(company_id=COMPANY.id, board_id=BOARD.id, name="Another", rank=f"{n}V"),
    marks_deleted=False,
)

KANBAN_CARDS = RowSubject(
    "kanban_cards",
    new=lambda n: NewKanbanCard(
        company_id=COMPANY.id, board_id=BOARD.id, column_id=COLUMN.id, title=f"Name {n % 3}", rank=f"{n}V"
    ),
    field="title",
    parents=in_company(("kanban_boards", (BOARD,)), ("kanban_columns", (COLUMN,))),
    change=titled,
    wrong=("rank", "ends in 0"),
    text="title",
    unique=("column_id", "rank"),
    constraint="kanban_cards_column_id_rank_key",
    taken=lambda n: NewKanbanCard(
        company_id=COMPANY.id, board_id=BOARD.id, column_id=COLUMN.id, title="Another", rank=f"{n}V"
    ),
)

SYSTEM_LOGS = Subject(
    "system_logs",
    new=lambda n: SystemLog(level="info", service=f"service-{n % 3}", message=f"entry {n}"),
    field="service",
    value=lambda n: f"service-{n % 3}",
)

EVENTS = Subject(
    "events", new=lambda n: Event(at=NOON, name=f"Name {n % 3}", data={"n": n}), field="name", own=Events
)

PAPERS = RowSubject(
    "papers",
    new=lambda n: NewPaper(
        slug=f"paper-{n}", title=f"Name {n % 3}", number=n, data={"n": [n, None]}, score=None
    ),
    field="title",
    own=Papers,
    change=lambda n: {"title": f"New title {n}", "number": None, "data": {"changed": n}},
    wrong=("title", ""),
    text="title",
    unique=("slug",),
    constraint="papers_slug",
    taken=lambda n: NewPaper(slug=f"paper-{n}"),
    marks_deleted=False,
    is_table=False,
)

DOCUMENT_METADATA = RowSubject(
    "document_metadata",
    new=lambda n: NewDocumentMetadata(
        id=uuid7(), company_id=COMPANY.id, author=f"Name {n % 3}", tags=("a", str(n)), properties={"n": [n]}
    ),
    field="author",
    change=lambda n: {"author": f"New name {n}", "page_count": n, "tags": ("b",)},
    wrong=("language", "no language"),
    text="author",
    marks_deleted=False,
    is_table=False,
)

AI_PROCESSING_RESULTS = RowSubject(
    "ai_processing_results",
    new=lambda n: NewAiProcessingResult(
        id=uuid7(), company_id=COMPANY.id, lease=n, ai_model=f"Name {n % 3}", result={"n": n}
    ),
    field="ai_model",
    change=lambda n: {"ai_model": f"New name {n}", "result": None},
    wrong=("cost_micros", -1),
    text="ai_model",
    marks_deleted=False,
    is_table=False,
)

FORM_SUBMISSIONS = Subject(
    "form_submissions",
    new=lambda n: NewFormSubmission(
        form_id=FORM.id, answers={"n": n}, user_id=PEOPLE[n % 3].id, submitted_at=NOON
    ),
    field="user_id",
    value=lambda n: PEOPLE[n % 3].id,
    nowhere=UUID(int=9),
    field_is_text=False,
    parents=in_company(("forms", (FORM,))),
)

REALTIME_EVENTS = Subject(
    "realtime_events",
    new=lambda n: RealtimeEvent(channel=f"Name {n % 3}", kind="card.moved", payload={"n": n}),
    field="channel",
)

ROWS = (
    USERS,
    COMPANIES,
    USER_PROFILES,
    COMPANY_USERS,
    USER_SESSIONS,
    DOCUMENTS,
    JOBS,
    FORMS,
    CALENDAR_EVENTS,
    KANBAN_BOARDS,
    KANBAN_COLUMNS,
    KANBAN_CARDS,
)
DOCUMENTS_THAT_CHANGE = (PAPERS, DOCUMENT_METADATA, AI_PROCESSING_RESULTS)
CHANGEABLE = (*ROWS, *DOCUMENTS_THAT_CHANGE)
ALL = (*CHANGEABLE, SYSTEM_LOGS, EVENTS, FORM_SUBMISSIONS, REALTIME_EVENTS)

Store = Callable[[MultiDB, int], Awaitable[Any]]
