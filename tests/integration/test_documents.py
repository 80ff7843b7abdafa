"""Documents that change: many at once, by version, by fence, by company, and as they are stored."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import Field, create_model

from multidb import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    ConstraintError,
    DataError,
    Model,
    MongoRepository,
    MultiDB,
    NotFoundError,
    VersionedDocument,
    uuid7,
)
from multidb.ops import schemas
from multidb.registry import route_all
from multidb.settings import Settings
from tests.collections import Event, Events, NewPaper, Paper, Papers, open_with_collections

pytestmark = pytest.mark.mongo


class Memo(VersionedDocument):
    """The least an application declares: one model."""

    company_id: UUID
    text: str
    tags: tuple[str, ...] = ()
    note: str | None = None


class Memos(MongoRepository[Memo]):
    collection = "memos"
    tenant = "company_id"


class Ticket(VersionedDocument):
    code: UUID = Field(default_factory=uuid7)
    title: str


class NewTicket(Model):
    id: UUID = Field(default_factory=uuid7)
    title: str


class Tickets(MongoRepository[Ticket, NewTicket]):
    collection = "tickets"


_many: dict[str, Any] = {f"field{number}": (int | None, None) for number in range(150)}
Wide = create_model("Wide", __base__=VersionedDocument, **_many)


class Wides(MongoRepository[Wide]):
    collection = "wides"


@pytest.fixture
async def db(multidb_settings: Settings):
    async with open_with_collections(multidb_settings, Memos) as opened:
        yield opened


@pytest.fixture
def papers(db: MultiDB) -> Papers:
    return db[Papers]


# --- many at once


async def test_adds_that_meet_share_messages_and_each_has_its_own_error(db: MultiDB, papers: Papers):
    await papers.add(NewPaper(slug="taken"))
    news = [NewPaper(slug="taken" if n % 10 == 3 else f"paper-{n}", number=n) for n in range(100)]
    outcomes = await asyncio.gather(*map(papers.add, news), return_exceptions=True)
    for new, outcome in zip(news, outcomes, strict=True):
        if new.slug == "taken":
            assert isinstance(outcome, AlreadyExistsError)
            assert (outcome.constraint, outcome.columns) == ("papers_slug", ("slug",))
        else:
            assert isinstance(outcome, Paper)
            assert (outcome.id, outcome.number, outcome.version) == (new.id, new.number, 1)
            assert await papers.get(new.id) == outcome


@pytest.mark.parametrize("on", ["id", "slug"])
async def test_of_many_upserts_one_adds_and_all_count(db: MultiDB, papers: Papers, on: str):
    id = uuid7()
    news = [
        NewPaper(id=id if on == "id" else uuid7(), slug="one", number=n, title="given") for n in range(40)
    ]
    outcomes = await asyncio.gather(*(papers.upsert(new, on=on) for new in news))
    (stored,) = [paper async for paper in papers.stream()]
    assert sorted(each.version for each in outcomes) == list(range(1, 41))
    assert {each.id for each in outcomes} == {stored.id}
    assert stored == max(outcomes, key=lambda each: each.version)


async def test_of_many_upserts_of_one_company_one_adds(db: MultiDB):
    """MongoDB tries again by itself only where nothing but the unique fields is asked for."""
    memos, company = db[Memos], uuid7()
    for _ in range(5):
        id = uuid7()
        async with db.tenant(company):
            outcomes = await asyncio.gather(
                *(memos.upsert(Memos.new_model(id=id, company_id=company, text=f"{n}")) for n in range(20))
            )
        assert sorted(each.version for each in outcomes) == list(range(1, 21))


async def test_an_upsert_changes_what_was_given_and_no_more(
    db: MultiDB, papers: Papers, monkeypatch: pytest.MonkeyPatch
):
    moments = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(100))
    monkeypatch.setattr("multidb.repositories.mongo.utc_now", lambda: next(moments))
    first = await papers.upsert(NewPaper(slug="one", title="first", number=1, score=3, label="a"), on="slug")
    assert (first.version, first.created_at) == (1, first.updated_at)
    assert first == await papers.get(first.id)
    again = await papers.upsert(NewPaper(slug="one", number=None, data={"n": None}), on=["slug"])
    assert again == first.model_copy(
        update={"number": None, "data": {"n": None}, "version": 2, "updated_at": again.updated_at}
    )
    assert again == await papers.get(first.id)
    with pytest.raises(AlreadyExistsError) as caught:
        await papers.upsert(NewPaper(id=first.id, slug="two"), on="slug")
    assert caught.value.columns == ("id",)
    with pytest.raises(DataError, match="`on`: no unique index of `papers` is about title"):
        await papers.upsert(NewPaper(), on="title")
    wrong: Any
    for wrong in (5, [5], None):
        with pytest.raises(DataError, match="`on`: no unique index"):
            await papers.upsert(NewPaper(), on=wrong)
    for wrong in ("1", True, 1.0, -1):
        with pytest.raises(DataError, match="`version`"):
            await papers.update(first.id, number=1, version=wrong)
        with pytest.raises(DataError, match="`version`"):
            await papers.delete(first.id, version=wrong)


async def test_put_keeps_the_latest_in_whatever_order_it_is_told(db: MultiDB, papers: Papers):
    id = uuid7()
    versions = [3, 1, 5, 2, 5, 4, 1]
    outcomes = [
        await papers.put(NewPaper(id=id, slug=f"v{version}", number=version), version=version)
        for version in versions
    ]
    assert [each.version for each in outcomes] == [3, 3, 5, 5, 5, 5, 5]
    stored = await papers.fetch(id)
    assert (stored.slug, stored.number, stored.version) == ("v5", 5, 5)
    assert stored.created_at == outcomes[0].created_at <= stored.updated_at
    async with db.mongo_transaction():
        assert await papers.put(NewPaper(id=id, slug="v4"), version=4) == stored
        stored = await papers.put(NewPaper(id=id, slug="v6"), version=6)
    assert await papers.fetch(id) == stored
    # Whole: what the later one does not have is gone.
    later = await papers.put(NewPaper(id=id, slug="later", score=None), version=9)
    assert (later.number, later.score) == (None, None)
    assert await papers.fetch(id) == later


async def test_each_document_begins_with_defaults_of_its_own(multidb_settings: Settings):
    async with MultiDB(multidb_settings, repositories=[Tickets]) as db:
        first, second = [await db[Tickets].add(NewTicket(title="x")) for _ in range(2)]
        assert first.code != second.code
        # What was not given to begin with, no `put` replaces.
        assert (await db[Tickets].put(NewTicket(id=first.id, title="y"), version=2)).code == first.code
        await db.mongo.database.drop_collection("tickets")


async def test_a_model_may_have_many_fields_that_are_absent(multidb_settings: Settings):
    async with MultiDB(multidb_settings, repositories=[Wides]) as db:
        new: Any = Wides.new_model
        wide = await db[Wides].put(new(field3=3, field7=7), version=1)
        put = await db[Wides].put(new(id=wide.id, field7=8), version=2)
        assert put.model_dump(exclude_none=True).keys() == {
            *("id", "version", "created_at", "updated_at"),
            "field7",
        }
        assert await db[Wides].fetch(wide.id) == put
        await db.mongo.database.drop_collection("wides")


async def test_of_many_puts_at_once_the_latest_stays(db: MultiDB, papers: Papers):
    ids = [uuid7() for _ in range(5)]
    told = [(id, version) for id in ids for version in range(1, 11)] * 2
    await asyncio.gather(
        *(papers.put(NewPaper(id=id, slug=f"{id}", number=v), version=v) for id, v in reversed(told))
    )
    stored = await papers.get_many(ids)
    assert {(each.version, each.number) for each in stored.values()} == {(10, 10)}
    for wrong in (0, -1, True, 2**63, "1"):
        with pytest.raises(DataError, match="`version` must be a whole number"):
            await papers.put(NewPaper(), version=wrong)  # type: ignore[arg-type]


async def test_a_put_that_meets_the_add_of_an_older_version_replaces_it(
    papers: Papers, monkeypatch: pytest.MonkeyPatch
):
    id, change, met = uuid7(), papers._change_one, asyncio.Event()

    async def meets(*arguments: Any, **options: Any) -> Any:
        if met.is_set():
            return await change(*arguments, **options)
        met.set()
        await papers.put(NewPaper(id=id, number=1), version=1)
        # What the server says to two upserts that both found nothing to update.
        raise AlreadyExistsError("it was added just now", columns=("id",))

    monkeypatch.setattr(papers, "_change_one", meets)
    assert (await papers.put(NewPaper(id=id, number=2), version=2)).number == 2
    assert (await papers.fetch(id)).version == 2


async def test_a_fence_lets_nobody_back(db: MultiDB, papers: Papers):
    paper = await papers.add(NewPaper())
    assert (await papers.update(paper.id, title="5", fence=5)).fence == 5
    assert (await papers.update(paper.id, title="still 5", fence=5)).title == "still 5"
    with pytest.raises(ConflictError, match="the holder of a later lock has written") as caught:
        await papers.update(paper.id, title="4", fence=4)
    assert not caught.value.retryable
    assert (await papers.update(paper.id, fence=7)).fence == 7
    # No `put` lets one back either: it says nothing of fences.
    assert (await papers.put(NewPaper(id=paper.id), version=99)).fence == 7
    for wrong in (-1, True, 1.0):
        with pytest.raises(DataError, match="`fence`"):
            await papers.update(paper.id, title="x", fence=wrong)  # type: ignore[arg-type]
    memo = await db[Memos].add(Memos.new_model(company_id=uuid7(), text="x"))
    with pytest.raises(DataError, match="`fence`: Memo has no such field"):
        await db[Memos].update(memo.id, text="y", fence=1)


async def test_many_are_changed_and_deleted_by_filter(db: MultiDB, papers: Papers):
    await papers.add_many(NewPaper(number=n, label="x") for n in range(10))
    assert await papers.update_many(papers.c.number < 4, changes={"label": None, "title": "few"}) == 4
    few = [paper async for paper in papers.stream(label=None)]
    assert {(paper.title, paper.version) for paper in few} == {("few", 2)}
    assert await papers.update_many({"number": 7}, changes={}) == 1
    assert await papers.delete_many(papers.c.number >= 5, label="x") == 5
    assert await papers.count() == 5
    for call in (papers.delete_many(), papers.update_many(changes={"title": "x"})):
        with pytest.raises(DataError, match="give a filter"):
            await call


async def test_add_many_tells_all_that_are_taken_and_stores_the_others(db: MultiDB, papers: Papers):
    await papers.add_many([NewPaper(slug="a"), NewPaper(slug="b")])
    seen: list[int] = []
    news = [NewPaper(slug=slug) for slug in ("c", "a", "d", "b", "c")]
    with pytest.raises(AlreadyExistsError) as caught:
        await papers.add_many(news, progress=seen.append)
    assert caught.value.columns == ("slug",)
    assert caught.value.keys == (("a",), ("b",), ("c",))
    assert {paper.slug async for paper in papers.stream()} == {"a", "b", "c", "d"}

    async def more() -> Any:
        for n in range(2300):
            yield NewPaper(slug=str(n))

    assert await papers.add_many(more(), progress=seen.append) == 2300
    assert seen == [1000, 2000, 2300]


# --- as it is stored


async def test_what_is_stored_comes_back_as_it_was(db: MultiDB, papers: Papers):
    data = {"list": [1, 2.5, None, "ž", {"a": None}], "nested": {"a": True, "": b"x"}, "big": 2**62}
    at = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
    new = NewPaper(data=data, tags=("a", "b"), at=at, owner=UUID(int=7), ratio=0.1, score=None, label=None)
    paper = await papers.add(new)
    assert (paper.data, paper.tags, paper.owner, paper.score) == (data, ("a", "b"), UUID(int=7), None)
    assert paper.at == at.replace(microsecond=123000)
    assert await papers.get(paper.id) == paper
    stored = await db.mongo.database["papers"].find_one({"_id": paper.id})
    assert stored is not None
    # None is left out where reading gives it back, and stands where reading would give something else.
    assert ("label" in stored, stored["score"]) == (False, None)
    assert await papers.update(paper.id, tags=None, score=5, data={}) != paper
    stored = await db.mongo.database["papers"].find_one({"_id": paper.id})
    assert stored is not None
    assert ("tags" in stored, stored["score"], stored["data"]) == (False, 5, {})


async def test_what_an_update_cannot_store_changes_nothing(db: MultiDB, papers: Papers):
    paper = await papers.add(NewPaper())
    unfit: list[dict[str, Any]] = [
        {"a.b": 1},
        {"$set": {}},
        {"a": 2**64},
        {"a": {1, 2}},
        {"a": "x" * (17 << 20)},
    ]
    for wrong in unfit:
        with pytest.raises(DataError, match="`data`"):
            await papers.update(paper.id, data=wrong)
        with pytest.raises(DataError, match="`data`"):
            await papers.upsert(NewPaper(data=wrong))
        with pytest.raises(DataError, match="`data`"):
            await papers.put(NewPaper(data=wrong), version=1)
    assert [each async for each in papers.stream()] == [paper]


async def test_append_many_stores_what_never_changes(db: MultiDB):
    events = [Event(at=datetime.now(UTC) - timedelta(seconds=n), name="a") for n in range(1200)]
    assert await db[Events].append_many(iter(events)) == 1200
    newest = await db[Events].find(limit=3)
    assert [event.id for event in newest] == [event.id for event in events[:3]]
    with pytest.raises(AlreadyExistsError) as caught:
        await db[Events].append_many([events[0], Event(at=events[0].at, name="new"), events[1]])
    assert set(caught.value.keys) == {(events[0].id,), (events[1].id,)}
    assert await db[Events].exists(name="new")


# --- whose they are


async def test_a_company_sees_and_changes_its_own(db: MultiDB):
    memos, one, other = db[Memos], uuid7(), uuid7()
    mine = await memos.add(Memos.new_model(company_id=one, text="mine"))
    theirs = await memos.add(Memos.new_model(company_id=other, text="theirs"))
    async with db.tenant(one):
        assert await memos.get(mine.id) == mine
        assert (
            await asyncio.gather(*(memos.get(each.id) for each in (mine, theirs) * 20)) == [mine, None] * 20
        )
        assert await memos.get_many([mine.id, theirs.id]) == {mine.id: mine}
        assert [each.id for each in await memos.find(total=True)] == [mine.id]
        assert [each.id async for each in memos.stream({"text": {"$exists": True}})] == [mine.id]
        assert await memos.find_one(text="theirs") is None
        assert (await memos.count(), await memos.exists(text="theirs")) == (1, False)
        with pytest.raises(NotFoundError):
            await memos.update(theirs.id, text="changed")
        assert not await memos.delete(theirs.id)
        assert await memos.update_many({}, changes={"note": "x"}) == 1
        assert await memos.delete_many({"text": "theirs"}) == 0
        for call in (
            memos.add(Memos.new_model(company_id=other, text="x")),
            memos.add_many([Memos.new_model(company_id=other, text="x")]),
            memos.update(mine.id, company_id=other),
            memos.upsert(Memos.new_model(company_id=other, text="x")),
            memos.put(Memos.new_model(company_id=other, text="x"), version=1),
        ):
            with pytest.raises(DataError, match="`company_id` must be the company"):
                await call
        for call in (
            memos.upsert(Memos.new_model(id=theirs.id, company_id=one, text="x")),
            memos.put(Memos.new_model(id=theirs.id, company_id=one, text="x"), version=9),
        ):
            with pytest.raises(AlreadyExistsError):
                await call
    assert await memos.get(theirs.id) == theirs
    assert (await memos.fetch(mine.id)).note == "x"


# --- what is declared

SCHEMA = {
    "collection": "memos",
    "version": 1,
    "validator": {
        "$jsonSchema": {
            "bsonType": "object",
            "required": ["_id", "company_id", "text", "tags", "created_at", "updated_at", "version"],
            "additionalProperties": False,
            "properties": {
                "_id": {"bsonType": "binData"},
                "company_id": {"bsonType": "binData"},
                "text": {"bsonType": "string", "maxLength": 10},
                "tags": {"bsonType": "array", "items": {"bsonType": "string"}},
                "note": {"bsonType": "string"},
                "created_at": {"bsonType": "date"},
                "updated_at": {"bsonType": "date"},
                "version": {"bsonType": ["int", "long"]},
            },
        }
    },
    "indexes": [{"name": "memos_text", "key": {"company_id": 1, "text": 1}, "unique": True}],
}


class GuardedMemos(Memos):
    unique = {"memos_text": ("company_id", "text")}


async def test_an_applications_own_schema_guards_its_documents(multidb_settings: Settings, tmp_path: Path):
    (tmp_path / "memos.json").write_text(json.dumps(SCHEMA))
    settings = multidb_settings.model_copy(update={"schema_paths": (tmp_path,)})
    await schemas.apply(settings)
    async with MultiDB(settings, repositories=[GuardedMemos]) as db:
        memos, company = db[GuardedMemos], uuid7()
        first = await memos.add(memos.new_model(company_id=company, text="one"))
        with pytest.raises(AlreadyExistsError) as taken:
            await memos.add(memos.new_model(company_id=company, text="one"))
        assert (taken.value.constraint, taken.value.columns) == ("memos_text", ("company_id", "text"))
        for call in (
            memos.add(memos.new_model(company_id=company, text="longer than that")),
            memos.update(first.id, text="longer than that"),
            memos.upsert(memos.new_model(id=first.id, company_id=company, text="longer than that")),
            memos.put(memos.new_model(company_id=company, text="longer than that"), version=7),
            memos.update_many({}, changes={"text": "longer than that"}),
        ):
            with pytest.raises(ConstraintError) as refused:
                await call
            assert type(refused.value) is ConstraintError
            assert refused.value.columns == ("text",)
        again = await memos.upsert(
            memos.new_model(company_id=company, text="one", note="x"), on=("text", "company_id")
        )
        assert (again.id, again.note, again.version) == (first.id, "x", 2)
        put = await memos.put(memos.new_model(company_id=company, text="two", tags=("a",)), version=3)
        assert (put.tags, put.version) == (("a",), 3)
        assert await memos.count() == 2


def test_models_follow_from_the_document_where_none_are_declared() -> None:
    new = Memos.new_model(company_id=UUID(int=1), text="x")
    assert set(Memos.new_model.model_fields) == {"id", "company_id", "text", "tags", "note"}
    assert (new.model_dump()["tags"], new.model_dump()["note"]) == ((), None)
    assert Memos.new_model.__name__ == "NewMemo"
    assert set(Memos.changes_model.model_fields) == {"company_id", "text", "tags", "note"}


def refused(repository: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        route_all([repository])
    return str(caught.value)


def test_what_a_collection_cannot_do_is_refused_when_it_is_wired() -> None:
    class Dated(VersionedDocument):
        day: date | None = None

    class DatedRepository(MongoRepository[Dated]):
        collection = "dated"

    class Priced(VersionedDocument):
        price: Decimal

    class PricedRepository(MongoRepository[Priced]):
        collection = "priced"

    class Unversioned(Model):
        id: UUID
        text: str

    class UnversionedRepository(MongoRepository[Unversioned]):  # type: ignore[type-var]
        collection = "unversioned"

    class NewShort(Model):
        id: UUID

    class ShortRepository(MongoRepository[Memo, NewShort]):
        collection = "short"

    class StrangeRepository(Memos):
        collection = "strange"
        unique = {"strange_name": ("nmae",)}

    class HomelessRepository(Memos):
        collection = "homeless"
        tenant = "company"

    assert "field `day`: MongoDB has no type for date" in refused(DatedRepository)
    assert "field `price`: MongoDB has no type for Decimal" in refused(PricedRepository)
    assert "derive it from VersionedDocument, or the repository from AppendOnly" in refused(
        UnversionedRepository
    )
    assert "NewShort lacks `company_id`, which Memo requires" in refused(ShortRepository)
    assert "`strange_name` is about nmae" in refused(StrangeRepository)
    assert "`tenant` is about company" in refused(HomelessRepository)
