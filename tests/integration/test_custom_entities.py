"""An application's own table: what the built-in ones can do, it can, without their soft delete."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import Field, field_validator
from sqlalchemy.dialects.postgresql import JSONB

from multidb import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    Model,
    MultiDB,
    NotFoundError,
    PostgresRepository,
    Row,
    uuid7,
)
from multidb.settings import Settings

metadata = sa.MetaData()
notes = sa.Table(
    "notes",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("data", JSONB),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("stars", sa.SmallInteger),
    sa.Column("tags", sa.ARRAY(sa.Text)),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("tags", name="notes_tags_key"),
)


class Note(Row):
    text: str
    data: dict[str, Any] | None = None
    done: bool
    stars: int | None = None
    tags: tuple[str, ...] | None = None


class NewNote(Model):
    id: UUID = Field(default_factory=uuid7)
    text: str
    data: dict[str, Any] | None = None
    done: bool = False
    stars: int | None = None
    tags: tuple[str, ...] | None = None


class NoteRepository(PostgresRepository[Note, NewNote]):
    table = notes
    unique = {"notes_pkey": ("id",), "notes_tags_key": ("tags",)}


class PickyNote(Note):
    @field_validator("text")
    @classmethod
    def _is_not_odd(cls, text: str) -> str:
        if text == "odd":
            raise ValueError("must not be odd")
        return text


class PickyRepository(PostgresRepository[PickyNote, NewNote]):
    table = notes


@pytest.fixture
async def repository(multidb_settings: Settings):
    async with MultiDB(multidb_settings, repositories=[NoteRepository]) as db:
        async with db.postgres.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield db[NoteRepository]


async def test_rows_are_counted_without_a_filter(repository: NoteRepository):
    assert await repository.count() == 0
    assert not await repository.exists()
    await repository.add_many(NewNote(text=str(n)) for n in range(3))
    assert await repository.count() == 3
    assert await repository.exists()


async def test_json_comes_back_as_it_is_by_either_way_of_adding(repository: NoteRepository):
    data = {"list": [1, 2.5, None, "ž"], "nested": {"a": True}}
    one = await repository.add(NewNote(text="one", data=data))
    await repository.add_many([NewNote(text="many", data=data), NewNote(text="none")])
    none = await repository.add(NewNote(text="none"))
    assert one.data == data
    assert [each.data for each in await repository.find(text="many")] == [data]
    found = await repository.find(data=None)
    assert len(found) == 2
    assert none.id in {each.id for each in found}


async def test_what_no_column_holds_is_refused_by_either_way_of_adding(repository: NoteRepository):
    for count in (2, 150):
        with pytest.raises(DataError):
            await repository.add_many(NewNote(text="many", stars=2**15) for _ in range(count))
    assert await repository.count() == 0


async def test_an_array_that_is_taken_is_refused(repository: NoteRepository):
    taken = NewNote(text="a", tags=("x", "y"))
    await repository.add(taken)
    with pytest.raises(AlreadyExistsError) as raised:
        await repository.add_many([NewNote(text="b"), NewNote(text="c", tags=taken.tags)])
    assert raised.value.columns == ("tags",)
    assert await repository.count() == 1


@pytest.mark.parametrize("kind", ["json", "jsonb"])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 300 + "]" * 300,
        '{"a": {"b": [1, -0, 1.5, 12345678901234567890123, null, true, "ž"]}}',
        "7",
    ],
    ids=["deep", "mixed", "scalar"],
)
async def test_json_of_others_is_read_as_python_reads_it(db: MultiDB, kind: str, text: str):
    async with db.postgres.opened.acquire() as connection:
        assert await connection.fetchval(f"SELECT $1::text::{kind}", text) == json.loads(text)


async def test_half_a_surrogate_pair_is_read_as_python_reads_it(db: MultiDB):
    """Which `json` columns may hold, and `jsonb` ones not."""
    async with db.postgres.opened.acquire() as connection:
        assert await connection.fetchval("SELECT $1::text::json", '["\\ud800"]') == ["\ud800"]


async def test_a_row_that_does_not_fit_fails_only_those_it_belongs_to(
    repository: NoteRepository, multidb_settings: Settings
):
    await repository.add_many(NewNote(text="odd" if n == 7 else "even", stars=n) for n in range(20))
    async with MultiDB(multidb_settings, repositories=[PickyRepository]) as db:
        told = await asyncio.gather(
            *(db[PickyRepository].related([n], by="stars") for n in range(20)), return_exceptions=True
        )
    assert [n for n, each in enumerate(told) if isinstance(each, DataError)] == [7]
    assert not any(isinstance(each, Exception) for n, each in enumerate(told) if n != 7)


async def test_changes_follow_from_what_can_be_given(repository: NoteRepository):
    note = await repository.add(NewNote(text="a"))
    changed = await repository.update(note.id, done=True, data={"a": 1}, version=1)
    assert (changed.text, changed.done, changed.data, changed.version) == ("a", True, {"a": 1}, 2)
    assert (await repository.update(note.id, data=None)).data is None
    with pytest.raises(DataError, match="`tetx` is not a field"):
        await repository.update(note.id, tetx="b")


async def test_deleting_deletes(repository: NoteRepository):
    note = await repository.add(NewNote(text="a"))
    with pytest.raises(ConflictError):
        await repository.delete(note.id, version=2)
    assert await repository.delete(note.id)
    assert await repository.get(note.id) is None
    assert not await repository.delete(note.id)
    with pytest.raises(NotFoundError):
        await repository.restore(note.id)


async def test_a_truth_value_can_be_an_order(repository: NoteRepository):
    await repository.add_many(NewNote(text=str(n), done=n % 2 == 0) for n in range(7))
    found: list[Note] = []
    after = None
    while True:
        page = await repository.find(order_by=["-done", "text"], limit=2, after=after)
        found += page.items
        if (after := page.next) is None:
            break
    assert [each.text for each in found] == ["0", "2", "4", "6", "1", "3", "5"]
