"""Pages: every row once, in the order asked for, whatever happens between two of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multidb import DataError, InvalidCursorError, MultiDB, Page, uuid7

from .entries import Entries, Entry, NewEntry, OldEntries, add_documents, ids, in_order, walk

# --- every row once

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
# Few values each, so that most rows are equal in most orders.
ROWS = st.builds(
    NewEntry,
    id=st.uuids(),  # unlike uuid7, in no order of their own
    rank=st.sampled_from([None, -1, 0, 2**31 - 1]),
    tag=st.sampled_from([None, "", "B", "a", "ž"]),
    name=st.sampled_from(["a", "b"]),
    due_at=st.sampled_from([None, NOON, NOON + timedelta(microseconds=1)]),
)
MANY = st.lists(ROWS, max_size=14, unique_by=lambda row: row.id)
ORDERS = st.lists(
    st.sampled_from(["rank", "tag", "name", "due_at", "created_at", "id"]),
    min_size=1,
    max_size=3,
    unique=True,
).flatmap(lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names)))
LIMITS = st.integers(1, 6)
#: Between two pages: which rows go, by their number, and which come.
CHANGES = st.tuples(st.lists(st.integers(0, 13), max_size=3), st.lists(ROWS, max_size=3))

# The table is emptied by each example itself.
examples = settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def filled(entries: Entries, new: Sequence[NewEntry]) -> list[Entry]:
    """Return the rows of the table, which are these and no others."""
    await entries.delete_many(sa.true())
    await entries.add_many(new)
    rows = await entries.get_many([each.id for each in new])
    assert len(rows) == len(new)
    return list(rows.values())


@examples
@given(new=MANY, order=ORDERS, limit=LIMITS)
async def test_pages_are_the_rows_in_order_and_the_same_going_back(
    entries: Entries, new: list[NewEntry], order: tuple[str, ...], limit: int
):
    expected = in_order(await filled(entries, new), order)
    pages = await walk(entries, order, limit)
    assert [row for page in pages for row in page] == expected
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)

    back = [pages[-1]]
    while (before := back[-1].previous) is not None:
        back.append(await entries.find(order_by=order, limit=limit, before=before))
    # Cursors and all.
    assert back == pages[::-1]


@examples
@given(
    new=MANY,
    order=ORDERS,
    limit=st.integers(1, 3),
    backwards=st.booleans(),
    churn=st.lists(
        st.tuples(st.lists(st.integers(0, 13), max_size=3), st.lists(ROWS, max_size=3)), max_size=6
    ),
)
async def test_rows_that_stay_come_once_whatever_comes_and_goes(
    entries: Entries,
    new: list[NewEntry],
    order: tuple[str, ...],
    limit: int,
    backwards: bool,
    churn: list[tuple[list[int], list[NewEntry]]],
):
    rows = await filled(entries, new)
    gone: set[UUID] = set()
    changes = iter(churn)
    pages = await walk(entries, order, limit) if backwards else []
    page = pages[-1] if backwards else await entries.find(order_by=order, limit=limit)
    found = list(page)
    while (cursor := page.previous if backwards else page.next) is not None:
        doomed, added = next(changes, ([], []))
        # By index into the rows there were: some of them seen, some not, the one the cursor tells too.
        leaving = {rows[index].id for index in doomed if index < len(rows)}
        await entries.delete_many(entries.c.id.in_(leaving))
        gone |= leaving
        for each in added:
            await entries.add(each.model_copy(update={"id": uuid7()}))
        if backwards:
            page = await entries.find(order_by=order, limit=limit, before=cursor)
            found = [*page, *found]
        else:
            page = await entries.find(order_by=order, limit=limit, after=cursor)
            found += page
    assert len(set(ids(found))) == len(found)
    assert found == in_order(found, order)
    staying = {row.id for row in rows} - gone
    assert [row for row in found if row.id in staying] == in_order(
        (row for row in rows if row.id in staying), order
    )


# --- cursors


@pytest.fixture
async def nine(entries: Entries) -> list[Entry]:
    """Nine rows in the order of `-rank`: three without one, then 1, 1, 1, 0, 0, 0."""
    return in_order(await filled(entries, [NewEntry(rank=r) for r in (0, 1, None) * 3]), ["-rank"])


async def test_the_ends_have_no_cursor_beyond_them(entries: Entries, nine: list[Entry]):
    pages = await walk(entries, ["-rank"], 3)
    assert [(p.previous is None, p.next is None) for p in pages] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    assert await entries.find(order_by="-rank", limit=3, before=pages[1].previous) == pages[0]
    for enough in (9, 10, 1000):
        assert await entries.find(order_by="-rank", limit=enough) == Page(tuple(nine))


async def test_nothing_is_one_empty_page(entries: Entries, nine: list[Entry]):
    assert await entries.find(rank=7) == Page(())
    assert await entries.find(rank=7, total=True) == Page((), total=0)


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_page_whose_rows_are_gone_leads_back(entries: Entries, nine: list[Entry], backwards: bool):
    async def follow(cursor: str | None, *, backwards: bool) -> tuple[Page[Entry], str | None, str | None]:
        """Return a page, the cursor that leads on from it, and the one that leads back."""
        if backwards:
            page = await entries.find(order_by="-rank", limit=2, before=cursor)
            return page, page.previous, page.next
        page = await entries.find(order_by="-rank", limit=2, after=cursor)
        return page, page.next, page.previous

    middle = (await walk(entries, ["-rank"], 3))[1]
    await entries.delete_many(rank=0)
    await entries.delete_many(rank=None)
    empty, on, back = await follow(middle.previous if backwards else middle.next, backwards=backwards)
    assert empty.items == ()
    assert on is None
    assert back is not None
    # The row that the cursor told is there itself, and nothing on this side of it.
    page, _, this_side = await follow(back, backwards=not backwards)
    assert page.items == tuple(nine[3:5] if backwards else nine[4:6])
    assert this_side is None
    # Followed the way it was come, it is the same place.
    assert (await follow(back, backwards=backwards))[0] == empty
    await entries.delete_many(rank=1)
    assert (await follow(back, backwards=not backwards))[0] == Page(())


async def test_either_cursor_may_be_followed_either_way(entries: Entries, nine: list[Entry]):
    """A cursor is the place of a row: the last of its page, or the first."""
    page = (await walk(entries, ["-rank"], 3))[1]
    assert page.items == tuple(nine[3:6])
    assert (await entries.find(order_by="-rank", limit=3, before=page.next)).items == tuple(nine[2:5])
    assert (await entries.find(order_by="-rank", limit=3, after=page.previous)).items == tuple(nine[4:7])
    # And the page may be of another size.
    assert (await entries.find(order_by="-rank", limit=9, before=page.next)).items == tuple(nine[:5])


async def test_both_cursors_are_refused(entries: Entries, nine: list[Entry]):
    page = (await walk(entries, ["-rank"], 3))[1]
    with pytest.raises(DataError, match="`after` or `before`, not both"):
        await entries.find(order_by="-rank", limit=3, after=page.next, before=page.previous)


@pytest.mark.parametrize("direction", ["after", "before"])
async def test_a_cursor_of_another_query_is_refused(
    opened: MultiDB, entries: Entries, nine: list[Entry], direction: str
):
    cursor = (await entries.find(name="a", order_by="-rank", limit=3)).next
    given: dict[str, Any] = {"name": "a", "order_by": "-rank", direction: cursor}
    assert await entries.find(**given)
    others: list[dict[str, Any]] = [
        {"name": "b"},
        {"order_by": "rank"},
        {"order_by": ["-rank", "id"]},
        {"order_by": "-created_at"},
        {"rank": 1},
        {"due_at": None},
    ]
    for other in others:
        with pytest.raises(InvalidCursorError):
            await entries.find(**{**given, **other})
    with pytest.raises(InvalidCursorError):
        await entries.find(entries.c.rank > 0, **given)
    with pytest.raises(InvalidCursorError):
        await opened[OldEntries].find(**given)


@pytest.mark.parametrize("direction", ["after", "before"])
async def test_a_cursor_that_was_changed_is_refused(entries: Entries, nine: list[Entry], direction: str):
    cursor = (await entries.find(order_by="-rank", limit=3)).next
    assert cursor is not None
    changed = [cursor[:n] + ("A" if cursor[n] != "A" else "B") + cursor[n + 1 :] for n in range(len(cursor))]
    shortened = [cursor[:n] for n in range(len(cursor))]
    for each in (*changed, *shortened, f"{cursor}A", f"{cursor}=", f" {cursor}"):
        given: dict[str, Any] = {direction: each}
        with pytest.raises(InvalidCursorError):
            await entries.find(order_by="-rank", limit=3, **given)


async def test_a_cursor_of_another_company_is_refused(db: MultiDB):
    ours, theirs = await add_documents(db, "ours", 3), await add_documents(db, "theirs", 3)
    async with db.tenant(ours):
        page = await db.documents.find(limit=2)
        assert (await db.documents.find(limit=2, after=page.next)).next is None
    async with db.tenant(theirs):
        with pytest.raises(InvalidCursorError):
            await db.documents.find(limit=2, after=page.next)
    # Not even by naming the company as a filter.
    with pytest.raises(InvalidCursorError):
        await db.documents.find(limit=2, after=page.next)
    with pytest.raises(InvalidCursorError):
        await db.documents.find(limit=2, after=page.next, company_id=ours)


# --- totals and orders


async def test_the_total_is_of_all_pages(entries: Entries, nine: list[Entry]):
    first = await entries.find(order_by="-rank", limit=4, total=True)
    second = await entries.find(order_by="-rank", limit=4, after=first.next, total=True)
    back = await entries.find(order_by="-rank", limit=4, before=second.previous, total=True)
    assert (first.total, second.total, back) == (9, 9, first)
    assert (await entries.find(entries.c.rank.is_null(), limit=1, total=True)).total == 3
    assert (await entries.find(limit=1)).total is None


async def test_an_order_may_be_said_in_many_ways(entries: Entries):
    c = entries.c
    rows = await filled(entries, [NewEntry(name=n, rank=r) for n in "bac" for r in (1, None, 0)])
    for said, order in (
        ("name", ["name"]),
        (c.name, ["name"]),
        (c.name.asc(), ["name"]),
        ("-name", ["-name"]),
        (c.name.desc(), ["-name"]),
        ([c.name.desc(), "rank"], ["-name", "rank"]),
        (("-rank", c.name), ["-rank", "name"]),
        ([c.rank.asc(), c.name.desc(), "id"], ["rank", "-name", "id"]),
        (["rank", "-rank"], ["rank", "-rank"]),
        ([], []),
        (None, []),
    ):
        assert list(await entries.find(order_by=said)) == in_order(rows, order)


async def test_what_is_no_order_is_refused_by_name(opened: MultiDB, entries: Entries):
    cases: list[tuple[Any, str]] = [
        ("nmae", "`nmae` is not a field of Entry"),
        (["name", "-nmae"], "`nmae` is not a field of Entry"),
        ("--name", "`-name` is not a field of Entry"),
        ("name desc", "`name desc` is not a field of Entry"),
        ("", "`` is not a field of Entry"),
        (opened.users.c.name, "`name` of User is not a field of Entry"),
        ([opened.users.c.email.desc()], "`email` of User is not a field of Entry"),
        (7, "`order_by` .* not int"),
        (True, "`order_by` .* not bool"),
        (["name", None], "`order_by` .* not NoneType"),
        (b"name", "`order_by` .* not int"),
        ({"name": -1}, "`order_by` .* not dict"),
        ({"name", "rank"}, "`order_by` .* not set"),
        (entries.c.name == "a", "`order_by` .* not Comparison"),
        (entries.table.c.name, "`order_by` .* not Column"),
        ([entries.table.c.name.desc()], "`order_by` .* not UnaryExpression"),
    ]
    for wrong, named in cases:
        with pytest.raises(DataError, match=named):
            await entries.find(order_by=wrong)
        with pytest.raises(DataError, match=named):
            entries.stream(order_by=wrong)
