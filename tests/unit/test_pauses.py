"""How long to wait between tries."""

import asyncio
from itertools import pairwise

import pytest

from multidb.stores.pauses import Pauses, nap


def test_pauses_grow_up_to_a_longest_and_begin_anew():
    pauses = Pauses(0.1, 1.0)
    for bound in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert bound / 2 <= pauses.next() <= bound
    pauses.restart()
    assert pauses.next() <= 0.1


def test_those_who_fail_together_do_not_come_back_together():
    first = sorted(Pauses().next() for _ in range(20))
    assert all(a < b for a, b in pairwise(first))


async def test_a_nap_ends_with_its_event_or_its_time():
    event = asyncio.Event()
    assert not await nap(event, 0.001)
    asyncio.get_running_loop().call_soon(event.set)
    assert await nap(event, None)
    assert await nap(event, 0)


async def test_a_nap_is_no_shield_against_the_deadline_of_its_caller():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await nap(asyncio.Event(), 60)
