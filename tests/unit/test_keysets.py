"""Keyset conditions: exactly the rows after a position, whatever the order and wherever null stands."""

import json
import operator
import re
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import cmp_to_key
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from multidb.stores.mongo.keyset import Key
from multidb.stores.mongo.keyset import Keyset as MongoKeyset
from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.keyset import Keyset as PostgresKeyset
from multidb.stores.postgres.statements import Statement

BOUNDED = settings(derandomize=True, max_examples=150, deadline=None)

items = sa.Table(
    "items",
    sa.MetaData(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("rank", sa.Integer),
    sa.Column("price", sa.Numeric),
    sa.Column("seen", sa.DateTime(timezone=True)),
    sa.Column("day", sa.Date),
    sa.Column("open", sa.Boolean),
)

ID = UUID("01900000-0000-7000-8000-000000000001")
HERE = {"id": ID, "name": "a", "size": 1, "rank": 2, "price": None, "seen": None, "day": None, "open": True}
EMPTY = dict.fromkeys(HERE) | {"id": ID, "name": "a", "size": 1}


def condition(order: Sequence[str], row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return the SQL after `WHERE`, and its arguments, of coming after `row`."""
    keyset = PostgresKeyset(items, order)
    position = keyset.read(through_json(keyset.position(cast(Record, row))))
    nulls = [value is None for value in position.values()]
    statement = Statement(sa.select(items.c.id).where(keyset.beyond(nulls)))
    sql = " ".join(statement.sql.split("WHERE ")[1].replace("items.", "").split())
    # "… OR false" is nothing to the planner, nor to this test.
    return re.sub(r"\(([^()]+) OR false\)", r"\1", sql), statement.arguments(position)


def through_json(position: Any) -> Any:
    return json.loads(json.dumps(position))


# --- PostgreSQL: what is asked


@pytest.mark.parametrize(
    ("order", "columns"),
    [
        ([], "items.id"),
        (["id"], "items.id"),
        (["-id"], "items.id DESC"),
        (["name"], "items.name, items.id"),
        (["-name"], "items.name DESC, items.id DESC"),
        (["name", "-size"], "items.name, items.size DESC, items.id DESC"),
        (["-name", "id"], "items.name DESC, items.id"),
        (["name", "id", "size"], "items.name, items.id, items.size"),
    ],
)
def test_every_order_of_rows_ends_in_the_id(order: list[str], columns: str) -> None:
    query = PostgresKeyset(items, order).ordered(sa.select(items.c.id))
    assert Statement(query).sql.split("ORDER BY ")[1] == columns


@pytest.mark.parametrize(
    ("order", "sql", "arguments"),
    [
        (["id"], "(id) > ($1::UUID)", [ID]),
        (["-id"], "(id) < ($1::UUID)", [ID]),
        (["name"], "(name, id) > ($1::VARCHAR, $2::UUID)", ["a", ID]),
        (["-name"], "(name, id) < ($1::VARCHAR, $2::UUID)", ["a", ID]),
        (["-name", "-size"], "(name, size, id) < ($1::VARCHAR, $2::INTEGER, $3::UUID)", ["a", 1, ID]),
    ],
)
def test_one_direction_without_nulls_is_one_comparison_of_rows(
    order: list[str], sql: str, arguments: list[Any]
) -> None:
    """That form alone is answered by a single range scan of an index."""
    assert condition(order, HERE) == (sql, arguments)


@pytest.mark.parametrize(
    ("order", "sql", "arguments"),
    [
        (
            ["name", "-id"],
            "name >= $1::VARCHAR AND (name > $1::VARCHAR OR name = $1::VARCHAR AND id < $2::UUID)",
            ["a", ID],
        ),
        (
            ["-size", "name", "id"],
            (
                "size <= $1::INTEGER AND (size < $1::INTEGER OR size = $1::INTEGER AND "
                "(name > $2::VARCHAR OR name = $2::VARCHAR AND id > $3::UUID))"
            ),
            [1, "a", ID],
        ),
    ],
)
def test_mixed_directions_go_column_by_column_from_a_bound(
    order: list[str], sql: str, arguments: list[Any]
) -> None:
    assert condition(order, HERE) == (sql, arguments)


@pytest.mark.parametrize(
    ("order", "row", "sql", "arguments"),
    [
        (
            ["rank"],
            HERE,
            "rank > $1::INTEGER OR rank IS NULL OR rank = $1::INTEGER AND id > $2::UUID",
            [2, ID],
        ),
        (["rank"], EMPTY, "rank IS NULL AND id > $1::UUID", [ID]),
        (
            ["-rank"],
            HERE,
            "rank <= $1::INTEGER AND (rank < $1::INTEGER OR rank = $1::INTEGER AND id < $2::UUID)",
            [2, ID],
        ),
        (["-rank"], EMPTY, "rank IS NOT NULL OR rank IS NULL AND id < $1::UUID", [ID]),
    ],
)
def test_null_is_greater_than_every_value(
    order: list[str], row: dict[str, Any], sql: str, arguments: list[Any]
) -> None:
    assert condition(order, row) == (sql, arguments)


@pytest.mark.parametrize("order", [["name"], ["-rank", "name"], ["price", "-seen", "day"]])
def test_a_value_is_an_argument_and_never_part_of_the_sql(order: list[str]) -> None:
    first, _ = condition(order, {**HERE, "name": "'; DROP TABLE items --"})
    second, _ = condition(order, {**HERE, "name": "b"})
    assert first == second


@pytest.mark.parametrize("order", [["open"], ["-open"], ["open", "-name"]])
@pytest.mark.parametrize("value", [True, False, None])
def test_a_truth_value_can_be_an_order(order: list[str], value: bool | None) -> None:
    sql, arguments = condition(order, {**HERE, "open": value})
    assert sql.startswith("open ")
    assert ID in arguments


def test_a_position_has_as_many_values_as_the_order() -> None:
    keyset = PostgresKeyset(items, ["name"])
    for wrong in ([], ["a"], ["a", str(ID), 1]):
        with pytest.raises(ValueError, match="zip"):
            keyset.read(wrong)


# --- PostgreSQL: what is answered

zones = st.integers(-720, 720).map(lambda minutes: timezone(timedelta(minutes=minutes)))
rows = st.fixed_dictionaries(
    {
        "id": st.uuids(),
        "name": st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5),
        "size": st.integers(-(2**31), 2**31 - 1),
        "rank": st.none() | st.integers(0, 3),
        "price": st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=4),
        "seen": st.none() | st.datetimes(min_value=datetime(1, 1, 3), timezones=zones),  # noqa: DTZ001
        "day": st.none() | st.dates(),
        "open": st.none() | st.booleans(),
    }
)
orders = st.lists(st.sampled_from(sorted(HERE)), unique=True, max_size=3).flatmap(
    lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names)).map(list)
)


@BOUNDED
@given(rows, orders)
def test_a_position_survives_the_cursor_to_the_last_digit(row: dict[str, Any], order: list[str]) -> None:
    keyset = PostgresKeyset(items, order)
    read = list(keyset.read(through_json(keyset.position(cast(Record, row)))).values())
    names = [name.removeprefix("-") for name in order]
    wanted = [row[name] for name in (names if "id" in names else [*names, "id"])]
    assert read == wanted
    assert [type(value) for value in read] == [type(value) for value in wanted]


def test_bytes_survive_the_cursor_though_they_are_no_text() -> None:
    files = sa.Table("files", sa.MetaData(), sa.Column("id", sa.Uuid), sa.Column("digest", sa.LargeBinary))
    keyset = PostgresKeyset(files, ["digest"])
    row = {"digest": b"\xff\x00", "id": ID}
    assert list(keyset.read(through_json(keyset.position(cast(Record, row)))).values()) == [b"\xff\x00", ID]


#: Few values, so that many rows are equal but for their id.
small = st.lists(
    st.tuples(st.none() | st.integers(0, 2), st.none() | st.integers(0, 2), st.integers(0, 2)), max_size=12
)
small_orders = st.lists(st.sampled_from(["rank", "price", "size", "id"]), unique=True, max_size=4).flatmap(
    lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names)).map(list)
)


def in_order(rows: Sequence[dict[str, Any]], keys: Sequence[tuple[str, bool]], *, null: int) -> list[Any]:
    """Return the rows sorted; null is greater (1) or less (-1) than every value."""

    def compare(one: dict[str, Any], other: dict[str, Any]) -> int:
        for name, descending in keys:
            a, b = one.get(name), other.get(name)
            if a == b:
                continue
            sign = null if a is None else -null if b is None else (a > b) - (a < b)
            return -sign if descending else sign
        return 0

    return sorted(rows, key=cmp_to_key(compare))


def keys_of(order: Sequence[str], id: str) -> list[tuple[str, bool]]:
    keys = [(name.removeprefix("-"), name.startswith("-")) for name in order]
    return keys if id in dict(keys) else [*keys, (id, bool(keys) and keys[-1][1])]


@BOUNDED
@given(small, small_orders)
def test_the_condition_holds_for_exactly_the_rows_that_follow(
    values: list[tuple[int | None, int | None, int]], order: list[str]
) -> None:
    """SQLite stands in as a calculator: its three-valued logic is the standard's, as PostgreSQL's is."""
    table = sa.Table(
        "t",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("rank", sa.Integer),
        sa.Column("price", sa.Integer),
        sa.Column("size", sa.Integer, nullable=False),
    )
    stored = [
        {"id": id, "rank": rank, "price": price, "size": size}
        for id, (rank, price, size) in enumerate(values, 1)
    ]
    keyset = PostgresKeyset(table, order)
    expected = in_order(stored, keys_of(order, "id"), null=1)
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE t (id INTEGER, rank INTEGER, price INTEGER, size INTEGER)")
        connection.executemany("INSERT INTO t VALUES (:id, :rank, :price, :size)", stored)
        for index, row in enumerate(expected):
            position = keyset.read(through_json(keyset.position(cast(Record, row))))
            nulls = [value is None for value in position.values()]
            for backwards, inclusive, others in (
                (False, False, expected[index + 1 :]),
                (False, True, expected[index:]),
                (True, False, expected[:index]),
                (True, True, expected[: index + 1]),
            ):
                where = keyset.beyond(nulls, backwards=backwards, inclusive=inclusive)
                query = sa.select(table.c.id).where(where).params(position)
                compiled = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
                found = {id for (id,) in connection.execute(str(compiled))}
                assert found == {each["id"] for each in others}
    finally:
        connection.close()


# --- MongoDB


ORDERINGS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def matches(query: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Return what MongoDB answers, for the few operators the conditions use.

    Comparisons see values of their own kind only; equality with null sees absent fields too.
    """
    for name, wanted in query.items():
        match name, wanted:
            case "$and", parts:
                fits = all(matches(part, document) for part in parts)
            case "$or", parts:
                fits = any(matches(part, document) for part in parts)
            case field, {"$eq": value}:
                fits = document.get(field) == value
            case field, {"$ne": value}:
                fits = document.get(field) != value
            case field, dict():
                ((sign, value),) = wanted.items()
                fits = comparable(document.get(field), value) and ORDERINGS[sign](document[field], value)
            case field, value:
                fits = document.get(field) == value
        if not fits:
            return False
    return True


def comparable(one: Any, other: Any) -> bool:
    assert other is not None, "MongoDB compares nothing with null by $gt or $lt"
    return type(one) is type(other)


def mongo_keyset(order: Sequence[tuple[str, int]]) -> MongoKeyset:
    return MongoKeyset([Key(name, direction < 0, name != "_id") for name, direction in order])


def mongo_condition(
    order: Sequence[tuple[str, int]], document: Mapping[str, Any], *, backwards: bool = False
) -> dict[str, Any]:
    keyset = mongo_keyset(order)
    return keyset.beyond(through_json(keyset.position(document)), backwards=backwards)


@pytest.mark.parametrize(
    ("order", "sort"),
    [
        ([], [("_id", 1)]),
        ([("_id", -1)], [("_id", -1)]),
        ([("name", 1)], [("name", 1), ("_id", 1)]),
        ([("name", 1), ("size", -1)], [("name", 1), ("size", -1), ("_id", -1)]),
        ([("name", -1), ("_id", 1)], [("name", -1), ("_id", 1)]),
    ],
)
def test_every_order_of_documents_ends_in_the_id(
    order: list[tuple[str, int]], sort: list[tuple[str, int]]
) -> None:
    assert mongo_keyset(order).sort() == sort
    assert mongo_keyset(order).sort(backwards=True) == [(name, -direction) for name, direction in sort]


@pytest.mark.parametrize(
    ("order", "document", "wanted"),
    [
        ([("_id", 1)], {"_id": 7}, {"_id": {"$gt": 7}}),
        ([("_id", -1)], {"_id": 7}, {"_id": {"$lt": 7}}),
        (
            [("a", 1)],
            {"_id": 7, "a": 1},
            {
                "$and": [
                    {"a": {"$gte": 1}},
                    {"$or": [{"a": {"$gt": 1}}, {"$and": [{"a": {"$eq": 1}}, {"_id": {"$gt": 7}}]}]},
                ]
            },
        ),
        (
            [("a", -1)],
            {"_id": 7, "a": 1},
            {
                "$or": [
                    {"a": {"$lt": 1}},
                    {"a": None},
                    {"$and": [{"a": {"$eq": 1}}, {"_id": {"$lt": 7}}]},
                ]
            },
        ),
        (
            [("a", 1)],
            {"_id": 7},
            {"$or": [{"a": {"$ne": None}}, {"$and": [{"a": {"$eq": None}}, {"_id": {"$gt": 7}}]}]},
        ),
        ([("a", -1), ("_id", 1)], {"_id": 7}, {"$and": [{"a": {"$eq": None}}, {"_id": {"$gt": 7}}]}),
    ],
)
def test_the_condition_over_documents_is_the_one_written_here(
    order: list[tuple[str, int]], document: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert mongo_condition(order, document) == wanted


def test_what_is_less_than_a_float_is_no_one_range() -> None:
    keyset = MongoKeyset([Key("a", descending=True, nullable=False)])
    condition = keyset.beyond(through_json(keyset.position({"_id": 7, "a": 1.5})))
    # In a range up to it, `$lte`, there would be no NaN.
    assert list(condition) == ["$or"]


absent = object()
values_of_a_field = st.sampled_from(
    [
        (absent, None, 1, 2, 3),
        (absent, None, "a", "b", "é"),
        (absent, None, datetime(2026, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
        (absent, None, UUID(int=1), UUID(int=2)),
        (absent, None, False, True),
        (absent, None, -0.5, 1.5, 1e300),
    ]
)


@BOUNDED
@given(st.data())
def test_the_condition_holds_for_exactly_the_documents_that_follow(data: st.DataObject) -> None:
    kinds = {name: data.draw(values_of_a_field) for name in ("a", "b")}
    documents = []
    for id in range(data.draw(st.integers(1, 10))):
        fields = {name: data.draw(st.sampled_from(kind)) for name, kind in kinds.items()}
        present = {name: value for name, value in fields.items() if value is not absent}
        documents.append({"_id": UUID(int=id), **present})
    names = data.draw(st.lists(st.sampled_from(["a", "b", "_id"]), unique=True, max_size=3))
    order = [(name, data.draw(st.sampled_from([1, -1]))) for name in names]

    keys = [(name, direction < 0) for name, direction in mongo_keyset(order).sort()]
    expected = in_order(documents, keys, null=-1)
    for index, document in enumerate(expected):
        after = mongo_condition(order, document)
        assert [each for each in expected if matches(after, each)] == expected[index + 1 :]
        before = mongo_condition(order, document, backwards=True)
        assert [each for each in expected if matches(before, each)] == expected[:index]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        2**40,
        1.5,
        "é{$",
        UUID(int=7),
        datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
        b"\x00\xff",
    ],
    ids=repr,
)
def test_a_documents_position_keeps_each_values_kind(value: Any) -> None:
    # Descending, so that the value itself stands in the condition for equality.
    condition = mongo_condition([("a", -1)], {"_id": 1, "a": value})
    held = next(way["$and"][0]["a"]["$eq"] for way in condition.get("$or", [condition]) if "$and" in way)
    assert held == value
    assert isinstance(held, type(value))


def test_a_documents_position_has_as_many_values_as_the_order() -> None:
    for wrong in ([], ["1"], ["1", "1", "1"]):
        with pytest.raises(ValueError, match="zip"):
            mongo_keyset([("a", 1)]).beyond(wrong)


def test_decimals_are_exact() -> None:
    price = Decimal("12345678901234567890.123456789")
    keyset = PostgresKeyset(items, ["price"])
    position = keyset.position(cast(Record, {**HERE, "price": price}))
    assert keyset.read(through_json(position))["_k0"] == price
