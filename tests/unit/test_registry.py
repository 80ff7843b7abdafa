"""The registry: every entity has its place, and what does not fit is said when the repositories are wired."""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_origin, get_type_hints
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from multidb import (
    ApiRequestLog,
    CachePolicy,
    ConfigurationError,
    Job,
    Model,
    MongoRepository,
    MultiDB,
    NewDocument,
    NotOpenError,
    PostgresRepository,
    Rate,
    Row,
    Settings,
    SystemLog,
    Transaction,
    UserActivityLog,
    UserChanges,
    VersionedDocument,
)
from multidb.registry import BUILT_IN, ROUTES, route_all
from multidb.repositories.job_endings import Ending
from multidb.repositories.repository import Repository
from multidb.repositories.session_tokens import SessionTokens
from multidb.repositories.users import UserRepository
from tests.contract.subjects import (
    AI_PROCESSING_RESULTS,
    DOCUMENT_METADATA,
    FORM_SUBMISSIONS,
    JOBS,
    REALTIME_EVENTS,
    ROWS,
)

SETTINGS = Settings(
    _env_file=None,
    postgres_url="postgresql://ada:secret@127.0.0.1:1/shop",
    mongo_url="mongodb://127.0.0.1:1/shop",
    redis_url="redis://127.0.0.1:1/0",
)

#: The table of DESIGN.md, and what boards are made of: attribute on `MultiDB`, store, where in it.
ENTITIES = {
    ("companies", "postgres", "companies"),
    ("users", "postgres", "users"),
    ("user_profiles", "postgres", "user_profiles"),
    ("company_users", "postgres", "company_users"),
    ("user_sessions", "postgres", "user_sessions"),
    ("documents", "postgres", "documents"),
    ("jobs", "postgres", "ai_processing_jobs"),
    ("forms", "postgres", "forms"),
    ("calendar_events", "postgres", "calendar_events"),
    ("kanban_boards", "postgres", "kanban_boards"),
    ("kanban_columns", "postgres", "kanban_columns"),
    ("kanban_cards", "postgres", "kanban_cards"),
    ("audit_logs", "postgres", "audit_logs"),
    ("system_logs", "mongo", "system_logs"),
    ("user_activity_logs", "mongo", "user_activity_logs"),
    ("api_request_logs", "mongo", "api_request_logs"),
    ("document_metadata", "mongo", "document_metadata"),
    ("ai_processing_results", "mongo", "ai_processing_results"),
    ("form_submissions", "mongo", "form_submissions"),
    ("dynamic_configurations", "mongo", "dynamic_configurations"),
    ("realtime_events", "mongo", "realtime_events"),
    ("usage_analytics", "mongo", "usage_analytics"),
    ("sessions", "redis", "session:user:{user_id}"),
    ("cache", "redis", "cache:user:{user_id}"),
    ("rate_limits", "redis", "rate_limit:user:{user_id}:{endpoint}"),
    ("presence", "redis", "realtime:user:{user_id}:presence"),
    ("uploads", "redis", "temp:upload:{upload_id}"),
    ("locks", "redis", "lock:document:{document_id}"),
    ("counters", "redis", "counter:api_calls:{endpoint}:{date}"),
}


# --- what is there


def test_every_entity_has_its_store_and_its_place() -> None:
    assert {(route.entity, route.store, route.target) for route in ROUTES} == ENTITIES


def test_no_entity_and_no_place_is_routed_twice() -> None:
    assert len({route.entity for route in ROUTES}) == len(ROUTES)
    assert len({(route.store, route.target) for route in ROUTES}) == len(ROUTES)


def test_routes_are_shown_store_by_store() -> None:
    stores = [route.store for route in ROUTES]
    assert stores == sorted(stores, key=["postgres", "mongo", "redis"].index)


def test_a_route_names_the_class_that_serves_it() -> None:
    named = {route.repository for route in ROUTES if route.repository is not None}
    assert named == {repository.__name__ for repository in BUILT_IN}


def test_every_built_in_repository_is_an_attribute_by_its_entitys_name() -> None:
    db = MultiDB(SETTINGS)
    for repository in BUILT_IN:
        assert getattr(db, repository.entity()) is db[repository]
        assert type(db[repository]) is repository
    assert {route.entity for route in db.routes} == {repository.entity() for repository in BUILT_IN}
    assert get_type_hints(MultiDB) == {repository.entity(): repository for repository in BUILT_IN}


