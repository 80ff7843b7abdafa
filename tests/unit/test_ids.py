"""UUIDv7: the bits of RFC 9562, the time in them, and an order that holds over threads."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest

from multidb.models import ids
from multidb.models.ids import uuid7


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets the clock that ids read, in nanoseconds; afterwards, ids go on from where they were."""
    monkeypatch.setattr(ids, "_last", 0)
    yield lambda nanoseconds: monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)
    monkeypatch.undo()


def milliseconds(id: UUID) -> int:
    return id.int >> 80


def stamp(id: UUID) -> int:
    """Return the 60 bits that order ids: milliseconds and the fraction after them."""
    return (id.int >> 80) << 12 | (id.int >> 64) & 0xFFF


def test_version_and_variant_are_those_of_rfc_9562() -> None:
    for _ in range(10_000):
        made = uuid7()
        assert made.version == 7
        assert made.variant == RFC_4122
        assert made.int >> 76 & 0xF == 0b0111
        assert made.int >> 62 & 0b11 == 0b10


def test_an_id_tells_the_millisecond_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    told = milliseconds(uuid7())
    after = time.time_ns() // 1_000_000
    # Ids of a burst just before may have run ahead of the clock, by 1/4096 ms each.
    assert before <= told <= after + 100


def test_the_fraction_of_the_millisecond_is_in_the_twelve_bits_after_the_version(
    clock: Callable[[int], None],
) -> None:
    clock(1_700_000_000_000_000_000 + 500_000)
    made = uuid7()
    assert milliseconds(made) == 1_700_000_000_000
    assert stamp(made) & 0xFFF == 4096 // 2


def test_two_hundred_thousand_ids_differ_and_ascend() -> None:
    made = [uuid7() for _ in range(200_000)]
    assert len(set(made)) == len(made)
    assert all(earlier < later for earlier, later in pairwise(made))
    # However an id is written, its order is the same.
    assert [str(id) for id in made[:5000]] == sorted(str(id) for id in made[:5000])
    assert [id.bytes for id in made[:5000]] == sorted(id.bytes for id in made[:5000])


def test_ids_ascend_within_each_thread_and_differ_over_all() -> None:
    threads = 8
    start = threading.Barrier(threads)

    def burst(_: int) -> list[UUID]:
        start.wait()
        return [uuid7() for _ in range(5000)]

    with ThreadPoolExecutor(threads) as pool:
        bursts = list(pool.map(burst, range(threads)))
    for made in bursts:
        assert all(earlier < later for earlier, later in pairwise(made))
    together = [id for made in bursts for id in made]
    assert len({stamp(id) for id in together}) == len(together)


def test_ids_ascend_while_the_clock_stands_still(clock: Callable[[int], None]) -> None:
    clock(1_700_000_000_000_000_000)
    made = [uuid7() for _ in range(10_000)]
    assert [stamp(id) - stamp(made[0]) for id in made] == list(range(10_000))
    assert {id.version for id in made} == {7}


def test_ids_ascend_when_the_clock_steps_back_and_follow_it_once_it_has_caught_up(
    clock: Callable[[int], None],
) -> None:
    now = 1_700_000_000_000_000_000
    clock(now)
    first = uuid7()
    clock(now - 3_600_000_000_000)
    second = uuid7()
    assert stamp(second) == stamp(first) + 1
    clock(now + 5_000_000)
    assert milliseconds(uuid7()) == 1_700_000_000_005


def test_the_random_bits_are_drawn_anew_for_each_id(clock: Callable[[int], None]) -> None:
    clock(1_700_000_000_000_000_000)
    random = [uuid7().int & (1 << 62) - 1 for _ in range(2000)]
    assert len(set(random)) == 2000
    # Each of the 62 bits is set in some and clear in others.
    union, common = 0, (1 << 62) - 1
    for bits in random:
        union |= bits
        common &= bits
    assert union == (1 << 62) - 1
    assert common == 0
