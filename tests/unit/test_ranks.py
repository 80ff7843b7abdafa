"""Ranks: between any two there is another, in the order of their bytes, and they stay short."""

from bisect import insort
from itertools import cycle, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from multidb import DataError
from multidb.models.ranks import Rank, between, spread

BOUNDED = settings(derandomize=True, max_examples=300, deadline=None)

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ranks = st.builds(str.__add__, st.text(DIGITS, max_size=12), st.sampled_from(DIGITS[1:]))
#: Long runs of the digits at either end are where counting on carries over.
edges = st.builds(str.__add__, st.text("0z1", max_size=12), st.sampled_from("1z"))

valid = TypeAdapter(Rank).validate_python


@BOUNDED
@given(st.sets(ranks | edges, min_size=2, max_size=2))
def test_a_rank_between_two_is_between_them(two: set[str]) -> None:
    before, after = sorted(two)
    assert before < valid(between(before, after)) < after
    assert before.encode() < between(before, after).encode() < after.encode()


@BOUNDED
@given(ranks | edges)
def test_a_rank_at_either_end_is_beyond_the_last(rank: str) -> None:
    assert valid(between(None, rank)) < rank < valid(between(rank, None))


def test_the_first_rank_has_room_on_both_sides() -> None:
    assert between(None, None) == "V"


@BOUNDED
@given(st.lists(st.floats(0, 1), max_size=60))
def test_however_things_are_placed_they_stay_in_order(places: list[float]) -> None:
    order: list[str] = []
    for place in places:
        at = round(place * len(order))
        new = between(order[at - 1] if at else None, order[at] if at < len(order) else None)
        order.insert(at, valid(new))
    assert order == sorted(set(order))
    assert max(map(len, order), default=0) <= 4 + len(places) / 5


@pytest.mark.parametrize("start", [None, "V", "0001", "zzz1", "V" * 40])
def test_at_the_ends_ranks_grow_with_the_logarithm(start: str | None) -> None:
    first = last = start
    for _ in range(20_000):
        first, last = between(None, first), between(last, None)
    assert max(len(first or ""), len(last or "")) <= 12


@pytest.mark.parametrize(
    ("before", "after"), [("V", "W"), ("V", "V1"), ("Vz", "W"), ("V", "z"), ("0001", "zzz")]
)
@pytest.mark.parametrize("pattern", ["low", "high", "low high", "low low high"])
def test_at_one_spot_ranks_grow_by_a_digit_in_five(before: str, after: str, pattern: str) -> None:
    low, high = before, after
    for _, moved in zip(range(500), cycle(pattern.split()), strict=False):
        new = between(low, high)
        low, high = (new, high) if moved == "low" else (low, new)
    assert len(new) <= 5 + 500 / 5


@pytest.mark.parametrize("count", [0, 1, 2, 60, 61, 62, 63, 1000, 10_000])
def test_ranks_spread_out_are_in_order_and_short(count: int) -> None:
    made = spread(count)
    assert len(set(made)) == count
    assert made == sorted(made)
    assert all(valid(each) == each for each in made)
    assert max(map(len, made), default=0) <= (1 if count < 62 else 2 if count < 62**2 else 3)
    for before, after in pairwise(list(made)):
        insort(made, between(before, after))
    assert made == sorted(set(made))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("V", "V"),
        ("W", "V"),
        ("V1", "V"),
        ("", None),
        (None, ""),
        ("V0", None),
        ("é", None),
        ("a b", None),
        (None, "0"),
    ],
)
def test_what_is_no_rank_or_not_in_order_is_refused(before: str | None, after: str | None) -> None:
    with pytest.raises(DataError):
        between(before, after)


def test_a_negative_number_of_ranks_is_refused() -> None:
    with pytest.raises(DataError):
        spread(-1)