# --- an application's own


def table(name: str, *columns: sa.Column[Any], without: str = "") -> sa.Table:
    kept: list[sa.Column[Any]] = [
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    ]
    columns = columns or (sa.Column("number", sa.Text, nullable=False),)
    return sa.Table(
        name,
        sa.MetaData(naming_convention={"pk": "%(table_name)s_pkey"}),
        *(column for column in (*kept, *columns) if column.name != without),
    )


class Invoice(Row):
    number: str


class NewInvoice(Model):
    id: UUID
    number: str


class InvoiceRepository(PostgresRepository[Invoice, NewInvoice]):
    table = table("invoices")
    cache = CachePolicy("cache:invoice:{invoice_id}", ttl=timedelta(minutes=1))
    unique = {"invoices_pkey": ("id",)}


class Note(VersionedDocument):
    text: str
    written: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class NoteRepository(MongoRepository[Note]):
    collection = "notes"
    order_by = "-written"


def test_an_applications_repositories_are_wired_and_routed() -> None:
    db = MultiDB(SETTINGS, repositories=[InvoiceRepository, NoteRepository])
    assert type(db[InvoiceRepository]) is InvoiceRepository
    assert type(db[NoteRepository]) is NoteRepository
    assert db[InvoiceRepository] is db[InvoiceRepository]
    assert {(route.entity, route.store, route.target, route.repository) for route in db.routes} >= {
        ("invoices", "postgres", "invoices", "InvoiceRepository"),
        ("notes", "mongo", "notes", "NoteRepository"),
        ("users", "postgres", "users", "UserRepository"),
    }


def test_two_databases_share_nothing() -> None:
    one, other = MultiDB(SETTINGS), MultiDB(SETTINGS, repositories=[InvoiceRepository])
    assert one.users is not other.users
    assert len(one.routes) == len(BUILT_IN)
    with pytest.raises(ConfigurationError):
        one[InvoiceRepository]


@pytest.mark.parametrize("twice", [UserRepository, InvoiceRepository])
def test_a_repository_given_twice_is_refused_or_routed_once(twice: type[Repository]) -> None:
    try:
        db = MultiDB(SETTINGS, repositories=[twice, twice])
    except ConfigurationError as error:
        assert twice.__name__ in str(error)
    else:
        assert [route.repository for route in db.routes].count(twice.__name__) == 1


def test_a_repository_that_was_not_given_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"MultiDB\(repositories=\[InvoiceRepository\]\)"):
        MultiDB(SETTINGS)[InvoiceRepository]


def test_changes_follow_from_what_can_be_given_where_none_are_declared() -> None:
    changes = InvoiceRepository.changes_model
    assert changes.__name__ == "NewInvoiceChanges"
    assert set(changes.model_fields) == {"number"}
    assert changes().model_dump(exclude_unset=True) == {}
    assert UserRepository.changes_model is UserChanges


def test_a_subclass_of_a_repository_keeps_its_models() -> None:
    class MyInvoiceRepository(InvoiceRepository):
        table = table("my_invoices")
        unique = {}

    (route,) = route_all([MyInvoiceRepository])
    assert (route.entity, route.repository) == ("my_invoices", "MyInvoiceRepository")
    assert MyInvoiceRepository.model is Invoice


# --- what does not fit


def refused(*repositories: type[Repository]) -> str:
    """Return what wiring says, which must name the class."""
    with pytest.raises(ConfigurationError) as caught:
        MultiDB(SETTINGS, repositories=repositories)
    message = str(caught.value)
    assert repositories[-1].__name__ in message
    return message


def test_two_repositories_cannot_claim_one_table() -> None:
    class OtherInvoiceRepository(PostgresRepository[Invoice, NewInvoice]):
        table = InvoiceRepository.table

        @classmethod
        def entity(cls) -> str:
            return "other_invoices"

    message = refused(InvoiceRepository, OtherInvoiceRepository)
    assert "InvoiceRepository" in message
    assert "`invoices`" in message


