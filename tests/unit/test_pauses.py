"""How long to wait between tries."""

from itertools import pairwise

from multidb.stores.pauses import Pauses


def test_pauses_grow_up_to_a_longest_and_begin_anew():
    pauses = Pauses(0.1, 1.0)
    for bound in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert bound / 2 <= pauses.next() <= bound
    pauses.restart()
    assert pauses.next() <= 0.1


def test_those_who_fail_together_do_not_come_back_together():
    first = sorted(Pauses().next() for _ in range(20))
    assert all(a < b for a, b in pairwise(first))
