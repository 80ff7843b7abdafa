"""Pages of documents: every one once, in the order asked for, whatever happens between two of them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb import DataError, InvalidCursorError, Page, uuid7
from multidb.settings import Settings
from tests.collections import NewPaper, Paper, Papers, open_with_collections
from tests.integration.things import bounded

pytestmark = pytest.mark.mongo

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
# Few values each, so that most documents are equal in most orders.
NEW = st.builds(
    NewPaper,
    id=st.uuids(),  # unlike uuid7, in no order of their own
    number=st.sampled_from([None, -1, 0, 2**40]),
    label=st.sampled_from([None, "", "B", "a", "ž"]),
    title=st.sampled_from(["a", "b"]),
    at=st.sampled_from([None, NOON, NOON + timedelta(milliseconds=1)]),
    # Stored as null where the others are absent.
    score=st.sampled_from([None, 7, 8]),
    kind=st.sampled_from([None, "draft", "final"]),
)
MANY = st.lists(NEW, max_size=14, unique_by=lambda new: new.id)
ORDERS = st.lists(
    st.sampled_from(["number", "label", "title", "at", "score", "kind", "created_at", "id"]),
    min_size=1,
    max_size=3,
    unique=True,
).flatmap(lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names)))


@pytest.fixture
async def papers(multidb_settings: Settings):
    async with open_with_collections(multidb_settings) as db:
        yield db[Papers]


def in_order(papers: Iterable[Paper], order: Sequence[str]) -> list[Paper]:
    """Return documents as they must come: null below everything, then by id, the way the last key goes."""
    ordered = list(papers)
    for name in reversed([*order, "-id" if order and order[-1].startswith("-") else "id"]):
        values = {paper.id: getattr(paper, name.removeprefix("-")) for paper in ordered}
        ordered.sort(
            key=lambda paper: (
                values[paper.id] is not None,
                0 if values[paper.id] is None else values[paper.id],
            ),
            reverse=name.startswith("-"),
        )
    return ordered


async def filled(papers: Papers, new: Sequence[NewPaper]) -> list[Paper]:
    """Return the documents of the collection, which are these and no others."""
    await papers.delete_many({})
    await papers.add_many(new)
    return list((await papers.get_many([each.id for each in new])).values())


async def walk(papers: Papers, order: Sequence[str], limit: int) -> list[Page[Paper]]:
    pages = [await papers.find(order_by=order, limit=limit)]
    while (after := pages[-1].next) is not None:
        pages.append(await papers.find(order_by=order, limit=limit, after=after))
    return pages


@bounded(max_examples=25)
@given(new=MANY, order=ORDERS, limit=st.integers(1, 6))
async def test_pages_are_the_documents_in_order_and_the_same_going_back(
    papers: Papers, new: list[NewPaper], order: tuple[str, ...], limit: int
):
    expected = in_order(await filled(papers, new), order)
    assert [paper async for paper in papers.stream(order_by=order)] == expected
    pages = await walk(papers, order, limit)
    assert [paper for page in pages for paper in page] == expected
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)

    back = [pages[-1]]
    while (before := back[-1].previous) is not None:
        back.append(await papers.find(order_by=order, limit=limit, before=before))
    # Cursors and all.
    assert back == pages[::-1]


@bounded(max_examples=25)
@given(
    new=MANY,
    order=ORDERS,
    limit=st.integers(1, 3),
    backwards=st.booleans(),
    churn=st.lists(
        st.tuples(st.lists(st.integers(0, 13), max_size=3), st.lists(NEW, max_size=3)), max_size=6
    ),
)
async def test_documents_that_stay_come_once_whatever_comes_and_goes(
    papers: Papers,
    new: list[NewPaper],
    order: tuple[str, ...],
    limit: int,
    backwards: bool,
    churn: list[tuple[list[int], list[NewPaper]]],
):
    there = await filled(papers, new)
    gone: set[UUID] = set()
    changes = iter(churn)
    pages = await walk(papers, order, limit) if backwards else []
    page = pages[-1] if backwards else await papers.find(order_by=order, limit=limit)
    found = list(page)
    while (cursor := page.previous if backwards else page.next) is not None:
        doomed, added = next(changes, ([], []))
        # Some of them seen, some not, the one the cursor tells too.
        leaving = {there[index].id for index in doomed if index < len(there)}
        await papers.delete_many(papers.c.id.in_(leaving))
        gone |= leaving
        for each in added:
            await papers.add(each.model_copy(update={"id": uuid7(), "slug": str(uuid7())}))
        if backwards:
            page = await papers.find(order_by=order, limit=limit, before=cursor)
            found = [*page, *found]
        else:
            page = await papers.find(order_by=order, limit=limit, after=cursor)
            found += page
    assert len({paper.id for paper in found}) == len(found)
    assert found == in_order(found, order)
    staying = {paper.id for paper in there} - gone
    assert [paper for paper in found if paper.id in staying] == in_order(
        (paper for paper in there if paper.id in staying), order
    )


async def test_what_is_no_number_is_less_than_every_number(papers: Papers):
    ratios = [float("nan"), 1.5, None, float("-inf"), float("nan"), 0.0, float("inf")]
    added = [await papers.add(NewPaper(ratio=ratio)) for ratio in ratios]
    expected = [added[place].id for place in (2, 0, 4, 3, 5, 1, 6)]
    for order, ids in (("ratio", expected), ("-ratio", expected[::-1])):
        found = await walk(papers, [order], 1)
        assert [paper.id for page in found for paper in page] == ids


async def test_a_field_named_again_decides_nothing(papers: Papers):
    for number in (1, 2, 1, 3):
        await papers.add(NewPaper(number=number))
    for order in (["number", "-number"], ["-number", "id", "number", "-id"]):
        found = await walk(papers, order, 1)
        once = await papers.find(order_by=order[: 1 + (order[1] == "id")])
        assert [paper.id for page in found for paper in page] == [paper.id for paper in once]


async def test_a_page_tells_the_total_and_takes_one_cursor(papers: Papers):
    await papers.add_many(NewPaper(number=n) for n in range(9))
    first = await papers.find(papers.c.number >= 2, order_by="number", limit=3, total=True)
    assert (len(first), first.total, first.previous) == (3, 7, None)
    second = await papers.find(papers.c.number >= 2, order_by="number", limit=3, after=first.next)
    assert [paper.number for paper in second] == [5, 6, 7]
    with pytest.raises(DataError, match="not both"):
        await papers.find(after=first.next, before=second.previous)
    with pytest.raises(InvalidCursorError):
        await papers.find(papers.c.number >= 3, order_by="number", limit=3, after=first.next)


async def test_a_deep_page_reads_no_more_than_the_first(papers: Papers):
    """By the index of the order, forwards and backwards, null or not: keys looked at, and none sorted."""
    await papers.add_many(NewPaper(number=n // 10 if n > 100 else None, score=n) for n in range(3000))
    collection = papers._resources.mongo.database["papers"]
    await collection.create_index([("number", 1), ("_id", 1)])
    await collection.create_index([("score", 1), ("_id", 1)])
    for order in ("number", "-number", "score", "-score"):
        keyset = papers._keyset(order, "test")
        ordered = in_order([paper async for paper in papers.stream()], [order])
        for depth in (5, 1500, 2990):
            document = papers._document(ordered[depth].model_dump())
            for backwards in (False, True):
                told = await explained(collection, keyset, document, backwards=backwards)
                assert "SORT" not in str(told["queryPlanner"]["winningPlan"]).replace("SORT_MERGE", "")
                assert told["executionStats"]["totalKeysExamined"] < 60


async def explained(collection: Any, keyset: Any, document: Any, *, backwards: bool) -> Any:
    where = keyset.beyond(keyset.position(document), backwards=backwards)
    cursor = collection.find(where, sort=keyset.sort(backwards=backwards), limit=21)
    return await cursor.explain()


async def test_a_stream_may_be_left_at_any_document(papers: Papers):
    await papers.add_many(NewPaper(number=n) for n in range(2500))
    stream = papers.stream(order_by="number")
    assert [(await anext(stream)).number for _ in range(1500)] == list(range(1500))
    await stream.aclose()  # type: ignore[attr-defined]
    usage = papers._resources.mongo.pool_usage()
    assert usage is not None
    assert usage.in_use == 0
    assert [
        paper.number async for paper in papers.stream(papers.c.number >= 1200, order_by="-number")
    ] == list(range(2499, 1199, -1))