def test_no_repository_can_claim_the_table_of_a_built_in_one() -> None:
    class PersonRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("users")

    assert "UserRepository" in refused(PersonRepository)


def test_two_repositories_cannot_claim_one_collection() -> None:
    class OtherNoteRepository(MongoRepository[Note]):
        collection = "notes"

    assert "`notes`" in refused(NoteRepository, OtherNoteRepository)


def test_two_repositories_cannot_claim_one_entity_in_two_stores() -> None:
    class NotesTableRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("notes")

    assert "entity `notes`" in refused(NoteRepository, NotesTableRepository)


def test_a_collection_may_be_called_as_a_table_is_if_the_entities_differ() -> None:
    class InvoiceNoteRepository(MongoRepository[Note]):
        collection = "invoices"

        @classmethod
        def entity(cls) -> str:
            return "invoice_notes"

    assert len(route_all([InvoiceRepository, InvoiceNoteRepository])) == 2


@pytest.mark.parametrize("column", ["id", "created_at", "updated_at", "version", "number"])
def test_a_table_without_a_column_of_the_model_is_refused(column: str) -> None:
    class LackingRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("lacking", without=column)

    assert f"no column {column}" in refused(LackingRepository)


def test_a_table_without_a_column_of_what_is_given_or_derived_is_refused() -> None:
    class Wider(NewInvoice):
        amount: int

    class WiderRepository(PostgresRepository[Invoice, Wider]):
        table = table("wider")

    class DerivedRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("derived")
        derived = {"number_folded": ("number", str.casefold)}

    assert "no column amount" in refused(WiderRepository)
    assert "no column number_folded" in refused(DerivedRepository)


def test_a_constraint_the_table_does_not_have_is_refused() -> None:
    class KeyedRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("keyed")
        unique = {"keyed_pkey": ("id",), "keyed_number_key": ("number",)}

    message = refused(KeyedRepository)
    assert "keyed_number_key" in message
    assert "keyed_pkey" not in message


@pytest.mark.parametrize(
    "key", ["cache:invoice", "cache:invoice:{}", "cache:invoice:{a b}", "cache:{a}:{b}", "cache:{{id}}"]
)
def test_a_cache_key_that_does_not_name_the_id_and_nothing_else_is_refused(key: str) -> None:
    class BadlyKeyedRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("badly_keyed")
        cache = CachePolicy(key, ttl=timedelta(minutes=1))

    assert repr(key) in refused(BadlyKeyedRepository)


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1)])
def test_a_cache_that_keeps_nothing_is_refused(ttl: timedelta) -> None:
    class ForgetfulRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("forgetful")
        cache = CachePolicy("cache:forgetful:{id}", ttl=ttl)

    assert "ttl" in refused(ForgetfulRepository)


def test_a_unique_field_the_model_does_not_have_is_refused() -> None:
    class MisnamedRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("misnamed")
        unique = {"misnamed_pkey": ("ident",)}

    assert "ident" in refused(MisnamedRepository)


def test_a_column_derived_from_a_field_the_model_does_not_have_is_refused() -> None:
    class MisderivedRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("misderived", sa.Column("number", sa.Text), sa.Column("folded", sa.Text))
        derived = {"folded": ("nmuber", str.casefold)}

    assert "nmuber" in refused(MisderivedRepository)


def test_two_repositories_cannot_keep_different_things_at_one_cache_key() -> None:
    class ReceiptRepository(PostgresRepository[Invoice, NewInvoice]):
        table = table("receipts")
        # The name of the hole does not stand in the key: this is InvoiceRepository's own.
        cache = CachePolicy("cache:invoice:{id}", ttl=timedelta(minutes=1))

    assert "cache:invoice:" in refused(InvoiceRepository, ReceiptRepository)


def test_an_order_by_what_the_document_does_not_have_is_refused() -> None:
    class DisorderlyRepository(MongoRepository[Note]):
        collection = "disorderly"
        order_by = "-wirtten"

    assert "wirtten" in refused(DisorderlyRepository)


