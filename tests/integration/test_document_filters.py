"""Filters: what MongoDB finds by them is what Python finds by them."""

import operator
import random
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb import DataError, MultiDB
from multidb.models.filters import And, Condition, Or
from multidb.repositories.collection_criteria import matching
from multidb.repositories.system_logs import SystemLogRepository
from multidb.settings import Settings
from tests.collections import NewPaper, Paper, PaperFields, Papers, open_with_collections
from tests.integration.filters import Stored, conditions, holds
from tests.integration.things import bounded

pytestmark = pytest.mark.mongo

c: PaperFields = Papers.c
untyped: Any = c

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

#: Few values a field, so that filters meet documents; and some that none has.
VALUES: dict[str, list[Any]] = {
    "label": [
        "",
        "a",
        "A",
        "ab",
        "aB",
        "b%",
        "b_",
        "b\\",
        "é",
        "a\nb",
        "ž",
        "a\n",
        "a\0b",
        "a.b",
        "^a$",
        "\U0001f600",
    ],
    "number": [-(2**63), -1, 0, 1, 2, 2**63 - 1],
    "ratio": [float("-inf"), -0.5, 0.0, 0.1, 1e300, float("inf")],
    "flag": [False, True],
    "at": [
        datetime(1, 1, 1, tzinfo=UTC),
        NOON,
        NOON + timedelta(milliseconds=1),
        datetime.max.replace(tzinfo=UTC, microsecond=999000),
    ],
    "owner": [UUID(int=0), UUID(int=7), UUID(int=2**128 - 1)],
    "kind": ["draft", "final"],
    "tags": [(), ("a",), ("a", "b"), ("b", "a")],
    "data": [{}, {"a": 1}, {"a": [1, None, "x"]}, {"b": {"c": "é"}}],
    "score": [1, 7],
}
ELSEWHERE: dict[str, list[Any]] = {
    "label": ["zz", "B", "$a"],
    "number": [5, 2**63, -(2**70), 10**400],
    "ratio": [0.3],
    "at": [
        NOON + MICROSECOND,
        NOON - MICROSECOND,
        datetime.max.replace(tzinfo=UTC),
        NOON + timedelta(hours=1),
    ],
    "owner": [UUID(int=8)],
    "tags": [("c",)],
}
ORDERED = [name for name in VALUES if name not in {"tags", "data"}]
ANY_CASE = re.IGNORECASE

trees = conditions(
    c,
    {name: [*VALUES[name], *ELSEWHERE.get(name, [])] for name in VALUES},
    ordered=ORDERED,
    texts=("label", "kind"),
    lists=("tags",),
    compared=[name for name in VALUES if name != "data"],
)

#: MongoDB's own, and what they say in Python.
RAW: list[tuple[Mapping[str, Any], Callable[[Paper], bool]]] = [
    ({"number": {"$gt": 0}}, lambda paper: paper.number is not None and paper.number > 0),
    ({"label": {"$in": ["a", "ab"]}}, lambda paper: paper.label in {"a", "ab"}),
    ({"data.a": 1}, lambda paper: paper.data is not None and paper.data.get("a") in (1, [1, None, "x"])),
    ({"tags": "b"}, lambda paper: "b" in (paper.tags or ())),
    ({"$nor": [{"flag": True}]}, lambda paper: paper.flag is not True),
    ({}, lambda _: True),
]


@pytest.fixture
async def db(multidb_settings: Settings):
    async with open_with_collections(multidb_settings) as opened:
        yield opened


@pytest.fixture
async def papers(db: MultiDB) -> list[Paper]:
    """A thousand documents, most values in many of them; some fields null, and stored so or not at all."""
    chance = random.Random(7)
    await db[Papers].add_many(
        NewPaper(**{name: chance.choice([*VALUES[name], None]) for name in VALUES}) for _ in range(1000)
    )
    return Stored([paper async for paper in db[Papers].stream()])


