"""What every repository of rows, or of documents that change, promises its writers."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from multidb import AlreadyExistsError, ConflictError, DataError, MultiDB, NotFoundError, uuid7
from tests.contract.subjects import CHANGEABLE, RowSubject

pytestmark = [pytest.mark.mongo, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session", params=CHANGEABLE, ids=lambda subject: subject.name)
async def subject(request: pytest.FixtureRequest, db: MultiDB) -> RowSubject:
    chosen: RowSubject = request.param
    await chosen.prepare(db)
    return chosen


def those(condition: Callable[[RowSubject], object]) -> pytest.MarkDecorator:
    """Run a test over the subjects that have what it is about."""
    chosen = [each for each in CHANGEABLE if condition(each)]
    return pytest.mark.parametrize("subject", chosen, ids=lambda subject: subject.name, indirect=True)


with_a_unique_value = those(lambda subject: subject.taken)
with_a_text = those(lambda subject: subject.text)
that_marks_what_is_deleted = those(lambda subject: subject.is_table and subject.marks_deleted)


def taken(subject: RowSubject, n: int) -> Any:
    assert subject.taken is not None
    return subject.taken(n)


def values(row: Any, names: tuple[str, ...]) -> list[Any]:
    return [getattr(row, name) for name in names]


async def test_add_keeps_id_version_and_times(db: MultiDB, subject: RowSubject):
    new = subject.new(1)
    stored = await subject.repository(db).add(new)
    assert stored.id == new.id
    assert stored.version == 1
    assert stored.created_at == stored.updated_at
    assert stored.created_at.tzinfo is UTC
    assert abs(stored.created_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_fetch_of_an_unknown_id_raises(db: MultiDB, subject: RowSubject):
    missing = uuid7()
    with pytest.raises(NotFoundError, match=str(missing)):
        await subject.repository(db).fetch(missing)


async def test_get_many_keeps_the_order_asked_and_leaves_out_the_unknown(db: MultiDB, subject: RowSubject):
    a, b, c = await subject.store_many(db, 3)
    found = await subject.repository(db).get_many([c.id, uuid7(), a.id, c.id])
    assert list(found.items()) == [(c.id, c), (a.id, a)]
    assert b.id not in found
    assert await subject.repository(db).get_many([]) == {}


async def test_count_and_exists(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    assert await repository.count() == 0
    assert not await repository.exists()
    await subject.store_many(db, 7)
    assert await repository.count() == 7
    assert await repository.count(**{subject.field: subject.value(1)}) == 2
    assert await repository.count(repository.c[subject.field] != subject.value(1)) == 5
    assert await repository.exists(**{subject.field: subject.value(2)})
    assert not await repository.exists(**{subject.field: subject.nowhere})


async def test_filters_of_both_kinds_are_joined(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store_many(db, 7)
    c = repository.c
    page = await repository.find(c.id.in_([stored[0].id, stored[1].id]), **{subject.field: subject.value(0)})
    assert [each.id for each in page] == [stored[0].id]


@with_a_unique_value
async def test_a_taken_unique_value_is_refused_and_named(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    await subject.store(db, 1)
    with pytest.raises(AlreadyExistsError) as caught:
        await repository.add(taken(subject, 1))
    assert caught.value.columns == subject.unique
    assert caught.value.constraint == subject.constraint
    assert await repository.count() == 1


async def test_adding_the_same_thing_twice_stores_it_once(db: MultiDB, subject: RowSubject):
    new = subject.new(1)
    await subject.repository(db).add(new)
    with pytest.raises(AlreadyExistsError):
        await subject.repository(db).add(new)
    assert await subject.repository(db).count() == 1


async def test_add_many_stores_all(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    new = [subject.new(n) for n in range(50)]
    assert await repository.add_many(iter(new)) == 50
    found = await repository.get_many(each.id for each in new)
    given = tuple(type(new[0]).model_fields)
    assert [values(found[each.id], given) for each in new] == [values(each, given) for each in new]
    assert {each.version for each in found.values()} == {1}
    assert await repository.add_many([]) == 0


@those(lambda subject: subject.taken and subject.is_table)
async def test_add_many_stores_all_or_nothing(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    with pytest.raises(AlreadyExistsError) as caught:
        await repository.add_many([subject.new(1), subject.new(2), taken(subject, 1)])
    assert caught.value.columns == subject.unique
    assert await repository.count() == 0


async def test_what_is_no_uuid_is_refused_before_anything_is_written(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    for wrong in (str(stored.id), stored.id.bytes, None, 7):
        for call in (
            repository.get(wrong),
            repository.update(wrong, **subject.change(1)),
            repository.delete(wrong),
            *([repository.restore(wrong)] if subject.is_table else []),
        ):
            with pytest.raises(DataError, match="`id` must be a UUID"):
                await call
        for ids in ([stored.id, wrong], wrong):
            with pytest.raises(DataError, match=r"`ids` must be (a list of )?UUIDs"):
                await repository.get_many(ids)
        for several in (wrong, [wrong]):
            with pytest.raises(DataError):
                await repository.add_many(several)
    assert await repository.get(stored.id) == stored


async def test_what_is_not_the_right_class_is_refused(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    for wrong in (stored, {"name": "x"}, subject.new(2).model_dump(), None):
        with pytest.raises(DataError, match="give a New"):
            await repository.add(wrong)
        with pytest.raises(DataError, match="give a New"):
            await repository.add_many([subject.new(3), wrong])
    for wrong in (stored, {"name": "x"}, subject.new(2)):
        with pytest.raises(DataError, match=r"give a .*Changes"):
            await repository.update(stored.id, wrong)
    assert await repository.count() == 1
    assert await repository.get(stored.id) == stored


async def test_update_by_name(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    changed = await repository.update(stored.id, **subject.change(1))
    assert changed == stored.model_copy(
        update={**subject.change(1), "version": 2, "updated_at": changed.updated_at}
    )
    assert changed.updated_at >= stored.updated_at
    assert await repository.get(stored.id) == changed


async def test_update_by_object_changes_only_what_was_given(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    changed = await repository.update(stored.id, repository.changes_model(**subject.change(1)))
    assert changed == stored.model_copy(
        update={**subject.change(1), "version": 2, "updated_at": changed.updated_at}
    )


async def test_update_of_nothing_changes_nothing(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    assert await repository.update(stored.id) == stored
    assert await repository.update(stored.id, version=1) == stored
    with pytest.raises(ConflictError):
        await repository.update(stored.id, version=2)
    with pytest.raises(NotFoundError):
        await repository.update(uuid7())


async def test_update_of_a_stale_version_is_refused(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    current = await repository.update(stored.id, **subject.change(1), version=stored.version)
    with pytest.raises(ConflictError, match="has version 2, not 1"):
        await repository.update(stored.id, **subject.change(2), version=stored.version)
    assert await repository.get(stored.id) == current


async def test_of_many_updates_of_one_version_one_wins(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    outcomes = await asyncio.gather(
        *(repository.update(stored.id, **subject.change(n), version=1) for n in range(20)),
        return_exceptions=True,
    )
    winners = [each for each in outcomes if not isinstance(each, BaseException)]
    assert len(winners) == 1
    assert sum(isinstance(each, ConflictError) for each in outcomes) == 19
    assert await repository.get(stored.id) == winners[0]


async def test_update_of_an_unknown_id_raises(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    with pytest.raises(NotFoundError):
        await repository.update(uuid7(), **subject.change(1))
    with pytest.raises(NotFoundError):
        await repository.update(uuid7(), **subject.change(1), version=1)


async def test_update_refuses_what_does_not_fit_and_names_it(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    with pytest.raises(DataError, match="`nmae` is not a field of"):
        await repository.update(stored.id, nmae="x")
    name, wrong = subject.wrong
    with pytest.raises(DataError, match=f"`{name}[^`]*` of"):
        await repository.update(stored.id, **{name: wrong})
    with pytest.raises(DataError, match="not both"):
        await repository.update(stored.id, repository.changes_model(**subject.change(1)), **subject.change(2))
    assert await repository.get(stored.id) == stored


@those(lambda subject: set(subject.unique) & set(subject.changes.model_fields))
async def test_update_to_a_taken_unique_value_is_refused(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    await subject.store(db, 1)
    other = await subject.store(db, 2)
    name = subject.unique[-1]
    with pytest.raises(AlreadyExistsError) as caught:
        await repository.update(other.id, **{name: getattr(taken(subject, 1), name)})
    assert caught.value.columns == subject.unique
    assert await repository.get(other.id) == other


async def test_delete_hides_the_row_from_every_reader(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    await repository.get(stored.id)
    assert await repository.delete(stored.id) is True
    assert await repository.get(stored.id) is None
    assert await repository.get_many([stored.id]) == {}
    assert (await repository.find()).items == ()
    assert await repository.count() == 0
    assert not await repository.exists()
    with pytest.raises(NotFoundError):
        await repository.update(stored.id, **subject.change(1))


async def test_a_page_that_turned_out_empty_leads_back(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = sorted(await subject.store_many(db, 3), key=lambda each: each.id)
    first = await repository.find(order_by="id", limit=2)
    await repository.delete(stored[2].id)
    empty = await repository.find(order_by="id", limit=2, after=first.next)
    assert (empty.items, empty.next) == ((), None)
    back = await repository.find(order_by="id", limit=2, before=empty.previous)
    assert (back.items, back.next, back.previous) == (first.items, None, None)


async def test_delete_is_idempotent(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    assert await repository.delete(stored.id) is True
    assert await repository.delete(stored.id) is False
    assert await repository.delete(uuid7()) is False


async def test_delete_of_a_stale_version_is_refused(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    current = await repository.update(stored.id, **subject.change(1))
    with pytest.raises(ConflictError, match="has version 2, not 1"):
        await repository.delete(stored.id, version=1)
    assert await repository.get(stored.id) == current
    assert await repository.delete(stored.id, version=2)
    assert await repository.delete(stored.id, version=2) is False


@with_a_unique_value
async def test_a_deleted_row_frees_its_unique_value(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    await repository.delete(stored.id)
    successor = await repository.add(taken(subject, 1))
    assert await repository.get(successor.id) == successor
    if subject.is_table:
        with pytest.raises(AlreadyExistsError if subject.marks_deleted else NotFoundError):
            await repository.restore(stored.id)
    assert await repository.get(stored.id) is None


@that_marks_what_is_deleted
async def test_restore_brings_the_row_back(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    await repository.delete(stored.id)
    restored = await repository.restore(stored.id)
    assert restored == stored.model_copy(update={"version": 3, "updated_at": restored.updated_at})
    assert await repository.get(stored.id) == restored
    assert await repository.restore(stored.id) == restored
    with pytest.raises(NotFoundError):
        await repository.restore(uuid7())


@those(lambda subject: subject.is_table and not subject.marks_deleted)
async def test_what_is_deleted_for_good_cannot_be_restored(db: MultiDB, subject: RowSubject):
    repository = subject.repository(db)
    stored = await subject.store(db, 1)
    assert await repository.restore(stored.id) == stored
    await repository.delete(stored.id)
    with pytest.raises(NotFoundError):
        await repository.restore(stored.id)


@with_a_text
@pytest.mark.parametrize("text", ["x\x00y", "\ud800"])
async def test_text_that_cannot_be_stored_is_a_data_error(db: MultiDB, subject: RowSubject, text: str):
    stored = await subject.store(db, 1)
    if "\0" in text and not subject.is_table:
        changed = await subject.repository(db).update(stored.id, **{str(subject.text): text})
        assert getattr(changed, str(subject.text)) == text
        return
    with pytest.raises(DataError):
        await subject.repository(db).update(stored.id, **{str(subject.text): text})
    assert await subject.repository(db).get(stored.id) == stored


@with_a_text
async def test_text_is_stored_as_it_is(db: MultiDB, subject: RowSubject):
    repository, name = subject.repository(db), str(subject.text)
    text = "Žofie O'Neil; DROP TABLE users; -- ✨ {} %s $1"
    stored = await subject.store(db, 1)
    await repository.update(stored.id, **{name: text})
    assert getattr(await repository.fetch(stored.id), name) == text
    assert [each.id for each in await repository.find(**{name: text})] == [stored.id]
