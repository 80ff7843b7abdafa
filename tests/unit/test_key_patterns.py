"""Key patterns: braces that stay, values that cannot leave them, and no two values in one key."""

import re
from datetime import UTC, date, datetime
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multidb.errors import ConfigurationError, DataError
from multidb.stores.redis.keys import KeyPattern

BOUNDED = settings(derandomize=True, max_examples=300, deadline=None)

#: Any string that Python can hold as UTF-8; the alphabet favours what means something in a key.
texts = st.text(
    st.one_of(st.sampled_from("{}:%/*?[] \n\r\t\x00\u00a0\u2028é"), st.characters(codec="utf-8")),
    min_size=1,
    max_size=30,
)


def hash_tag(key: str) -> str:
    """Return what Redis Cluster hashes of a key: what its first braces enclose, else all of it."""
    begin = key.find("{")
    end = key.find("}", begin + 1)
    return key[begin + 1 : end] if begin >= 0 and end > begin + 1 else key


class Colour(Enum):
    RED = "red:1"
    FLAG = True


class Level(StrEnum):
    HIGH = "high"


class Number(IntEnum):
    ONE = 1


# --- what a key looks like


@pytest.mark.parametrize(
    ("pattern", "values", "key"),
    [
        ("cache:user:{id}", {"id": 42}, "cache:user:{42}"),
        (
            "session:user:{user_id}",
            {"user_id": UUID("01900000-0000-7000-8000-00000000000A")},
            "session:user:{01900000-0000-7000-8000-00000000000a}",
        ),
        (
            "rate_limit:user:{user_id}:{endpoint}",
            {"user_id": 7, "endpoint": "GET /a"},
            "rate_limit:user:{7}:{GET%20/a}",
        ),
        ("realtime:user:{user_id}:presence", {"user_id": 7}, "realtime:user:{7}:presence"),
        ("counter:{e}:{date}", {"e": "a", "date": date(2026, 1, 2)}, "counter:{a}:{2026-01-02}"),
        ("{a}{b}{a}", {"a": 1, "b": -2}, "{1}{-2}{1}"),
        ("x:{a}", {"a": "1", "unused": None}, "x:{1}"),
        ("x:{a}", {"a": Colour.RED}, "x:{red%3A1}"),
        ("x:{a}", {"a": Level.HIGH}, "x:{high}"),
        ("x:{a}", {"a": Number.ONE}, "x:{1}"),
        ("x:{a}", {"a": "a.b-c_d~e@f+g=h,i!j*k'l(m)n/o"}, "x:{a.b-c_d~e@f+g=h,i!j*k'l(m)n/o}"),
    ],
)
def test_the_braces_stand_in_the_key(pattern: str, values: dict[str, Any], key: str) -> None:
    assert KeyPattern(pattern).key(values) == key


def test_a_prefix_stands_in_front_and_leaves_the_hash_tag_as_it_is() -> None:
    prefixed = KeyPattern("cache:user:{id}", prefix="shop:")
    assert prefixed.key({"id": 42}) == "shop:cache:user:{42}"
    assert prefixed.pattern == "cache:user:{id}"
    assert prefixed.fields == ("id",)
    assert hash_tag(prefixed.key({"id": 42})) == "42"


@pytest.mark.parametrize(
    "pattern",
    [
        "session:user:{user_id}",
        "cache:user:{user_id}",
        "rate_limit:user:{user_id}:{endpoint}",
        "realtime:user:{user_id}:presence",
    ],
)
def test_all_keys_of_one_user_have_one_hash_tag(pattern: str) -> None:
    user = UUID("01900000-0000-7000-8000-00000000000a")
    for prefix in ("", "shop:"):
        assert hash_tag(KeyPattern(pattern, prefix=prefix).key({"user_id": user, "endpoint": "{x}"})) == str(
            user
        )


# --- what no value can do


@BOUNDED
@given(texts, texts)
def test_different_strings_have_different_keys(one: str, other: str) -> None:
    pattern = KeyPattern("cache:{a}")
    assert (pattern.key({"a": one}) == pattern.key({"a": other})) == (one == other)


@BOUNDED
@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_values_do_not_run_into_each_other(one: tuple[str, str], other: tuple[str, str]) -> None:
    pattern = KeyPattern("rate:{a}:{b}")
    keys = [pattern.key({"a": a, "b": b}) for a, b in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@BOUNDED
@given(texts, texts)
def test_no_value_can_end_its_braces_or_bring_in_blanks(a: str, b: str) -> None:
    key = KeyPattern("rate:{a}:{b}:x", prefix="p:").key({"a": a, "b": b})
    assert re.fullmatch(r"p:rate:\{[^{}:]+\}:\{[^{}:]+\}:x", key)
    assert key.isascii()
    assert key.isprintable()
    assert not re.search(r"\s", key)


@BOUNDED
@given(texts)
def test_the_first_value_alone_is_the_hash_tag(value: str) -> None:
    first = KeyPattern("a:{x}:{y}").key({"x": value, "y": "1"})
    second = KeyPattern("b:{x}").key({"x": value})
    assert hash_tag(first) == hash_tag(second)
    assert f"{{{hash_tag(first)}}}" in second


@BOUNDED
@given(st.integers() | st.uuids() | st.dates(), st.integers() | st.uuids() | st.dates())
def test_different_values_of_other_kinds_have_different_keys(one: Any, other: Any) -> None:
    pattern = KeyPattern("cache:{a}")
    assert (pattern.key({"a": one}) == pattern.key({"a": other})) == (one == other)


# --- what is refused


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        1.0,
        float("nan"),
        datetime(2026, 1, 1, tzinfo=UTC),
        b"a",
        "",
        ("a",),
        ["a"],
        {"a": 1},
        pytest.param(object(), id="an object"),
        Colour.FLAG,
        1j,
        "\ud800",
    ],
    ids=ascii,
)
def test_a_value_without_one_spelling_is_refused_by_the_name_of_its_field(value: object) -> None:
    with pytest.raises(DataError, match="`endpoint`"):
        KeyPattern("rate:{user_id}:{endpoint}").key({"user_id": 1, "endpoint": value})


def test_a_missing_value_is_refused_by_the_name_of_its_field() -> None:
    with pytest.raises(DataError, match="`endpoint`"):
        KeyPattern("rate:{user_id}:{endpoint}").key({"user_id": 1})


@pytest.mark.parametrize(
    "value", ["x" * 1024, " " * 400, 10**1030, 10**5000], ids=["text", "blanks", "int", "huge"]
)
def test_a_key_that_would_be_too_long_is_refused_and_the_value_not_quoted(value: object) -> None:
    with pytest.raises(DataError, match=r"1024|`id`") as caught:
        KeyPattern("cache:user:{id}").key({"id": value})
    assert len(str(caught.value)) < 200


def test_a_key_of_the_greatest_length_is_taken() -> None:
    pattern = KeyPattern("x:{a}")
    assert len(pattern.key({"a": "y" * 1020})) == 1024
    with pytest.raises(DataError):
        pattern.key({"a": "y" * 1021})


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "cache:user",
        "{}",
        "a:{}",
        "{1}",
        "{a b}",
        "{a.b}",
        "{a!r}",
        "{a:x}",
        "{-}",
        "{a",
        "a}",
        "{{a}}",
        "}a{",
        "{a}{",
        "{a}}",
        "{ a}",
    ],
)
def test_a_pattern_that_names_no_value_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="must name a value in braces") as caught:
        KeyPattern(pattern)
    assert repr(pattern) in str(caught.value)