def test_a_repository_that_declares_no_model_or_no_place_is_refused() -> None:
    class PlacelessTable(PostgresRepository[Invoice, NewInvoice]):
        pass

    class PlacelessCollection(MongoRepository[Note]):
        pass

    class ModellessTable(PostgresRepository):  # type: ignore[type-arg]
        table = table("modelless")

    class ModellessCollection(MongoRepository):  # type: ignore[type-arg]
        collection = "modelless"

    for each in (PlacelessTable, PlacelessCollection, ModellessTable, ModellessCollection):
        assert "declare `class Name(" in refused(each)


# --- no I/O before it is opened

ID = UUID("01900000-0000-7000-8000-000000000001")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = {"service": "shop", "method": "GET", "endpoint": "/", "status": 200, "duration_ms": 1.0}
DAY = (NOW, NOW + timedelta(days=1))
RATE = Rate(1, per=timedelta(minutes=1))
LOG = {"id": ID, "timestamp": NOW, "level": "info", "service": "shop", "message": "hello"}

#: By method of `PostgresRepository`, a call of it.
ON_ROWS: dict[str, Callable[[Any, BaseModel], Awaitable[Any]]] = {
    "get": lambda rows, _: rows.get(ID),
    "fetch": lambda rows, _: rows.fetch(ID),
    "get_many": lambda rows, _: rows.get_many([ID]),
    "find": lambda rows, _: rows.find(),
    "find_one": lambda rows, _: rows.find_one(id=ID),
    "stream": lambda rows, _: anext(rows.stream()),
    "related": lambda rows, _: rows.related([ID], by="id"),
    "count": lambda rows, _: rows.count(),
    "exists": lambda rows, _: rows.exists(),
    "add": lambda rows, new: rows.add(new),
    "add_many": lambda rows, new: rows.add_many([new]),
    "update": lambda rows, _: rows.update(ID),
    "update_many": lambda rows, _: rows.update_many(id=ID, changes={}),
    "upsert": lambda rows, new: rows.upsert(new),
    "upsert_many": lambda rows, new: rows.upsert_many([new]),
    "delete": lambda rows, _: rows.delete(ID),
    "delete_many": lambda rows, _: rows.delete_many(id=ID),
    "restore": lambda rows, _: rows.restore(ID),
}

#: By method of `MongoRepository`, a call of it.
ON_DOCUMENTS: dict[str, Callable[[Any, BaseModel], Awaitable[Any]]] = {
    **{name: ON_ROWS[name] for name in ON_ROWS if name not in {"related", "restore", "upsert_many"}},
    "put": lambda documents, new: documents.put(new, version=1),
}


def token_of(db: MultiDB) -> str:
    return SessionTokens(db.settings).issue(ID, ID)[0]


NOW = datetime(2026, 1, 1, tzinfo=UTC)
#: A job as a claim gives it.
CLAIMED = Job.model_validate(
    {
        **JOBS.new(1).model_dump(),
        "state": "running",
        "attempt": 1,
        "lease": 1,
        "lease_until": NOW,
        "started_at": NOW,
        "created_at": NOW,
        "updated_at": NOW,
        "version": 1,
    }
)

