"""Filters: what PostgreSQL finds by them is what Python finds by them."""

import operator
import random
import re
from collections.abc import Awaitable, Callable
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from multidb import DataError, MultiDB
from multidb.models.filters import Condition, Field
from multidb.repositories.table_criteria import where_of
from multidb.repositories.users import UserRepository
from multidb.settings import Settings
from multidb.stores.postgres import crud, tables
from multidb.stores.postgres.filtering import Where
from multidb.stores.postgres.statements import Statement
from tests.integration.filters import ORDERINGS, Stored
from tests.integration.filters import conditions as of_any
from tests.integration.filters import holds as holds_in_python
from tests.integration.things import NewThing, Thing, ThingRepository, bounded, open_with_things, things

c = ThingRepository.c
untyped: Any = c

#: Few values a field, so that filters meet rows; and some that no row has.
VALUES: dict[str, list[Any]] = {
    "label": ["", "a", "A", "ab", "aB", "b%", "b_", "b\\", "é", "a\nb", "ž"],
    "short": ["", "a", "abc", "abd", "B"],
    "number": [-(2**31), -1, 0, 1, 2, 2**31 - 1],
    "price": [Decimal("-0.01"), Decimal(0), Decimal("1.00"), Decimal("1.01"), Decimal("999999.99")],
    "ratio": [float("-inf"), -0.5, 0.0, 0.1, 1e300, float("inf")],
    "flag": [False, True],
    "day": [date(1, 1, 1), date(2024, 2, 29), date(2026, 1, 1)],
    "owner": [UUID(int=0), UUID(int=7), UUID(int=2**128 - 1)],
    "tags": [(), ("a",), ("a", "b"), ("b", "a")],
    "data": [{}, {"a": 1}, {"a": [1, None, "x"]}, {"b": {"c": "é"}}],
}
ELSEWHERE: dict[str, list[Any]] = {
    "label": ["zz", "B"],
    "short": ["abcd", "ab"],
    "number": [5],
    "price": [Decimal("1.005"), Decimal("1.004")],
    "ratio": [0.3],
    "day": [date(2025, 1, 1)],
    "owner": [UUID(int=8)],
    "tags": [("abcd",), ("abc",)],
    "data": [{"a": 2}],
}
#: Those that have an order, in PostgreSQL and in Python.
ORDERED = ["label", "short", "number", "price", "ratio", "flag", "day", "owner"]


def values(name: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *VALUES[name], *ELSEWHERE.get(name, [])])


conditions = of_any(
    c,
    {name: [*VALUES[name], *ELSEWHERE.get(name, [])] for name in VALUES},
    ordered=ORDERED,
    texts=("label", "short"),
    lists=("tags",),
)

#: SQLAlchemy's own, and what they say in Python; null is unknown to them, and found by none.
RAW: list[tuple[sa.ColumnElement[bool], Callable[[Thing], bool]]] = [
    (things.c.number > 0, lambda row: row.number is not None and row.number > 0),
    (things.c.number > 1, lambda row: row.number is not None and row.number > 1),
    (things.c.label.in_(["a", "ab"]), lambda row: row.label in {"a", "ab"}),
    (things.c.label.in_(["b%"]), lambda row: row.label == "b%"),
    (things.c.label.in_([]), lambda row: False),
    (sa.func.length(things.c.short) == 3, lambda row: len(row.short) == 3),
    (sa.not_(things.c.flag), lambda row: row.flag is False),
    (sa.or_(things.c.flag, things.c.number.is_(None)), lambda row: bool(row.flag) or row.number is None),
    (things.c.data["a"].as_string() == "1", lambda row: row.data == {"a": 1}),
    (sa.literal("b") == sa.any_(things.c.tags), lambda row: "b" in (row.tags or ())),
]


def holds(condition: Condition, row: Thing) -> bool:
    # In the collation C letters beyond ASCII have no case.
    return holds_in_python(condition, row, folding=re.IGNORECASE | re.ASCII)


@pytest.fixture
async def db(multidb_settings: Settings):
    async with open_with_things(multidb_settings) as opened:
        yield opened


