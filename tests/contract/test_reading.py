"""What every repository of rows or documents promises its readers."""

import re
from typing import Any

import pytest
import pytest_asyncio

from multidb import DataError, InvalidCursorError, MultiDB, uuid7
from tests.contract.subjects import ALL, Subject

pytestmark = [pytest.mark.mongo, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session", params=ALL, ids=lambda subject: subject.name)
async def subject(request: pytest.FixtureRequest, db: MultiDB) -> Subject:
    chosen: Subject = request.param
    await chosen.prepare(db)
    return chosen


async def all_pages(find: Any, **query: Any) -> list[Any]:
    """Follow the cursors to the end."""
    found: list[Any] = []
    after = None
    while True:
        page = await find(after=after, **query)
        found += page.items
        if page.next is None:
            return found
        after = page.next


async def test_get_returns_what_was_stored(db: MultiDB, subject: Subject):
    stored = await subject.store(db, 1)
    assert await subject.repository(db).get(stored.id) == stored


async def test_get_of_an_unknown_id_is_none(db: MultiDB, subject: Subject):
    await subject.store(db, 1)
    assert await subject.repository(db).get(uuid7()) is None


async def test_find_without_filters_gives_everything(db: MultiDB, subject: Subject):
    stored = await subject.store_many(db, 4)
    page = await subject.repository(db).find()
    assert {each.id for each in page} == {each.id for each in stored}
    assert page.next is None


async def test_find_of_nothing_is_an_empty_page(db: MultiDB, subject: Subject):
    page = await subject.repository(db).find()
    assert page.items == ()
    assert page.next is None


async def test_find_by_field(db: MultiDB, subject: Subject):
    stored = await subject.store_many(db, 7)
    page = await subject.repository(db).find(**{subject.field: subject.value(1)})
    expected = {each.id for each in stored if getattr(each, subject.field) == subject.value(1)}
    assert len(expected) == 2
    assert {each.id for each in page} == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("direction", ["", "-"])
async def test_pages_give_each_item_once_and_in_order(
    db: MultiDB, subject: Subject, limit: int, direction: str
):
    stored = await subject.store_many(db, 7)
    found = await all_pages(
        subject.repository(db).find, order_by=[f"{direction}{subject.field}", "-id"], limit=limit
    )
    by_id = sorted(stored, key=lambda each: each.id, reverse=True)
    expected = sorted(by_id, key=lambda each: getattr(each, subject.field), reverse=bool(direction))
    assert [each.id for each in found] == [each.id for each in expected]


async def test_a_tie_without_a_tie_breaker_loses_nothing(db: MultiDB, subject: Subject):
    stored = await subject.store_many(db, 7)
    found = await all_pages(subject.repository(db).find, order_by=subject.field, limit=2)
    assert sorted(each.id for each in found) == sorted(each.id for each in stored)


async def test_items_added_between_pages_repeat_nothing(db: MultiDB, subject: Subject):
    repository = subject.repository(db)
    before = await subject.store_many(db, 6)
    first = await repository.find(order_by=subject.field, limit=3)
    for n in range(6, 12):
        await subject.store(db, n)
    rest = await all_pages_after(repository.find, first.next, order_by=subject.field, limit=3)
    found = [each.id for each in (*first.items, *rest)]
    assert len(found) == len(set(found))
    assert {each.id for each in before} <= set(found)


async def all_pages_after(find: Any, after: str | None, **query: Any) -> list[Any]:
    found: list[Any] = []
    while after is not None:
        page = await find(after=after, **query)
        found += page.items
        after = page.next
    return found


async def test_a_cursor_is_good_for_its_own_query_only(db: MultiDB, subject: Subject):
    repository = subject.repository(db)
    await subject.store_many(db, 5)
    cursor = (await repository.find(order_by=subject.field, limit=2)).next
    for other in (
        {"order_by": f"-{subject.field}"},
        {"order_by": "id"},
        {"order_by": subject.field, subject.field: subject.value(1)},
    ):
        with pytest.raises(InvalidCursorError):
            await repository.find(after=cursor, limit=2, **other)


@pytest.mark.parametrize("cursor", ["", "x", "not a cursor", "AAAA", "é"])
async def test_what_is_no_cursor_is_refused(db: MultiDB, subject: Subject, cursor: str):
    with pytest.raises(InvalidCursorError):
        await subject.repository(db).find(after=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 2.5, "10", None])
async def test_a_limit_out_of_bounds_is_refused(db: MultiDB, subject: Subject, limit: Any):
    with pytest.raises(DataError, match="`limit` must be a whole number from 1 to 1000"):
        await subject.repository(db).find(limit=limit)


async def test_an_unknown_field_is_named(db: MultiDB, subject: Subject):
    repository = subject.repository(db)
    with pytest.raises(DataError, match="`nmae` is not a field of"):
        await repository.find(nmae="x")
    with pytest.raises(DataError, match="`nmae` is not a field of"):
        await repository.find(order_by="-nmae")


@pytest.mark.parametrize("order", [7, True, [None], b"id", {"id": -1}, {"id"}, object()])
async def test_what_is_no_order_is_refused(db: MultiDB, subject: Subject, order: Any):
    with pytest.raises(DataError, match=r"`order_by` takes names of fields, .* not "):
        await subject.repository(db).find(order_by=order)


async def test_a_value_is_never_taken_for_an_operator(db: MultiDB, subject: Subject):
    """Values may come from a request's body."""
    await subject.store_many(db, 3)
    for value in ({"$ne": "nothing"}, {"$gt": ""}, re.compile(".")):
        try:
            page = await subject.repository(db).find(**{subject.field: value})
        except DataError:
            continue
        assert page.items == ()


async def test_a_value_of_the_wrong_type_is_refused_by_the_name_of_its_field(db: MultiDB, subject: Subject):
    for wrong in (True, 7, [], object()):
        with pytest.raises(DataError, match=f"`{subject.field}` of "):
            await subject.repository(db).find(**{subject.field: wrong})
    for wrong in ("x", None, 7):
        with pytest.raises(DataError, match="`id` must be a UUID"):
            await subject.repository(db).get(wrong)
    if subject.field_is_text:
        # What the field's bounds would refuse is just what nothing has.
        assert (await subject.repository(db).find(**{subject.field: ""})).items == ()


async def test_what_is_no_document_is_refused(db: MultiDB):
    with pytest.raises(DataError, match="give a SystemLog, not dict"):
        await db.system_logs.append({"level": "info"})  # type: ignore[arg-type]


async def test_what_has_no_order_is_refused(db: MultiDB):
    with pytest.raises(DataError, match="`context` has no order"):
        await db.system_logs.find(order_by="-context")


async def test_what_is_no_filter_is_refused(db: MultiDB, subject: Subject):
    with pytest.raises(DataError, match="a filter must be"):
        await subject.repository(db).find(True)