CALLS: dict[str, Callable[[MultiDB], Awaitable[Any]]] = {
    **{
        f"{entity}.{name}": lambda db, call=call, entity=entity, new=new: call(getattr(db, entity), new)  # type: ignore[misc]
        for entity, new in ((subject.name, subject.new(1)) for subject in ROWS)
        for name, call in ON_ROWS.items()
    },
    "users.by_email": lambda db: db.users.by_email("ada@example.com"),
    "companies.by_slug": lambda db: db.companies.by_slug("engines"),
    "user_profiles.by_user": lambda db: db.user_profiles.by_user(ID),
    "company_users.membership": lambda db: db.company_users.membership(ID, user_id=ID),
    "forms.by_name": lambda db: db.forms.by_name(ID, name="Survey"),
    **{
        f"audit_logs.{name}": lambda db, call=call: call(db.audit_logs, None)  # type: ignore[misc]
        for name, call in ON_ROWS.items()
        if name in {"get", "fetch", "get_many", "find", "find_one", "stream", "related", "count", "exists"}
    },
    "audit_logs.history": lambda db: db.audit_logs.history("users", ID),
    "company_users.join": lambda db: db.company_users.join(ID, user_id=ID),
    "company_users.leave": lambda db: db.company_users.leave(ID, user_id=ID),
    "company_users.members": lambda db: db.company_users.members(ID),
    "company_users.memberships": lambda db: db.company_users.memberships(ID),
    "documents.search": lambda db: db.documents.search("engines"),
    "jobs.enqueue": lambda db: db.jobs.enqueue(JOBS.new(1)),
    "jobs.enqueue_many": lambda db: db.jobs.enqueue_many([JOBS.new(1)]),
    "jobs.claim": lambda db: db.jobs.claim("q", worker="w"),
    "jobs.heartbeat": lambda db: db.jobs.heartbeat([CLAIMED]),
    "jobs.progress": lambda db: db.jobs.progress(CLAIMED, 0.5),
    "jobs.complete": lambda db: db.jobs.complete(CLAIMED),
    "jobs.fail": lambda db: db.jobs.fail(CLAIMED, "no"),
    "jobs.snooze": lambda db: db.jobs.snooze(CLAIMED, timedelta(seconds=1)),
    "jobs.release": lambda db: db.jobs.release(CLAIMED),
    "jobs.finish": lambda db: db.jobs.finish([Ending(CLAIMED, "completed")]),
    "jobs.rescue": lambda db: db.jobs.rescue(),
    "jobs.cancel": lambda db: db.jobs.cancel(ID),
    "jobs.retry": lambda db: db.jobs.retry(ID),
    "jobs.discard": lambda db: db.jobs.discard(ID),
    "jobs.limit": lambda db: db.jobs.limit("q", at_most=1),
    "jobs.prune": lambda db: db.jobs.prune(timedelta(days=1)),
    "jobs.stats": lambda db: db.jobs.stats(),
    "jobs.listen": lambda db: db.jobs.listen(print).__aenter__(),
    "kanban_cards.move": lambda db: db.kanban_cards.move(ID),
    "kanban_cards.place": lambda db: db.kanban_cards.place(ID),
    "kanban_columns.move": lambda db: db.kanban_columns.move(ID),
    "kanban_columns.place": lambda db: db.kanban_columns.place(ID),
    **{
        f"{entity}.{name}": lambda db, call=call, entity=entity: call(getattr(db, entity), None)  # type: ignore[misc]
        for entity in (
            *("system_logs", "user_activity_logs", "api_request_logs", "usage_analytics"),
            *("realtime_events", "form_submissions", "dynamic_configurations"),
        )
        for name, call in ON_ROWS.items()
        if name in {"get", "fetch", "get_many", "find", "find_one", "stream", "count", "exists"}
    },
    **{
        f"{entity}.{name}": lambda db, call=call, entity=entity, new=new: call(getattr(db, entity), new)  # type: ignore[misc]
        for entity, new in ((each.name, each.new(1)) for each in (DOCUMENT_METADATA, AI_PROCESSING_RESULTS))
        for name, call in ON_DOCUMENTS.items()
    },
    "ai_processing_results.record": lambda db: db.ai_processing_results.record(AI_PROCESSING_RESULTS.new(1)),
    "ai_processing_results.log": lambda db: db.ai_processing_results.log(ID, []),
    "form_submissions.add": lambda db: db.form_submissions.add(FORM_SUBMISSIONS.new(1)),
    "form_submissions.delete": lambda db: db.form_submissions.delete(ID),
    "form_submissions.delete_many": lambda db: db.form_submissions.delete_many(id=ID),
    "dynamic_configurations.value": lambda db: db.dynamic_configurations.value("a", int),
    "dynamic_configurations.by_key": lambda db: db.dynamic_configurations.by_key("a"),
    "dynamic_configurations.set": lambda db: db.dynamic_configurations.set("a", 1),
    "dynamic_configurations.rollback": lambda db: db.dynamic_configurations.rollback("a", to=1),
    "dynamic_configurations.history": lambda db: db.dynamic_configurations.history("a"),
    "dynamic_configurations.remove": lambda db: db.dynamic_configurations.remove("a"),
    "dynamic_configurations.delete": lambda db: db.dynamic_configurations.delete(ID),
    "dynamic_configurations.watch": lambda db: db.dynamic_configurations.watch().__aenter__(),
    "realtime_events.append": lambda db: db.realtime_events.append(REALTIME_EVENTS.new(1)),
    "realtime_events.append_many": lambda db: db.realtime_events.append_many([REALTIME_EVENTS.new(1)]),
    "realtime_events.publish": lambda db: db.realtime_events.publish(REALTIME_EVENTS.new(1)),
    "realtime_events.subscribe": lambda db: db.realtime_events.subscribe("a").__aenter__(),
    "system_logs.append": lambda db: db.system_logs.append(SystemLog.model_validate(LOG)),
    "user_activity_logs.tail": lambda db: anext(db.user_activity_logs.tail()),
    "api_request_logs.tail": lambda db: anext(db.api_request_logs.tail()),
    "api_request_logs.append": lambda db: db.api_request_logs.append(ApiRequestLog.model_validate(REQUEST)),
    "api_request_logs.rollup": lambda db: db.api_request_logs.rollup(),
    "api_request_logs.range": lambda db: db.api_request_logs.range(*DAY),
    "api_request_logs.total": lambda db: db.api_request_logs.total(*DAY),
    "api_request_logs.top": lambda db: db.api_request_logs.top(*DAY),
    "user_activity_logs.append": lambda db: db.user_activity_logs.append(
        UserActivityLog(user_id=ID, action="login")
    ),
    "user_activity_logs.active_users": lambda db: db.user_activity_logs.active_users(*DAY),
    "user_activity_logs.distinct_users": lambda db: db.user_activity_logs.distinct_users(*DAY),
    "user_activity_logs.retention": lambda db: db.user_activity_logs.retention(*DAY),
    "user_activity_logs.funnel": lambda db: db.user_activity_logs.funnel(
        ["login"], first=NOW, last=NOW + timedelta(days=1), within=timedelta(hours=1)
    ),
    "usage_analytics.flush": lambda db: db.usage_analytics.flush(),
    "usage_analytics.rollup": lambda db: db.usage_analytics.rollup(),
    "usage_analytics.range": lambda db: db.usage_analytics.range("calls", *DAY),
    "usage_analytics.total": lambda db: db.usage_analytics.total("calls", *DAY),
    "usage_analytics.top": lambda db: db.usage_analytics.top("calls", *DAY, of="endpoint"),
    "api_request_logs.append_many": lambda db: db.api_request_logs.append_many(
        [ApiRequestLog.model_validate(REQUEST)]
    ),
    "user_activity_logs.append_many": lambda db: db.user_activity_logs.append_many(
        [UserActivityLog(user_id=ID, action="login")]
    ),
    "system_logs.append_many": lambda db: db.system_logs.append_many([SystemLog.model_validate(LOG)]),
    "system_logs.tail": lambda db: anext(db.system_logs.tail()),
    "system_logs.per_minute": lambda db: db.system_logs.per_minute(
        since=datetime.now(UTC) - timedelta(minutes=1)
    ),
    "system_logs.search": lambda db: db.system_logs.search("words"),
    "sessions.create": lambda db: db.sessions.create(ID),
    "sessions.get": lambda db: db.sessions.get(token_of(db)),
    "sessions.rotate": lambda db: db.sessions.rotate(token_of(db)),
    "sessions.find": lambda db: db.sessions.find(ID),
    "sessions.revoke": lambda db: db.sessions.revoke(token_of(db)),
    "sessions.revoke_one": lambda db: db.sessions.revoke_one(ID, user_id=ID),
    "sessions.revoke_all": lambda db: db.sessions.revoke_all(ID),
    "rate_limits.hit": lambda db: db.rate_limits.hit(ID, "GET /", RATE),
    "rate_limits.hit_all": lambda db: db.rate_limits.hit_all(ID, {"GET /": RATE}),
    "rate_limits.require": lambda db: db.rate_limits.require(ID, "GET /", RATE),
    "rate_limits.peek": lambda db: db.rate_limits.peek(ID, "GET /", RATE),
    "rate_limits.refund": lambda db: db.rate_limits.refund(ID, "GET /", RATE),
    "rate_limits.reset": lambda db: db.rate_limits.reset(ID, "GET /"),
    "presence.beat": lambda db: db.presence.beat(ID, device="phone"),
    "presence.leave": lambda db: db.presence.leave(ID, device="phone"),
    "presence.online": lambda db: db.presence.online([ID]),
    "presence.count": lambda db: db.presence.count(),
    "presence.watch": lambda db: anext(db.presence.watch()),
    "presence.sweep": lambda db: db.presence.sweep(),
    "uploads.begin": lambda db: db.uploads.begin(NewDocument(company_id=ID, owner_id=ID, title="A"), size=1),
    "uploads.append": lambda db: db.uploads.append(ID, b"x"),
    "uploads.get": lambda db: db.uploads.get(ID),
    "uploads.gaps": lambda db: db.uploads.gaps(ID),
    "uploads.complete": lambda db: db.uploads.complete(ID),
    "uploads.abort": lambda db: db.uploads.abort(ID),
    "locks.document": lambda db: db.locks.document(ID).__aenter__(),
    "locks.documents": lambda db: db.locks.documents([ID]).__aenter__(),
    "counters.increment": lambda db: db.counters.increment("GET /"),
    "counters.get": lambda db: db.counters.get("GET /", date(2026, 1, 1)),
    "counters.range": lambda db: db.counters.range("GET /", date(2026, 1, 1), date(2026, 1, 2)),
    "counters.rollup": lambda db: db.counters.rollup(datetime.now(UTC).date()),
    "counters.top": lambda db: db.counters.top(date(2026, 1, 1)),
}