@pytest.fixture
async def rows(db: MultiDB) -> list[Thing]:
    """A thousand rows, most values in many of them, some fields null."""
    chance = random.Random(7)

    def value(name: str) -> Any:
        return chance.choice([*VALUES[name], *([] if name == "short" else [None])])

    await db[ThingRepository].add_many(
        NewThing(**{name: value(name) for name in VALUES}) for _ in range(1000)
    )
    return Stored([row async for row in db[ThingRepository].stream()])


@bounded(max_examples=150)
@given(
    given_conditions=st.lists(conditions, max_size=2),
    raw=st.lists(st.sampled_from(RAW), max_size=2),
    equal=st.dictionaries(st.sampled_from(list(VALUES)), st.none(), max_size=1),
    data=st.data(),
)
async def test_any_filter_finds_what_it_finds_in_python(
    db: MultiDB,
    rows: list[Thing],
    given_conditions: list[Condition],
    raw: list[tuple[sa.ColumnElement[bool], Callable[[Thing], bool]]],
    equal: dict[str, Any],
    data: st.DataObject,
):
    equal = {name: data.draw(values(name)) for name in equal}
    filters: list[Any] = data.draw(st.permutations([*given_conditions, *(each for each, _ in raw)]))
    repository = db[ThingRepository]
    expected = [
        row.id
        for row in rows
        if all(holds(each, row) for each in given_conditions)
        and all(predicate(row) for _, predicate in raw)
        and all(getattr(row, name) == value for name, value in equal.items())
    ]
    found = await repository.find(*filters, limit=1000, **equal)
    assert [row.id for row in found] == expected
    assert await repository.count(*filters, **equal) == len(expected)
    assert await repository.exists(*filters, **equal) == bool(expected)


async def test_null_is_equal_to_null_only(db: MultiDB, rows: list[Thing]):
    """Each comparison by itself, and its opposite, with a null among the values."""
    for name in ORDERED:
        value = VALUES[name][1]
        for condition in (
            c[name] == None,  # noqa: E711
            c[name] != value,
            c[name] <= None,
            c[name].between(None, value),
            *(c[name].in_(several) for several in ([], [None], [value], [value, None])),
        ):
            for asked in (condition, ~condition, ~~condition):
                expected = sum(holds(asked, row) for row in rows)
                assert await db[ThingRepository].count(asked) == expected


async def test_values_that_nothing_has_find_nothing(db: MultiDB, rows: list[Thing]):
    """A cast to the column's type would cut the text, and round the number, to what some row has."""
    repository = db[ThingRepository]
    for equal in ({"short": "abcd"}, {"price": Decimal("1.005")}, {"tags": ("abcd",)}, {"ratio": 0.3}):
        name, value = next(iter(equal.items()))
        assert not await repository.exists(**equal)
        assert not await repository.exists(c[name] == value)
    assert await repository.count(c.short.in_(["abcd"])) == 0
    for there in (VALUES["price"][2], Decimal(1), Decimal("1.000")):
        assert await repository.exists(price=there)


async def test_statements_are_compiled_once_for_their_shape(db: MultiDB, rows: list[Thing], monkeypatch):
    compiled: list[str] = []

    class Counted(Statement):
        def __init__(self, expression: sa.ClauseElement) -> None:
            super().__init__(expression)
            compiled.append(self.sql)

    monkeypatch.setattr(crud, "Statement", Counted)
    repository = db[ThingRepository]
    # Whoever asked before, in this process, has had some compiled.
    monkeypatch.setattr(repository._crud(None), "_compiled", {})
    asks: list[Callable[[int], Awaitable[int]]] = [
        lambda n: repository.count((c.number >= n) & ~c.label.in_(["a"] * abs(n))),
        lambda n: repository.count(things.c.number >= n),
        lambda n: repository.count(number=n),
    ]
    for ask in asks:
        compiled.clear()
        answers = [await ask(n) for n in (-1, 0, 1, 2)]
        assert len(compiled) == 1
        assert len(set(answers)) > 1


