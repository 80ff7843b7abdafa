"""Cursors: what goes in comes out, and nothing comes out that did not go in with this key and query."""

import base64
import string
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from multidb.errors import InvalidCursorError
from multidb.models.filters import Comparison, Field
from multidb.stores.cursor import CursorCodec

BOUNDED = settings(derandomize=True, max_examples=200, deadline=None)

KEY = bytes(range(32))
QUERY = b"users by name"
CODEC = CursorCodec(KEY)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
positions = st.lists(scalars | st.lists(scalars, max_size=3), max_size=4)

ALPHABET = string.ascii_letters + string.digits + "-_+/= ."


def refused(cursor: Any, *, codec: CursorCodec = CODEC, query: bytes = QUERY) -> InvalidCursorError:
    with pytest.raises(InvalidCursorError) as caught:
        codec.decode(cursor, query=query)
    return caught.value


@BOUNDED
@given(positions, st.binary(max_size=20))
def test_a_position_comes_back_as_it_was(position: list[Any], query: bytes) -> None:
    assert CODEC.decode(CODEC.encode(position, query=query), query=query) == position


@BOUNDED
@given(positions)
def test_a_cursor_is_url_safe(position: list[Any]) -> None:
    assert set(CODEC.encode(position, query=QUERY)) <= set(string.ascii_letters + string.digits + "-_")


def test_a_cursor_is_the_same_each_time_and_in_every_process_with_the_key() -> None:
    assert CODEC.encode(["a", 1], query=QUERY) == CursorCodec(KEY).encode(("a", 1), query=QUERY)


@BOUNDED
@given(positions, positions)
def test_different_positions_have_different_cursors(one: list[Any], other: list[Any]) -> None:
    assume(repr(one) != repr(other))
    assert CODEC.encode(one, query=QUERY) != CODEC.encode(other, query=QUERY)


@pytest.mark.parametrize("position", [[], [None], ["a"], ["ab"], ["abc"], [1, "é", None]], ids=repr)
def test_any_altered_character_is_refused(position: list[Any]) -> None:
    cursor = CODEC.encode(position, query=QUERY)
    accepted = []
    for index, right in enumerate(cursor):
        for wrong in ALPHABET:
            altered = cursor[:index] + wrong + cursor[index + 1 :]
            if wrong == right:
                continue
            try:
                CODEC.decode(altered, query=QUERY)
            except InvalidCursorError:
                continue
            accepted.append((index - len(cursor), right, wrong))
    assert accepted == []


@BOUNDED
@given(positions, st.data())
def test_a_cursor_cut_or_added_to_is_refused(position: list[Any], data: st.DataObject) -> None:
    cursor = CODEC.encode(position, query=QUERY)
    cut = data.draw(st.integers(0, len(cursor) - 1))
    refused(cursor[:cut])
    refused(cursor[cut + 1 :])
    refused(cursor + data.draw(st.text(ALPHABET.replace("=", ""), min_size=1, max_size=8)))


@pytest.mark.parametrize("padding", ["=", "==", "===", "====", "\n", " "], ids=repr)
def test_a_cursor_has_one_spelling(padding: str) -> None:
    for position in (["a"], ["ab"], ["abc"]):
        refused(CODEC.encode(position, query=QUERY) + padding)


@BOUNDED
@given(st.text() | st.text(ALPHABET, max_size=80))
def test_text_that_no_page_gave_is_refused(text: str) -> None:
    refused(text)


@BOUNDED
@given(st.binary(max_size=60))
def test_bytes_of_the_right_form_but_without_the_tag_are_refused(raw: bytes) -> None:
    refused(base64.urlsafe_b64encode(raw).decode().rstrip("="))


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "\ud800",
        "é" * 30,
        "\x00" * 30,
        None,
        0,
        7,
        1.5,
        True,
        b"",
        b"abcd",
        [],
        (),
        {},
        pytest.param(object(), id="an object"),
        ["abcd"],
    ],
    ids=ascii,
)
def test_what_is_no_cursor_at_all_is_refused(junk: object) -> None:
    refused(junk)
    refused(junk, query=b"")


def test_the_bytes_of_a_cursor_are_no_cursor() -> None:
    refused(CODEC.encode(["a"], query=QUERY).encode())


@BOUNDED
@given(positions, st.binary(max_size=40))
def test_another_query_is_refused(position: list[Any], query: bytes) -> None:
    assume(query != QUERY)
    refused(CODEC.encode(position, query=QUERY), query=query)


@BOUNDED
@given(positions, st.binary(min_size=1, max_size=64))
def test_another_key_is_refused(position: list[Any], key: bytes) -> None:
    assume(key.ljust(64, b"\0") != KEY.ljust(64, b"\0"))
    refused(CODEC.encode(position, query=QUERY), codec=CursorCodec(key))


def test_query_and_position_do_not_run_into_each_other() -> None:
    # Were they only joined, the tag of ("ab", …) would be that of ("a", "b" + …).
    body = b'["x"]'
    cursor = CODEC.encode(["x"], query=b"q[")
    tag = base64.urlsafe_b64decode(cursor + "==")[:16]
    forged = base64.urlsafe_b64encode(tag + b"[" + body).decode().rstrip("=")
    refused(forged, query=b"q")


def test_the_refusal_quotes_nothing_of_the_cursor() -> None:
    cursor = CODEC.encode(["hunter2"], query=b"other")
    assert cursor not in str(refused(cursor))
    assert "`after`" in str(refused(cursor))
    assert "`after`" in str(refused("?"))
    assert not refused(cursor).retryable


def test_a_set_makes_the_same_query_in_every_process() -> None:
    names = {f"{n:03}" for n in range(100)}
    condition = Field[str]("name").in_(names)
    assert isinstance(condition, Comparison)
    assert condition.value == tuple(sorted(names))