def test_every_public_method_of_every_built_in_repository_is_called_below() -> None:
    methods = {
        f"{repository.entity()}.{name}"
        for repository in BUILT_IN
        for name in dir(repository)
        if not name.startswith("_")
        and callable(getattr(repository, name))
        and name
        not in {"target", "entity", "check", "claims", "model", "new_model", "changes_model", "effects"}
        # They wait for the opening, as their own tests show.
        and name != "emit"
        and f"{repository.entity()}.{name}" != "usage_analytics.record"
    }
    assert methods == set(CALLS)


@pytest.mark.parametrize("call", CALLS)
async def test_nothing_works_before_it_is_opened(call: str) -> None:
    db = MultiDB(SETTINGS)
    with pytest.raises(NotOpenError, match=r"await db\.open\(\)"):
        await CALLS[call](db)


async def test_no_transaction_begins_before_it_is_opened() -> None:
    db = MultiDB(SETTINGS)
    with pytest.raises(NotOpenError):
        async with db.transaction():
            pytest.fail("the body ran")


@pytest.mark.parametrize(
    "hatch",
    [lambda db: db.postgres.engine, lambda db: db.mongo.database, lambda db: db.redis.client],
    ids=["postgres", "mongo", "redis"],
)
def test_no_hatch_opens_before_it_is_opened(hatch: Callable[[MultiDB], object]) -> None:
    with pytest.raises(NotOpenError):
        hatch(MultiDB(SETTINGS))