async def test_an_in_of_sqlalchemys_is_right_each_time(db: MultiDB, rows: list[Thing]):
    repository = db[ThingRepository]
    for numbers in ([1], [0], [0, 1], [1, 2], [], [0, 1, 2]):
        expected = sum(row.number in numbers for row in rows)
        assert await repository.count(things.c.number.in_(numbers)) == expected
        inner = sa.select(things.c.id).where(things.c.number.in_(numbers))
        assert await repository.count(things.c.id.in_(inner)) == expected


async def test_a_filter_may_ask_other_tables_by_exists_only(db: MultiDB, rows: list[Thing]):
    repository = db[ThingRepository]
    none = sa.exists().where(tables.users.c.id == things.c.owner)
    assert await repository.count(none) == 0
    assert await repository.count(~none) == len(rows)
    for expression in (tables.users.c.name == "x", things.alias().c.number == 1):
        for call in (repository.find, repository.count, repository.delete_many):
            with pytest.raises(DataError, match="about `things` alone"):
                await call(expression)


def test_what_is_kept_of_statements_is_bounded():
    kept = crud.Crud(things, Thing.model_fields)
    leaves = [
        compare(c[name], VALUES[name][1])
        for name in ORDERED
        for compare in (operator.eq, operator.ne, *ORDERINGS.values())
    ]
    shapes = [(one, other) for one in leaves for other in leaves][: crud._MOST + 50]
    for shape in shapes:
        kept.count(Where(shape, lambda _, value: value))
    assert len(kept._compiled) == crud._MOST
    again = Where(shapes[0], lambda _, value: value)
    assert kept.count(again).arguments(again.values) == [VALUES["label"][1]] * 2


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (untyped.number == "many", "`number` of Thing"),
        (untyped.number.in_([1, "many"]), "`number` of Thing"),
        (untyped.owner > "x", "`owner` of Thing"),
        (untyped.flag.between(False, 7), "`flag` of Thing"),
        (untyped.day == untyped.created_at, "`day` of Thing"),
        (~(untyped.number != [1]) | (untyped.number == 1), "`number` of Thing"),
        (untyped.label.like(7), "`label` of Thing: a pattern must be text"),
        (untyped.label.like("a\\"), "`label` of Thing: .* backslash"),
        (untyped.number.like("1%"), "`number` of Thing is no text"),
        (untyped.number.ilike(None), "`number` of Thing is no text"),
        (untyped.tags.in_([("a",)]), "`tags` holds several values"),
        (UserRepository.c.email == "a@b", "`email` of User is not a field of Thing"),
        (UserRepository.c.version == 1, "`version` of User is not a field of Thing"),
        (UserRepository.c.deleted_at.is_null(), "`deleted_at` of User is not a field"),
        (Field[int]("nmae") == 1, "`nmae` is not a field of Thing"),
        (Field[int]("nmae").in_([]), "`nmae` is not a field of Thing"),
    ],
)
def test_what_does_not_fit_is_a_data_error_that_names_the_field(wrong: Condition, named: str):
    with pytest.raises(DataError, match=named) as caught:
        where_of(Thing, things, [wrong], {}, "things.find")
    assert caught.value.operation == "things.find"


def test_a_field_there_is_not_is_told_with_those_there_are():
    with pytest.raises(DataError, match="`nmae` is not a field of Thing; it has id"):
        _ = c["nmae"]
    with pytest.raises(AttributeError, match="`nmae` is not a field of Thing; it has id"):
        _ = c.nmae  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="takes several values"):
        c.label.in_("text")


@pytest.mark.parametrize(
    "meant",
    [
        lambda: c.number == 1 and c.flag == True,  # noqa: E712
        lambda: c.number == 1 or c.flag == True,  # noqa: E712
        lambda: not c.number.is_null(),
        lambda: 0 < c.number < 2,
        lambda: 1 if c.number == 1 else 2,
    ],
)
def test_a_condition_is_never_taken_for_true_or_false(meant: Callable[[], object]):
    with pytest.raises(TypeError, match="a condition is neither true nor false here"):
        meant()


def test_what_is_no_condition_cannot_be_joined_to_one():
    with pytest.raises(TypeError, match="is not a condition of multidb's"):
        where_of(Thing, things, [(c.number == 1) & (things.c.number == 1)], {}, "things.find")  # type: ignore[operator]