@bounded(max_examples=150)
@given(
    given_conditions=st.lists(trees, max_size=2),
    raw=st.lists(st.sampled_from(RAW), max_size=2),
    equal=st.dictionaries(st.sampled_from(ORDERED), st.none(), max_size=1),
    data=st.data(),
)
async def test_any_filter_finds_what_it_finds_in_python(
    db: MultiDB,
    papers: list[Paper],
    given_conditions: list[Condition],
    raw: list[tuple[Mapping[str, Any], Callable[[Paper], bool]]],
    equal: dict[str, Any],
    data: st.DataObject,
):
    equal = {name: data.draw(st.sampled_from([None, *VALUES[name]])) for name in equal}
    filters: list[Any] = data.draw(st.permutations([*given_conditions, *(each for each, _ in raw)]))
    expected = [
        paper.id
        for paper in papers
        if all(holds(each, paper, folding=ANY_CASE) for each in given_conditions)
        and all(predicate(paper) for _, predicate in raw)
        and all(getattr(paper, name) == value for name, value in equal.items())
    ]
    found = await db[Papers].find(*filters, limit=1000, **equal)
    assert [paper.id for paper in found] == expected
    assert await db[Papers].count(*filters, **equal) == len(expected)
    assert await db[Papers].exists(*filters, **equal) == bool(expected)


async def test_each_comparison_and_its_opposite_alone(db: MultiDB, papers: list[Paper]):
    for name in ORDERED:
        value, elsewhere = VALUES[name][1], ELSEWHERE.get(name, VALUES[name])[0]
        for condition in (
            c[name] == None,  # noqa: E711
            c[name] != value,
            c[name] <= None,
            c[name] < elsewhere,
            c[name] >= elsewhere,
            c[name].between(None, value),
            *(c[name].in_(several) for several in ([], [None], [value], [value, None], [elsewhere])),
        ):
            for asked in (condition, ~condition, ~~condition):
                expected = sum(holds(asked, paper, folding=ANY_CASE) for paper in papers)
                assert await db[Papers].count(asked) == expected
    assert await db[Papers].count(And(())) == await db[Papers].count(~Or(())) == len(papers)
    assert await db[Papers].count(Or(())) == await db[Papers].count(~And(())) == 0


async def test_a_value_is_never_taken_for_an_operator(db: MultiDB, papers: list[Paper]):
    for text in ("$a", ".*", "^a$", "a.b", "(?i)a"):
        for asked in (c.label == text, c.label.like(text.replace("_", "\\_")), c.label.in_([text])):
            assert await db[Papers].count(asked) == sum(paper.label == text for paper in papers)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (untyped.number == "many", "`number` of Paper"),
        (untyped.number.in_([1, "many"]), "`number` of Paper"),
        (untyped.owner > "x", "`owner` of Paper"),
        (untyped.number == {"$gt": 0}, "`number` of Paper"),
        (untyped.label == {"$ne": None}, "`label` of Paper"),
        (~(untyped.number != [1]) | (untyped.number == 1), "`number` of Paper"),
        (untyped.label.like(7), "`label` of Paper: a pattern must be text"),
        (untyped.label.like("a\\"), "`label` of Paper: .* backslash"),
        (untyped.number.like("1%"), "`number` of Paper is no text"),
        (untyped.tags.in_([("a",)]), "`tags` holds several values"),
        (untyped.tags > ("a",), "`tags` has no order"),
        (untyped.data == {"a": 1}, "`data` holds a document"),
        (untyped.data.in_([{}]), "`data` holds a document"),
        (untyped.data < {"a": 1}, "`data` has no order"),
        (SystemLogRepository.c.message == "a", "`message` of SystemLog is not a field of Paper"),
    ],
)
def test_what_does_not_fit_is_a_data_error_that_names_the_field(wrong: Condition, named: str):
    with pytest.raises(DataError, match=named) as caught:
        matching(Paper, [wrong], {}, "papers.find")
    assert caught.value.operation == "papers.find"


async def test_a_text_that_utf_8_cannot_write_is_a_data_error(db: MultiDB):
    for asked in (c.label == "\ud800", c.label.ilike("\ud800%")):
        with pytest.raises(DataError, match="UTF-8"):
            await db[Papers].count(asked)


def test_what_is_no_condition_cannot_be_joined_to_one():
    mixed = operator.and_(c.number == 1, {"number": 1})
    with pytest.raises(TypeError, match="is not a condition of multidb's"):
        matching(Paper, [mixed], {}, "papers.find")