async def test_a_cached_function_is_declared_before_it_is_opened_and_called_after() -> None:
    db = MultiDB(SETTINGS)
    calls = 0

    @db.cached("cache:thing:{id}", ttl=timedelta(minutes=1))
    async def thing(id: int) -> int:
        nonlocal calls
        calls += 1
        return id

    with pytest.raises(NotOpenError):
        await thing(1)
    with pytest.raises(NotOpenError):
        await thing.invalidate(1)
    assert calls == 0


async def test_health_tells_that_it_is_not_open_and_raises_nothing() -> None:
    health = await MultiDB(SETTINGS).health()
    assert not health.ok
    for store in (health.postgres, health.mongo, health.redis):
        assert not store.ok
        assert store.pool is None
        assert "not open" in (store.detail or "")


async def test_closing_what_was_never_opened_does_nothing() -> None:
    db = MultiDB(SETTINGS)
    await db.close()
    await db.close()
    with pytest.raises(NotOpenError):
        await db.users.get(ID)


def test_a_transaction_has_what_the_repositories_offer_for_after_the_commit() -> None:
    """Each by its attribute, of the class that the repository declares; and each kind has its call."""
    offered = {each.entity(): each.effects for each in BUILT_IN if each.effects is not None}
    hints = get_type_hints(Transaction)
    assert {name: get_origin(hint) or hint for name, hint in hints.items()} == offered
    for effects in offered.values():
        assert all(callable(getattr(effects, name)) for name in effects.kinds)
