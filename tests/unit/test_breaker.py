"""The breaker: when calls are refused, and when one may try."""

import pytest

from multidb.stores.redis.breaker import Breaker


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(Breaker, "_now", lambda _: clock.now)
    return clock


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(limit=3, pause=1)


def fail(breaker: Breaker, clock: Clock, times: int) -> None:
    for _ in range(times):
        assert breaker.admit()
        began = clock.now
        clock.now += 0.1
        breaker.failed(began)


def test_it_opens_after_as_many_failures_in_a_row(breaker: Breaker, clock: Clock):
    fail(breaker, clock, 2)
    breaker.answered()
    fail(breaker, clock, 2)
    assert not breaker.is_open
    fail(breaker, clock, 1)
    assert breaker.is_open
    assert breaker.refuses
    assert not breaker.admit()


def test_what_fails_at_one_moment_counts_once(breaker: Breaker, clock: Clock):
    began = clock.now
    clock.now += 5
    for _ in range(10):
        breaker.failed(began)
    assert not breaker.is_open


def test_one_may_try_after_the_pause(breaker: Breaker, clock: Clock):
    fail(breaker, clock, 3)
    clock.now += 0.99
    assert not breaker.admit()
    clock.now += 0.02
    assert not breaker.refuses
    assert breaker.admit()
    # While it is under way nobody else does.
    assert breaker.refuses
    assert not breaker.admit()


def test_a_try_that_fails_begins_the_pause_anew(breaker: Breaker, clock: Clock):
    fail(breaker, clock, 3)
    clock.now += 1
    fail(breaker, clock, 1)
    assert not breaker.admit()
    clock.now += 1
    assert breaker.admit()


def test_a_try_that_is_answered_closes_it(breaker: Breaker, clock: Clock):
    fail(breaker, clock, 3)
    clock.now += 1
    assert breaker.admit()
    breaker.answered()
    assert not breaker.is_open
    fail(breaker, clock, 2)
    assert breaker.admit()


def test_a_try_that_is_cancelled_leaves_it_to_the_next(breaker: Breaker, clock: Clock):
    began = clock.now
    fail(breaker, clock, 3)
    clock.now += 1
    assert breaker.admit()
    # One that began before it opened says nothing of the one that tries.
    breaker.given_up(began)
    breaker.failed(began)
    assert not breaker.admit()
    breaker.given_up(clock.now)
    assert breaker.admit()
