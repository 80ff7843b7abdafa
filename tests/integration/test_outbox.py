"""The outbox: what is called through a transaction follows its commit, and nothing else."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from multidb import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    DataError,
    MultiDB,
    NewCompany,
    NewDocument,
    NewDocumentMetadata,
    NewUser,
    NotFoundError,
    RealtimeEvent,
    SystemLog,
    Transaction,
    TransactionError,
    UnavailableError,
    uuid7,
)
from multidb.models import AiProcessingLog, NewAiProcessingResult
from multidb.repositories import relay as relaying
from multidb.repositories.effects import Effect
from multidb.repositories.relay import Lane, Relay
from multidb.stores.postgres.notifying import Notifying
from multidb.stores.postgres.outbox import Told, write
from multidb.stores.postgres.statements import Statement
from tests.collections import Event, Events, NewPaper, Papers, open_with_collections

from .postgres import raw

pytestmark = pytest.mark.mongo


ROWS = Statement(sa.text("SELECT * FROM outbox ORDER BY version"))


def log(**fields: Any) -> SystemLog:
    return SystemLog(**{"level": "info", "service": "outbox", "message": "m", **fields})


def metadata(id: UUID | None = None, **fields: Any) -> NewDocumentMetadata:
    return NewDocumentMetadata(id=id or uuid7(), company_id=fields.pop("company_id", UUID(int=7)), **fields)


async def depth(db: MultiDB) -> int:
    return sum(each.depth for each in await db.outbox.stats())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - a store tells nobody who waits
            await asyncio.sleep(0.005)


async def deliver(db: MultiDB) -> None:
    """Deliver all there is."""

    async def empty() -> bool:
        return not await depth(db)

    db.relay.start()
    try:
        await until(empty)
    finally:
        await db.relay.close()


def lane(db: MultiDB, store: Any = "mongo") -> Lane:
    return Lane(db.relay._resources, store, asyncio.Event(), asyncio.Event(), db.relay._kinds(store))


async def everything(db: MultiDB) -> dict[str, list[Any]]:
    """What stands in the stores."""
    stored: dict[str, list[Any]] = {}
    for name in ("system_logs", "realtime_events", "document_metadata", "ai_processing_results"):
        stored[name] = await db.mongo.database[name].find(sort=[("_id", 1)]).to_list(None)
    values = db.mongo.database["dynamic_configurations"].find(sort=[("key", 1)])
    stored["values"] = await values.to_list(None)
    today = datetime.now(UTC).date()
    stored["counted"] = [await db.counters.get("/e", today), await db.counters.top(today)]
    return stored


# --- with the commit, or not at all


async def test_effects_follow_the_commit_once_however_often_they_are_delivered(db: MultiDB):
    user = await db.users.add(NewUser(email="a@b", name="A"))
    await db.sessions.create(user.id)
    token, _ = await db.sessions.create(user.id)
    job, put, updated, entry = uuid7(), metadata(author="A"), metadata(), log()
    lines = [AiProcessingLog(lease=1, message=text) for text in "12"]
    async with db.transaction() as tx:
        await db.users.update(user.id, name="B")
        assert await tx.system_logs.append(entry) == entry.id
        assert await tx.system_logs.append_many(log() for _ in range(3)) == 3
        for n in range(3):
            tx.realtime_events.publish(RealtimeEvent(channel="c", kind="k", payload={"n": n}))
        tx.document_metadata.put(put, version=3)
        tx.document_metadata.put(metadata(put.id, author="older"), version=2)
        await tx.document_metadata.add(updated)
        async with db.transaction() as inner:
            inner.document_metadata.update(updated.id, author="B", language=None)
            tx.document_metadata.upsert(metadata(updated.id, word_count=7))
        gone = await tx.document_metadata.add(metadata())
        tx.document_metadata.delete(gone)
        tx.ai_processing_results.record(NewAiProcessingResult(id=job, lease=2, result={"at": user.id}))
        tx.ai_processing_results.log(job, lines)
        tx.dynamic_configurations.set("a.b", [1, 2], by="me")
        tx.dynamic_configurations.set("a.b", "now")
        tx.dynamic_configurations.set("gone", 1)
        tx.dynamic_configurations.remove("gone")
        tx.form_submissions.delete(uuid7())
        tx.sessions.revoke(token)
        tx.sessions.revoke("nobody's")
        tx.sessions.revoke_all(user.id)
        tx.counters.increment("/e", by=3)
        tx.counters.increment("/e")
        tx.uploads.abort(uuid7())
    assert not any(any(each) for each in (await everything(db)).values() if each != [0, []])
    assert len(await db.sessions.find(user.id)) == 2
    told = await db.postgres.fetch(ROWS, operation="test")
    assert len(told) == 26
    await asyncio.sleep(0.002)  # Redis counts moments in whole milliseconds
    later, _ = await db.sessions.create(user.id)

    await deliver(db)
    stored = await everything(db)
    assert [len(stored[name]) for name in ("system_logs", "realtime_events", "values")] == [4, 3, 1]
    found = await db.document_metadata.fetch(updated.id)
    assert (found.author, found.word_count, found.version) == ("B", 7, 3)
    assert (await db.document_metadata.fetch(put.id)).author == "A"
    assert await db.document_metadata.get(gone) is None
    result = await db.ai_processing_results.fetch(job)
    assert (result.version, [each.message for each in result.logs]) == (2, ["1", "2"])
    value = await db.dynamic_configurations.by_key("a.b")
    assert value is not None
    assert (value.value, value.version, value.history[0].set_by) == ("now", 2, "me")
    assert stored["counted"][0] == 4
    # Those that began after the commit are not meant.
    assert [each.id for each in await db.sessions.find(user.id)] == [(await db.sessions.get(later)).id]  # type: ignore[union-attr]

    # Again, and in another order, as from relays that died or were cut off.
    lanes = {store: lane(db, store) for store in ("mongo", "redis")}
    for row in [*reversed(told), *told]:
        await lanes[row["store"]]._deliveries.have_one(row)
    assert await everything(db) == stored
    assert await db.sessions.get(later) is not None


async def test_a_rollback_leaves_nothing_nor_does_a_savepoints(db: MultiDB):
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            tx.system_logs.append(log())
            raise RuntimeError
    with pytest.raises(TransactionError):
        async with db.transaction() as tx:
            tx.system_logs.append(log())
            with pytest.raises(AlreadyExistsError):
                for _ in range(2):
                    await db.companies.add(NewCompany(id=UUID(int=1), name="C", slug="c"))
    kept = log()
    async with db.transaction() as tx:
        with pytest.raises(RuntimeError):
            async with db.transaction() as inner:
                inner.system_logs.append(log())
                async with db.transaction():
                    tx.system_logs.append(log())
                raise RuntimeError
        tx.system_logs.append(kept)
    await deliver(db)
    assert [each.id async for each in db.system_logs.stream()] == [kept.id]

    runs = 0

    async def replayed(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        tx.counters.increment("/runs")
        if runs == 1:
            raise ConflictError("as a deadlock is told", retryable=True)

    await db.run_transaction(replayed)
    await deliver(db)
    assert (runs, await db.counters.get("/runs", datetime.now(UTC).date())) == (2, 1)


async def test_what_cannot_be_had_is_refused_at_the_call(db: MultiDB):
    company = await db.companies.add(NewCompany(name="C", slug="c"))
    refused: list[tuple[type[Exception], str, Callable[[Transaction], Any]]] = [
        (DataError, "SystemLog", lambda tx: tx.system_logs.append("no entry")),  # type: ignore[arg-type]
        (DataError, "context", lambda tx: tx.system_logs.append(log(context={"a": object()}))),
        (DataError, "SystemLog", lambda tx: tx.system_logs.append_many([log(), 7])),  # type: ignore[list-item]
        (DataError, "RealtimeEvent", lambda tx: tx.realtime_events.publish(7)),  # type: ignore[arg-type]
        (
            DataError,
            "null character",
            lambda tx: tx.realtime_events.publish(RealtimeEvent(channel="\0", kind="k")),
        ),
        (DataError, "version", lambda tx: tx.document_metadata.put(metadata(), version=0)),
        (DataError, "`on`", lambda tx: tx.document_metadata.upsert(metadata(), on="author")),
        (DataError, "author", lambda tx: tx.document_metadata.update(uuid7(), author=7)),
        (DataError, "`id`", lambda tx: tx.document_metadata.delete("7")),  # type: ignore[arg-type]
        (DataError, "a key is words", lambda tx: tx.dynamic_configurations.set("a b", 1)),
        (DataError, "a key is words", lambda tx: tx.dynamic_configurations.remove("a b")),
        (DataError, "has no JSON", lambda tx: tx.dynamic_configurations.set("a", object())),
        (DataError, "`user_id`", lambda tx: tx.sessions.revoke_all("7")),  # type: ignore[arg-type]
        (DataError, "`by`", lambda tx: tx.counters.increment("/e", by=0)),
        (DataError, "endpoint", lambda tx: tx.counters.increment("")),
        (DataError, "`upload_id`", lambda tx: tx.uploads.abort("7")),  # type: ignore[arg-type]
        (ConfigurationError, "revoke_all", lambda tx: tx.sessions.create(uuid7())),  # type: ignore[attr-defined]
        (ConfigurationError, "append, append_many$", lambda tx: tx.system_logs.emit(log())),  # type: ignore[attr-defined]
        (ConfigurationError, "call `db.users`", lambda tx: tx.users),  # type: ignore[attr-defined]
        (ConfigurationError, "no calls that can follow", lambda tx: tx.locks),  # type: ignore[attr-defined]
        (ConfigurationError, "not wired", lambda tx: tx[Papers]),
        (AttributeError, "it has ai_processing_results", lambda tx: tx.nothing),  # type: ignore[attr-defined]
    ]
    async with db.transaction() as tx:
        for error, words, call in refused:
            with pytest.raises(error, match=words):
                call(tx)
        with db.tenant(company.id), pytest.raises(DataError, match="company_id"):
            tx.document_metadata.add(metadata())
        another = asyncio.create_task(_called(lambda: tx.system_logs.append(log())))
        with pytest.raises(TransactionError, match="another task"):
            await another
    with pytest.raises(TransactionError, match="has ended"):
        tx.system_logs.append(log())
    async with db.transaction(read_only=True) as tx, db.transaction() as inner:
        for each in (tx, inner):
            with pytest.raises(TransactionError, match="read-only"):
                each.system_logs.append(log())
    assert await depth(db) == 0


async def test_effects_are_a_companys_where_the_call_was(multidb_settings: Any):
    settings = multidb_settings.model_copy(update={"tenant_required": True})
    async with MultiDB(settings) as db:
        with db.unscoped():
            ours, theirs = [await db.companies.add(NewCompany(name=n, slug=n)) for n in ("ours", "theirs")]
        new = metadata(company_id=ours.id)
        async with db.tenant(ours.id), db.transaction() as tx:
            await db.companies.get(ours.id)
            tx.document_metadata.add(new)
        async with db.tenant(theirs.id), db.transaction() as tx:
            await db.companies.get(theirs.id)
            tx.document_metadata.delete(new.id)
        async with db.transaction() as tx:
            with pytest.raises(DataError, match="whose rows"):
                tx.document_metadata.delete(new.id)
        await deliver(db)
        with db.unscoped():
            assert await db.document_metadata.get(new.id) is not None


async def test_an_applications_own_repositories_offer_the_same(multidb_settings: Any):
    async with open_with_collections(multidb_settings) as db:
        paper, event = NewPaper(slug="s"), Event(at=datetime.now(UTC), name="e", data={"n": 1.0})
        async with db.transaction() as tx:
            tx[Papers].upsert(paper, on="slug")
            tx[Papers].upsert(NewPaper(slug="s", number=3), on="slug")
            tx[Events].append(event)
        await deliver(db)
        found = await db[Papers].fetch(paper.id)
        assert (found.number, found.version) == (3, 2)
        assert await db[Events].fetch(event.id) == event.model_copy(
            update={"at": (await db[Events].fetch(event.id)).at}
        )


# --- in order


async def test_several_relays_keep_the_order_of_each_stream(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(relaying, "_BATCH", 7)
    monkeypatch.setattr(relaying, "_WINDOW", 11)
    told = 80
    relays = [Relay(db.relay._resources) for _ in range(3)]
    company, user = (
        await db.companies.add(NewCompany(name="C", slug="c")),
        await db.users.add(NewUser(email="a@b", name="A")),
    )
    documents = [NewDocument(company_id=company.id, owner_id=user.id, title="D") for _ in range(4)]
    await db.documents.add_many(documents)

    async def change(id: UUID) -> None:
        for _ in range(told // 8):
            async with db.transaction() as tx:
                changed = await db.documents.update(id, title="E")
                tx.realtime_events.publish(
                    RealtimeEvent(channel=str(id), kind="k", payload={"v": changed.version})
                )
                tx.document_metadata.put(metadata(id, word_count=changed.version), version=changed.version)
                tx.system_logs.append(log())

    for each in relays:
        each.start()
    try:
        await asyncio.gather(*(change(document.id) for document in documents for _ in range(2)))

        async def empty() -> bool:
            return not await depth(db)

        await until(empty)
    finally:
        await asyncio.gather(*(each.close() for each in relays))
    stored = await db.mongo.database["realtime_events"].find(sort=[("$natural", 1)]).to_list(None)
    for document in documents:
        versions = [event["payload"]["v"] for event in stored if event["channel"] == str(document.id)]
        assert versions == list(range(2, 2 + told // 4))
        assert (await db.document_metadata.fetch(document.id)).word_count == versions[-1]
    assert await db.system_logs.count() == told


# --- what fails


def apply_with(db: MultiDB, monkeypatch: pytest.MonkeyPatch, name: str, apply: Any) -> None:
    """Have the effects of a name by this, from now on."""
    kinds = db.relay._kinds

    def changed(store: Any) -> Mapping[str, Any]:
        found = dict(kinds(store))
        if name in found:
            repository, effect = found[name]
            assert isinstance(effect, Effect)
            found[name] = repository, Effect(effect.payload, apply(effect.apply))
        return found

    monkeypatch.setattr(db.relay, "_kinds", changed)


async def test_what_fails_is_tried_again_and_given_up_in_the_end(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relaying, "_FIRST_DELAY", timedelta(milliseconds=1))
    monkeypatch.setattr(relaying, "_POLL", 0.01)
    tried: list[str] = []

    def counted(apply: Any) -> Any:
        async def try_to(repository: Any, delivery: Any) -> None:
            kind = delivery.document["kind"]
            tried.append(kind)
            if tried.count(kind) <= {"twice": 2, "ever": 1000}.get(kind, 0):
                raise RuntimeError("something secret")
            await apply(repository, delivery)

        return try_to

    apply_with(db, monkeypatch, "realtime_events.append", counted)
    async with db.transaction() as tx:
        for channel, kind in (("a", "twice"), ("a", "after"), ("b", "ever"), ("b", "behind"), ("c", "free")):
            tx.realtime_events.publish(RealtimeEvent(channel=channel, kind=kind))
        tx.document_metadata.update(uuid7(), author="nobody's")

    async def two_dead() -> bool:
        return [each.dead for each in await db.outbox.stats()] == [2, 0] and await depth(db) == 3

    db.relay.start()
    await until(two_dead)
    kinds = [each["kind"] for each in await db.mongo.database["realtime_events"].find().to_list(None)]
    assert sorted(kinds) == ["after", "free", "twice"]
    assert (tried.count("twice"), tried.count("ever"), tried.count("behind")) == (3, 10, 0)
    assert tried.index("after") > max(n for n, kind in enumerate(tried) if kind == "twice")
    ever, missing = await db.outbox.find(dead=True)
    assert (ever.effect, ever.attempts, ever.error) == ("realtime_events.append", 10, "RuntimeError")
    assert (missing.attempts, missing.effect) == (1, "document_metadata.update")
    assert "no DocumentMetadata has the id" in str(missing.error)
    (mongo, _) = (await db.health()).outbox or ()
    assert (mongo.depth, mongo.dead, mongo.failing) == (3, 2, 0)
    assert mongo.lag > timedelta(0)
    assert [each.id for each in await db.outbox.find(after=ever.version)] == [
        each.id for each in await db.outbox.find() if each.version > ever.version
    ]

    await db.outbox.skip(missing.id)
    tried.clear()
    tried.extend(["ever"] * 1000)
    assert await db.outbox.retry_all() == 1

    async def empty() -> bool:
        return not await depth(db)

    await until(empty)
    await db.relay.close()
    assert [each.effect for each in await db.outbox.find()] == []
    for call in (db.outbox.retry, db.outbox.skip):
        with pytest.raises(NotFoundError):
            await call(ever.id)


async def test_of_writes_that_are_made_together_one_that_fails_takes_no_other_with_it(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    begun, began = 0, db.mongo.transactions._begin

    async def counted() -> Any:
        nonlocal begun
        begun += 1
        return await began()

    monkeypatch.setattr(db.mongo.transactions, "_begin", counted)
    ids = [uuid7() for _ in range(20)]
    async with db.transaction() as tx:
        for id in ids:
            tx.document_metadata.add(metadata(id))
            tx.document_metadata.update(id, author="A")
        tx.dynamic_configurations.set("a", 1)
    await lane(db)._deliver()
    assert (begun, await depth(db), await db.document_metadata.count(author="A")) == (1, 0, 20)

    async with db.transaction() as tx:
        for id in ids:
            tx.document_metadata.update(id, author="B")
        tx.document_metadata.add(metadata(ids[3]))
        tx.document_metadata.update(ids[3], author="waits")
        tx.document_metadata.update(uuid7(), author="nobody's")
        tx.dynamic_configurations.set("a", 2)
    async with raw(db.settings) as connection:
        await connection.execute(
            """INSERT INTO outbox (id, store, effect, payload, stream)
               VALUES (gen_random_uuid(), 'mongo', 'document_metadata.delete', '{"no": "id"}', $1)""",
            f"document_metadata/{ids[5]}",
        )
    await lane(db)._deliver()
    assert await db.document_metadata.count(author="B") == 20
    assert (await db.dynamic_configurations.value("a", int)) == 2
    reasons = [str(each.error) for each in await db.outbox.find(dead=True)]
    assert len(reasons) == 3
    for words in ("already has this value", "no DocumentMetadata has the id", "is not what this effect has"):
        assert sum(words in reason for reason in reasons) == 1, words
    (waiting,) = [each for each in await db.outbox.find() if each.dead_at is None]
    assert (waiting.effect, waiting.stream) == ("document_metadata.update", f"document_metadata/{ids[3]}")


async def test_of_entries_that_are_stored_together_one_that_fails_takes_no_other_with_it(db: MultiDB):
    async with db.transaction() as tx:
        tx.system_logs.append_many([log() for _ in range(3)])
        for n in range(3):
            tx.realtime_events.publish(RealtimeEvent(channel="c", kind="k", payload={"n": n}))
    async with raw(db.settings) as connection:
        # A payload that is none of theirs, and a document that the collection does not take.
        await connection.execute(
            """INSERT INTO outbox (id, store, effect, payload, stream, document)
               SELECT gen_random_uuid(), 'mongo', 'realtime_events.append', payload::jsonb, stream, $1
               FROM (VALUES ('{"n": 1}', 'realtime_events/c'), ('{}', 'realtime_events/d'))
                 AS told (payload, stream)
            """,
            b"\x05\0\0\0\0",
        )
    async with db.transaction() as tx:
        for channel in "cde":
            tx.realtime_events.publish(RealtimeEvent(channel=channel, kind="k", payload={"n": 3}))
    await lane(db)._deliver()
    assert await db.system_logs.count() == 3
    stored = await db.mongo.database["realtime_events"].find(sort=[("$natural", 1)]).to_list(None)
    assert [(each["channel"], each["payload"]["n"]) for each in stored if each["channel"] != "e"] == [
        ("c", n) for n in range(3)
    ]
    assert len(stored) == 4
    left = await db.outbox.find()
    assert [(each.stream, each.dead_at is not None) for each in left] == [
        *(("realtime_events/c", True), ("realtime_events/d", True)),
        *(("realtime_events/c", False), ("realtime_events/d", False)),
    ]
    assert "is not what this effect has" in str(left[0].error)
    assert "validator" in str(left[1].error)


async def test_an_effect_that_meets_another_transaction_waits_for_it_and_fails_nothing(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relaying, "_FIRST_DELAY", timedelta(milliseconds=1))
    held, *others = [(await db.document_metadata.add(metadata())).id for _ in range(5)]
    async with MultiDB(db.settings) as another, another.mongo_transaction():
        await another.document_metadata.update(held, author="another's")
        async with db.transaction() as tx:
            for id in (held, *others):
                tx.document_metadata.update(id, language="en")
        await lane(db)._deliver()
        (waiting,) = await db.outbox.find()
        assert (waiting.stream, waiting.attempts) == (f"document_metadata/{held}", 0)
        assert "a concurrent operation" in str(waiting.error)
        assert await db.document_metadata.count(language="en") == 4
    await deliver(db)
    found = await db.document_metadata.fetch(held)
    assert (found.author, found.language, found.version) == ("another's", "en", 3)

    write_ = db.mongo.write

    async def taken(collection: str, *arguments: Any, **options: Any) -> int:
        if collection != "dynamic_configurations":
            return await write_(collection, *arguments, **options)
        monkeypatch.undo()
        raise AlreadyExistsError("a call that is no relay's has just made it")

    async with db.transaction() as tx:
        tx.dynamic_configurations.set("a", 1)
    monkeypatch.setattr(db.mongo, "write", taken)
    await lane(db)._deliver()
    assert (await depth(db), await db.dynamic_configurations.value("a", int)) == (0, 1)


async def test_a_store_that_is_away_fails_nothing_and_keeps_nothing_from_the_other(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    run, away = db.redis.run, asyncio.Event()

    async def refused(*args: Any, **options: Any) -> Any:
        away.set()
        raise UnavailableError("away", store="redis")

    monkeypatch.setattr(db.redis, "run", refused)
    user, entry = uuid7(), log()
    async with db.transaction() as tx:
        tx.sessions.revoke_all(user)
        tx.system_logs.append(entry)
    db.relay.start()
    await away.wait()

    async def logged() -> bool:
        return await depth(db) == 1 and "redis wait" in caplog.text

    await until(logged)
    assert await db.system_logs.get(entry.id) is not None
    (waiting,) = await db.outbox.find()
    assert (waiting.effect, waiting.attempts) == ("sessions.revoke_all", 0)
    monkeypatch.setattr(db.redis, "run", run)
    await deliver(db)


async def test_effects_that_cannot_be_delivered_hide_no_others(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """More of them than are looked at in one go, of effects that this relay does not know."""
    monkeypatch.setattr(relaying, "_WINDOW", 10)
    async with raw(db.settings) as connection:
        await connection.execute(
            """INSERT INTO outbox (id, store, effect, payload)
               SELECT gen_random_uuid(), 'mongo', 'later.version', '{}' FROM generate_series(1, 45)"""
        )
    async with db.transaction() as tx:
        tx.system_logs.append(log())

    async def delivered() -> bool:
        return await db.system_logs.count() == 1

    db.relay.start()
    await until(delivered)
    await db.relay.close()
    assert await depth(db) == 45
    # They are left to a relay that knows them, and not for ever.
    monkeypatch.setattr(relaying, "_PATIENCE", timedelta(0))
    await lane(db)._deliver()
    given_up = await db.outbox.find(dead=True)
    assert {(each.effect, each.error, each.attempts) for each in given_up} == {
        ("later.version", "no relay has known this effect", 1)
    }
    assert (len(given_up), await db.outbox.retry_all()) == (10, 10)


async def test_what_redis_did_not_hear_of_a_commit_is_an_effect_of_it(db: MultiDB):
    """The writer cannot reach Redis and is gone; Redis still holds the old value, and others believe it."""
    cut_off = db.settings.model_copy(
        update={"redis_url": SecretStr("redis://127.0.0.1:1"), "degradable_stores": frozenset({"redis"})}
    )
    company = await db.companies.add(NewCompany(name="C", slug="c"))
    ids = [(await db.users.add(NewUser(email=f"{n}@b", name="old"))).id for n in range(2)]

    async def seen() -> list[str]:
        return [(await db.users.fetch(id)).name for id in ids]

    async def alone(writer: MultiDB, name: str) -> None:
        for id in ids:
            await writer.users.update(id, name=name)

    async def many(writer: MultiDB, name: str) -> None:
        await writer.users.update_many(writer.users.c.id.in_(ids), changes={"name": name})

    async def together(writer: MultiDB, name: str) -> None:
        async with writer.tenant(company.id), writer.transaction() as tx:
            await alone(writer, name)
            tx.system_logs.append(log())
            with pytest.raises(NotFoundError):
                async with writer.transaction():
                    await writer.users.update(company.id, name="nobody's")

    async def rolled_back(writer: MultiDB, name: str) -> None:
        with pytest.raises(RuntimeError):
            async with writer.transaction():
                await alone(writer, name)
                raise RuntimeError

    for change in (alone, many, together, rolled_back):
        before, name = await seen(), change.__name__
        async with MultiDB(cut_off) as writer:
            await change(writer, name)
        assert await seen() == before
        told = [each for each in await db.outbox.find() if each.effect == "cache.invalidate"]
        owed = {alone: [1, 1], rolled_back: []}.get(change, [2])
        assert [len(each.payload["keys"]) for each in told] == owed
        await deliver(db)
        assert await seen() == (before if change is rolled_back else [name, name])


# --- waking up and stopping


@pytest.mark.parametrize("woken", [True, False], ids=["by a word", "by itself"])
async def test_a_relay_is_woken_and_looks_for_itself_now_and_then(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch, woken: bool
):
    monkeypatch.setattr(relaying, "_POLL", 3600 if woken else 0.05)
    if not woken:
        monkeypatch.setattr(Notifying, "_send_later", lambda *_: None)
    db.relay.start()
    for n in range(1, 4):
        async with db.transaction() as tx:
            tx.system_logs.append(log())

        async def delivered(n: int = n) -> bool:
            return await db.system_logs.count() == n

        await until(delivered)
    await db.relay.close()


async def test_closing_ends_what_has_begun_and_begins_no_more(
    multidb_settings: Any, monkeypatch: pytest.MonkeyPatch
):
    begun, go = asyncio.Event(), asyncio.Event()

    def slow(apply: Any) -> Any:
        async def wait(repository: Any, delivery: Any) -> None:
            begun.set()
            await go.wait()
            await apply(repository, delivery)

        return wait

    async with MultiDB(multidb_settings.model_copy(update={"relay": True})) as db:
        await db.relay.close()
        apply_with(db, monkeypatch, "system_logs.append", slow)
        async with db.transaction() as tx:
            tx.system_logs.append(log())
        running = asyncio.create_task(db.relay.run(), context=Context())
        await begun.wait()
        running.cancel()
        await asyncio.sleep(0)
        async with db.transaction() as tx:
            tx.system_logs.append(log())
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await depth(db), await db.system_logs.count()) == (1, 1)
    async with MultiDB(multidb_settings.model_copy(update={"relay": True})) as db:

        async def delivered() -> bool:
            return await db.system_logs.count() == 2

        await until(delivered)


async def _called(call: Callable[[], Any]) -> Any:
    return call()


async def test_numbers_of_a_stream_are_drawn_in_the_order_of_the_commits(db: MultiDB):
    """Who tells of a stream waits until the commit of whoever did before; others do not."""

    def told(stream: str) -> list[Told]:
        return [Told(uuid7(), "mongo", "later.version", "{}", None, stream, None)]

    async with raw(db.settings) as first, raw(db.settings) as second, raw(db.settings) as other:
        holding = first.transaction()
        await holding.start()
        await write(first, told("s"))  # type: ignore[arg-type]
        waiting = asyncio.create_task(write(second, told("s")))  # type: ignore[arg-type]
        await write(other, told("another"))  # type: ignore[arg-type]
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"

        async def held() -> bool:
            return bool(await other.fetchval(waits))

        await until(held)
        assert not waiting.done()
        await holding.commit()
        await waiting
