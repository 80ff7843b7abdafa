"""Models: frozen, strict about their fields, and sure of what an e-mail, a slug and a moment are."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from multidb import models
from multidb.models import (
    ActiveUsers,
    AiProcessingLog,
    AiProcessingResult,
    AiProcessingResultChanges,
    ApiRequestLog,
    AuditLog,
    Backoff,
    Bucket,
    CalendarEvent,
    CalendarEventChanges,
    Cohort,
    Company,
    CompanyChanges,
    CompanyUser,
    CompanyUserChanges,
    ConfigurationVersion,
    Document,
    DocumentChanges,
    DocumentMetadata,
    DocumentMetadataChanges,
    DynamicConfiguration,
    Emitted,
    EndpointCount,
    Form,
    FormChanges,
    FormSubmission,
    FunnelStep,
    Health,
    Job,
    JobChanges,
    KanbanBoard,
    KanbanBoardChanges,
    KanbanCard,
    KanbanCardChanges,
    KanbanColumn,
    KanbanColumnChanges,
    LogLevel,
    Model,
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
    OutboxStats,
    Page,
    PoolUsage,
    PresenceEvent,
    QueueStats,
    RealtimeEvent,
    RequestShare,
    RequestStats,
    RequestWindow,
    Session,
    StoreHealth,
    SystemLog,
    UndeliveredEffect,
    Upload,
    Usage,
    UsageAnalytics,
    UsageShare,
    UsageWindow,
    User,
    UserActivityLog,
    UserChanges,
    UserProfile,
    UserProfileChanges,
    UserSession,
    UserSessionChanges,
)
from multidb.models.fields import Email, Name, Slug, UtcDatetime, utc_now

BOUNDED = settings(derandomize=True, max_examples=200, deadline=None)

NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
STORED: dict[str, Any] = {"id": uuid4(), "created_at": NOW, "updated_at": NOW, "version": 1}
HEALTHY: dict[str, Any] = {"ok": True, "required": True}
OWNED: dict[str, Any] = {"company_id": uuid4()}
PROFILE: dict[str, Any] = {"user_id": uuid4(), "display_name": "Ada", "locale": "en-GB", "preferences": {}}
MEMBERSHIP: dict[str, Any] = {**OWNED, "user_id": uuid4(), "role": "owner"}
VISIT: dict[str, Any] = {"user_id": uuid4(), "device": "phone", "ip": "::1", "user_agent": "curl/8"}
DOCUMENT: dict[str, Any] = {**OWNED, "owner_id": uuid4(), "title": "Notes", "mime_type": "text/plain"}
JOB: dict[str, Any] = {"queue": "ai", "kind": "summary", "payload": {"pages": 3}}
FORM: dict[str, Any] = {**OWNED, "name": "Survey", "definition": {"type": "object"}}
EVENT: dict[str, Any] = {**OWNED, "title": "Tea", "starts_at": NOW, "ends_at": NOW, "attendees": [uuid4()]}
BOARD: dict[str, Any] = {**OWNED, "name": "Work"}
COLUMN: dict[str, Any] = {**OWNED, "board_id": uuid4(), "name": "To do", "rank": "V"}
METADATA: dict[str, Any] = {**OWNED, "language": "pt-BR", "page_count": 3, "tags": ["draft"]}
ANSWERED: dict[str, Any] = {"form_id": uuid4(), "answers": {"name": "Ada"}}
SETTING: dict[str, Any] = {"version": 1, "value": 7, "set_at": NOW, "set_by": "ada"}
CARD: dict[str, Any] = {**OWNED, "board_id": uuid4(), "column_id": uuid4(), "title": "Sweep", "rank": "V1"}
TOOK: dict[str, Any] = {"requests": 2, "errors": 1, "mean_ms": 1.5, "p50_ms": 1.5}
COUNTED: dict[str, Any] = {"count": 2, "sum": 5, "min": 2, "max": 3}

#: Every model, and values that make one.
SAMPLES: dict[type[Model], dict[str, Any]] = {
    Company: {**STORED, "name": "Analytical Engines", "slug": "analytical-engines"},
    NewCompany: {"name": "Analytical Engines", "slug": "analytical-engines"},
    CompanyChanges: {"name": "Analytical Engines"},
    User: {**STORED, "email": "ada@example.com", "name": "Ada"},
    NewUser: {"email": "ada@example.com", "name": "Ada"},
    UserChanges: {"name": "Ada"},
    UserProfile: {**STORED, **PROFILE},
    NewUserProfile: PROFILE,
    UserProfileChanges: {"display_name": "Ada L.", "timezone": None},
    CompanyUser: {**STORED, **MEMBERSHIP},
    NewCompanyUser: MEMBERSHIP,
    CompanyUserChanges: {"role": "viewer"},
    UserSession: {**STORED, **VISIT, "started_at": NOW},
    NewUserSession: VISIT,
    UserSessionChanges: {"ended_at": NOW, "end_reason": "signed out"},
    Document: {**STORED, **DOCUMENT, "status": "ready"},
    NewDocument: DOCUMENT,
    DocumentChanges: {"status": "failed"},
    Job: {
        **STORED,
        **JOB,
        "state": "available",
        "priority": 0,
        "run_at": NOW,
        "attempt": 0,
        "max_attempts": 5,
        "lease": 0,
    },
    NewJob: JOB,
    JobChanges: {"priority": -1},
    Backoff: {"factor": 3.0},
    QueueStats: {
        "queue": "ai",
        "lag": timedelta(0),
        **dict.fromkeys(("ready", "scheduled", "waiting", "running"), 1),
        **dict.fromkeys(("completed", "failed", "dead", "cancelled"), 0),
    },
    Form: {**STORED, **FORM},
    NewForm: FORM,
    FormChanges: {"definition": {}},
    CalendarEvent: {**STORED, **EVENT},
    NewCalendarEvent: EVENT,
    CalendarEventChanges: {"attendees": [uuid4()]},
    KanbanBoard: {**STORED, **BOARD},
    NewKanbanBoard: BOARD,
    KanbanBoardChanges: {"name": "Next"},
    KanbanColumn: {**STORED, **COLUMN},
    NewKanbanColumn: COLUMN,
    KanbanColumnChanges: {"rank": "W"},
    KanbanCard: {**STORED, **CARD},
    NewKanbanCard: CARD,
    KanbanCardChanges: {"column_id": uuid4(), "rank": "0V"},
    AuditLog: {"id": uuid4(), "ts": NOW, "action": "insert", "entity": "users", "entity_id": uuid4()},
    Session: {
        "id": uuid4(),
        "user_id": uuid4(),
        "created_at": NOW,
        "last_seen_at": NOW,
        "expires_at": NOW,
    },
    SystemLog: {"level": "info", "service": "shop", "message": "it began"},
    Emitted: {
        "emitted": 6,
        "stored": 1,
        "shed": {"debug": 2},
        "refused": 1,
        "spilled": 1,
        "pending": 1,
        "recovered": 0,
    },
    UserActivityLog: {"user_id": uuid4(), "action": "document.opened", "ip": "::1"},
    ApiRequestLog: {
        "service": "shop",
        "method": "GET",
        "endpoint": "/carts/{id}",
        "status": 200,
        "duration_ms": 1.5,
    },
    RealtimeEvent: {"channel": "board:1", "kind": "card.moved"},
    UsageAnalytics: {"id": uuid4(), "by": "day", "start": NOW, "metric": "calls", **COUNTED},
    Bucket: {"bucket": -3, "count": 2},
    RequestStats: TOOK,
    RequestWindow: {**TOOK, "start": NOW},
    RequestShare: {**TOOK, "value": "/users/{id}"},
    ActiveUsers: {"start": NOW, "users": 3},
    FunnelStep: {"action": "login", "users": 3},
    Cohort: {"start": NOW, "users": 3, "retained": (3, 1)},
    Usage: COUNTED,
    UsageWindow: {**COUNTED, "start": NOW},
    UsageShare: {**COUNTED, "value": uuid4()},
    PresenceEvent: {"kind": "join", "user_id": uuid4(), "at": NOW, "cursor": "AAAA"},
    EndpointCount: {"endpoint": "GET /", "count": 3},
    Upload: {
        "id": uuid4(),
        "user_id": uuid4(),
        "size": 9,
        "received": 5,
        "next_offset": 3,
        "expires_at": NOW,
    },
    DocumentMetadata: {**STORED, **METADATA},
    NewDocumentMetadata: {"id": uuid4(), **METADATA},
    DocumentMetadataChanges: {"author": None},
    AiProcessingLog: {"lease": 1, "message": "it began"},
    AiProcessingResult: {**STORED, "lease": 1, "logs": [{"lease": 1, "message": "it began"}]},
    NewAiProcessingResult: {"id": uuid4(), "lease": 1, "result": {"text": "short"}},
    AiProcessingResultChanges: {"cost_micros": 7},
    FormSubmission: {**OWNED, **ANSWERED, "id": uuid4(), "form_version": 1, "submitted_at": NOW},
    NewFormSubmission: ANSWERED,
    ConfigurationVersion: SETTING,
    DynamicConfiguration: {**STORED, "key": "limits.uploads", "value": 7, "history": [SETTING]},
    UndeliveredEffect: {
        "id": uuid4(),
        "version": 1,
        "store": "mongo",
        "effect": "system_logs.append",
        "payload": {},
        "document_size": 7,
        "stream": "c",
        "tenant": None,
        "created_at": NOW,
        "due_at": NOW,
        "attempts": 1,
        "error": "it failed",
        "dead_at": None,
    },
    OutboxStats: {"store": "mongo", "depth": 1, "lag": timedelta(seconds=1), "failing": 0, "dead": 0},
    PoolUsage: {"size": 1, "in_use": 0, "limit": 10},
    StoreHealth: HEALTHY,
    Health: {"ok": True, "postgres": HEALTHY, "mongo": HEALTHY, "redis": HEALTHY},
}

#: Those that are stored under the id of something in PostgreSQL.
KEYED_ELSEWHERE = {NewDocumentMetadata, NewAiProcessingResult}
NEW = [
    SystemLog,
    UserActivityLog,
    ApiRequestLog,
    RealtimeEvent,
    *(model for model in SAMPLES if model.__name__.startswith("New") and model not in KEYED_ELSEWHERE),
]
CHANGES = [model for model in SAMPLES if model.__name__.endswith("Changes")]

every_model = pytest.mark.parametrize("model", SAMPLES, ids=lambda model: model.__name__)


def test_every_concrete_model_has_a_sample_here() -> None:
    named = {getattr(models, name) for name in models.__all__}
    concrete = {each for each in named if isinstance(each, type) and issubclass(each, Model)}
    bases = {models.Model, models.Entity, models.Row, models.VersionedDocument}
    # A match is put together of a document that has been read, and is never read itself.
    assert concrete - bases - {models.DocumentMatch} <= set(SAMPLES)


@every_model
def test_a_model_is_frozen(model: type[Model]) -> None:
    made = model.model_validate(SAMPLES[model])
    for name in model.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(made, name, getattr(made, name))


@every_model
def test_a_field_the_model_does_not_know_is_refused(model: type[Model]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        model.model_validate({**SAMPLES[model], "naem": "Ada"})


class Hunter2:
    """What no field takes."""

    def __repr__(self) -> str:
        return "hunter2"


@every_model
def test_a_wrong_value_is_not_quoted(model: type[Model]) -> None:
    for name, field in model.model_fields.items():
        if field.annotation is Any:
            continue  # no value is wrong
        with pytest.raises(ValidationError) as caught:
            model.model_validate({**SAMPLES[model], name: Hunter2()})
        assert "hunter2" not in str(caught.value)
        assert name in str(caught.value)


@every_model
def test_a_model_survives_json(model: type[Model]) -> None:
    made = model.model_validate(SAMPLES[model])
    # Changes are what is given; the rest of their fields hold no value at all.
    text = made.model_dump_json(exclude_unset=model in CHANGES)
    assert model.model_validate_json(text) == made


# --- the fields

GOOD_EMAILS = [
    "ada@example.com",
    "a@b",
    "Ada.L+tag@EXAMPLE.co",
    "ädä@bücher.example",
    "o'h@ex.com",
    "a" * 252 + "@b",
]
BAD_EMAILS = [
    "",
    "ada",
    "@",
    "ada@",
    "@example.com",
    "a@b@c",
    "ada@example.com\n",
    "\nada@example.com",
    "ada @example.com",
    "ada@exam\tple.com",
    "ada\u00a0@example.com",
    "ada@example.com\u2028",
    "a" * 253 + "@b",
    "ada@\ud800",
    None,
    7,
]
GOOD_NAMES = [
    "Ada",
    "A",
    " Ada ",
    "Ada\nLovelace",
    "艾达",
    "\U0001f469\u200d\U0001f4bb",
    "0",
    "x" * 200,
    "é" * 200,
]
BAD_NAMES = ["", " ", "\t\r\n", "\u00a0\u3000", "x" * 201, None, 7]
GOOD_SLUGS = ["a", "0", "analytical-engines", "a-1-b", "x" * 100]
BAD_SLUGS = [
    "",
    "-",
    "-a",
    "a-",
    "a--b",
    "A",
    "a_b",
    "a b",
    "a\n",
    "a-b\n",
    "é",
    "\u0661",
    "a.b",
    "a/b",
    "x" * 101,
    None,
    7,
]


@pytest.mark.parametrize("email", GOOD_EMAILS)
def test_an_email_is_kept_as_it_is_given(email: str) -> None:
    assert NewUser(email=email, name="Ada").email == email


@pytest.mark.parametrize("email", BAD_EMAILS, ids=ascii)
def test_what_is_no_email_is_refused(email: Any) -> None:
    for model in (NewUser, User, UserChanges):
        with pytest.raises(ValidationError, match="email"):
            model.model_validate({**SAMPLES[model], "email": email})


@pytest.mark.parametrize("name", GOOD_NAMES, ids=ascii)
def test_a_name_is_kept_as_it_is_given(name: str) -> None:
    assert NewUser(email="a@b", name=name).name == name
    assert NewCompany(slug="a", name=name).name == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_of_nothing_or_of_too_much_is_refused(name: Any) -> None:
    for model in (NewUser, User, UserChanges, NewCompany, Company, CompanyChanges):
        with pytest.raises(ValidationError, match="name"):
            model.model_validate({**SAMPLES[model], "name": name})


@pytest.mark.parametrize("slug", GOOD_SLUGS)
def test_a_slug_is_lower_case_words_joined_by_hyphens(slug: str) -> None:
    assert NewCompany(name="A", slug=slug).slug == slug


@pytest.mark.parametrize("slug", BAD_SLUGS, ids=ascii)
def test_what_is_no_slug_is_refused(slug: Any) -> None:
    for model in (NewCompany, Company, CompanyChanges):
        with pytest.raises(ValidationError, match="slug"):
            model.model_validate({**SAMPLES[model], "slug": slug})


@pytest.mark.parametrize("type_", [Email, Name, Slug])
@BOUNDED
@given(text=st.text(max_size=8))
def test_a_field_is_taken_as_it_is_or_refused_and_never_changed(type_: Any, text: str) -> None:
    try:
        assert TypeAdapter(type_).validate_python(text) == text
    except ValidationError:
        blank = not text.strip()
        assert blank or type_ is not Name or any("\ud800" <= each <= "\udfff" for each in text)


# --- ids and moments


@pytest.mark.parametrize("model", NEW)
def test_something_new_gets_its_id_from_the_client(model: type[Any]) -> None:
    first, second = (model.model_validate(SAMPLES[model]) for _ in range(2))
    assert first.id.version == 7
    assert first.id < second.id


@pytest.mark.parametrize("model", NEW)
def test_the_caller_may_bring_the_id(model: type[Any]) -> None:
    mine = UUID("01900000-0000-7000-8000-000000000001")
    assert model.model_validate({**SAMPLES[model], "id": mine}).id == mine
    with pytest.raises(ValidationError, match="id"):
        model.model_validate({**SAMPLES[model], "id": "not an id"})
    with pytest.raises(ValidationError, match="id"):
        model.model_validate({**SAMPLES[model], "id": None})


@BOUNDED
@given(
    st.datetimes(
        min_value=datetime(1, 1, 3),  # noqa: DTZ001 - the zone comes from `timezones`
        max_value=datetime(9999, 12, 29),  # noqa: DTZ001 - the same
        timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    )
)
def test_an_aware_moment_is_kept_to_the_microsecond_and_in_utc(moment: datetime) -> None:
    session = Session.model_validate({**SAMPLES[Session], "created_at": moment})
    assert session.created_at == moment
    assert session.created_at.utcoffset() == timedelta(0)
    assert session.created_at.tzinfo is UTC


@pytest.mark.parametrize("naive", [datetime(2026, 1, 1), "2026-01-01T00:00:00"])  # noqa: DTZ001 - the point
@pytest.mark.parametrize(
    ("model", "field"), [(Session, "expires_at"), (SystemLog, "timestamp"), (User, "created_at")]
)
def test_a_naive_moment_is_refused(model: type[Model], field: str, naive: object) -> None:
    with pytest.raises(ValidationError, match="timezone"):
        model.model_validate({**SAMPLES[model], field: naive})


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_moment_that_utc_cannot_hold_is_refused_like_any_wrong_value(moment: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(UtcDatetime).validate_python(moment)


def test_the_present_moment_is_in_utc_at_whole_milliseconds() -> None:
    before = datetime.now(UTC)
    now = utc_now()
    assert before - timedelta(milliseconds=1) < now <= datetime.now(UTC)
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0


# --- changes, logs, pages


@pytest.mark.parametrize("model", CHANGES)
def test_changes_are_what_was_given_and_nothing_else(model: type[Model]) -> None:
    assert model().model_dump(exclude_unset=True) == {}
    given = model.model_validate(SAMPLES[model])
    assert set(given.model_dump(exclude_unset=True)) == set(SAMPLES[model])


@pytest.mark.parametrize(("model", "new"), [(UserChanges, NewUser), (CompanyChanges, NewCompany)])
def test_whatever_can_be_given_can_be_changed_but_the_id(model: type[Model], new: type[Model]) -> None:
    assert set(model.model_fields) == set(new.model_fields) - {"id"}
    for name in model.model_fields:
        with pytest.raises(ValidationError):
            model.model_validate({name: None})


def test_a_log_entry_brings_its_own_moment_and_an_empty_context() -> None:
    first, second = (SystemLog.model_validate(SAMPLES[SystemLog]) for _ in range(2))
    assert first.timestamp.microsecond % 1000 == 0
    assert abs(first.timestamp - datetime.now(UTC)) < timedelta(minutes=1)
    assert first.context == {}
    assert first.context is not second.context


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_a_level_may_be_given_as_its_word(level: str) -> None:
    made = SystemLog(level=LogLevel(level), service="shop", message="")
    assert made.level == level
    assert json.loads(made.model_dump_json())["level"] == level


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("level", "fatal"),
        ("level", "INFO"),
        ("service", ""),
        ("service", "x" * 101),
        ("message", "x" * 100_001),
        ("request_id", "x" * 201),
        ("context", [1]),
        ("context", {1: "x"}),
    ],
)
def test_a_log_entry_has_bounds(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        SystemLog.model_validate({**SAMPLES[SystemLog], field: value})


def test_a_device_has_a_length() -> None:
    assert Session.model_validate({**SAMPLES[Session], "device": "x" * 200}).device == "x" * 200
    with pytest.raises(ValidationError, match="device"):
        Session.model_validate({**SAMPLES[Session], "device": "x" * 201})


def test_a_page_is_its_items_in_order() -> None:
    page = Page((3, 1, 2), "cursor")
    assert list(page) == [3, 1, 2]
    assert len(page) == 3
    assert page.items == (3, 1, 2)
    assert page.next == "cursor"
    assert not Page(())
    assert Page(()).next is None
    with pytest.raises(AttributeError):
        page.next = None  # type: ignore[misc]
