"""Rate limits without a server: what a rate may be, what headers say, and what each algorithm promises."""

import pickle
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multidb import DataError, Decision, Quota, Rate, RateLimitExceededError
from multidb.repositories.local_limits import LocalLimits

#: A moment like today's, in Unix microseconds.
NOW = 1_795_000_000_000_000
MINUTE = timedelta(minutes=1)

ALGORITHMS = ("gcra", "sliding_window", "fixed_window")

#: Of each step, how long after the one before, None for as soon as it is admitted; and how much it costs.
steps = st.lists(st.tuples(st.none() | st.integers(0, 2000), st.integers(1, 12)), max_size=60)


def most_in_a_window(rate: Rate, admitted: list[tuple[int, int]]) -> int:
    """The greatest sum of what was admitted, of all windows that a rate is about."""
    per = rate.per // timedelta(microseconds=1)
    if rate.algorithm == "fixed_window":
        starts = {at - at % per for at, _ in admitted}
    else:
        starts = {at for at, _ in admitted}
    return max(
        (sum(cost for at, cost in admitted if start <= at < start + per) for start in starts), default=0
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(deadline=None, max_examples=50)
@given(limit=st.integers(1, 12), per=st.integers(1000, 9000), steps=steps)
@example(limit=7, per=1003, steps=[(0, 7), (1002, 1), (1, 1), (143, 1), (1, 1)])
@example(limit=3, per=1000, steps=[(300, 1)] * 40)
@example(limit=5, per=1000, steps=[(0, 1)] * 5 + [(None, 1)] * 40)
def test_no_window_admits_more_and_who_waits_is_admitted(
    algorithm: Any, limit: int, per: int, steps: list[tuple[int | None, int]]
):
    rate = Rate(limit, per=timedelta(microseconds=per), algorithm=algorithm)
    limits = LocalLimits()
    admitted: list[tuple[int, int]] = []
    now = NOW
    for pause, wanted in steps:
        cost = min(wanted, limit)
        now += limits.decide([("k", rate)], "peek", cost, now)[2] if pause is None else pause
        before = deepcopy(limits)
        allowed, remaining, wait, reset = limits.decide([("k", rate)], "hit", cost, now)
        if allowed:
            admitted.append((now, cost))
        assert bool(allowed) == (wait == 0)

        def allows(limits: LocalLimits, cost: int, at: int) -> bool:
            return bool(deepcopy(limits).decide([("k", rate)], "peek", cost, at)[0])

        # Each number is exact: not a microsecond more, not a call less.
        if not allowed:
            assert allows(before, cost, now + wait)
            assert not allows(before, cost, now + wait - 1)
        if remaining:
            assert allows(limits, remaining, now)
        if remaining < limit:
            assert not allows(limits, remaining + 1, now)
            assert allows(limits, limit, now + reset)
            assert not allows(limits, limit, now + reset - 1)
        else:
            assert reset == 0
    assert most_in_a_window(rate, admitted) <= limit


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_may_come_at_once_and_no_more(algorithm: Any):
    rate = Rate(5, per=timedelta(seconds=1), algorithm=algorithm)
    limits = LocalLimits()
    replies = [limits.decide([("k", rate)], "hit", 1, NOW)[:2] for _ in range(6)]
    assert replies == [[1, 4], [1, 3], [1, 2], [1, 1], [1, 0], [0, 0]]


def test_they_come_back_in_their_way():
    def back(algorithm: Any) -> list[int]:
        """How many are left in each tenth of a period after all came at once, in its second tenth."""
        rate = Rate(5, per=timedelta(seconds=1), algorithm=algorithm)
        limits = LocalLimits()
        limits.decide([("k", rate)], "hit", 5, NOW + 100_000)
        return [limits.decide([("k", rate)], "peek", 1, NOW + each * 100_000)[1] for each in range(1, 22)]

    assert back("gcra") == [0] * 10 + [1, 1, 2, 2, 3, 3, 4, 4] + [5] * 3
    assert back("sliding_window") == [0] * 10 + [5] * 11
    assert back("fixed_window") == [0] * 9 + [5] * 12


@given(pauses=st.lists(st.integers(20, 400), max_size=60))
@settings(deadline=None, max_examples=30)
def test_a_sliding_window_is_exact_for_calls_that_are_apart(pauses: list[int]):
    rate = Rate(4, per=timedelta(milliseconds=1), algorithm="sliding_window")
    limits, admitted, now = LocalLimits(), [-1000], NOW
    for pause in pauses:
        now += pause
        counting = sum(at > now - 1000 for at in admitted)
        allowed, remaining, _, _ = limits.decide([("k", rate)], "hit", 1, now)
        assert (allowed, remaining) == (int(counting < 4), max(0, 3 - counting))
        admitted += [now] * allowed


def test_who_keeps_the_pace_is_never_refused_by_gcra():
    for limit, per in ((7, 1003), (100, 60_000_000), (1, 5000)):
        rate = Rate(limit, per=timedelta(microseconds=per))
        limits = LocalLimits()
        pace = -(-per // limit)
        assert all(limits.decide([("k", rate)], "hit", 1, NOW + n * pace)[0] for n in range(5 * limit))
    # And who keeps half of it, has room for bursts.
    rate, limits = Rate(100, per=timedelta(seconds=1)), LocalLimits()
    left = [limits.decide([("k", rate)], "hit", 1, NOW + n * 20_000)[1] for n in range(300)]
    assert min(left) >= 20


@given(costs=st.lists(st.integers(1, 5), max_size=8))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_given_back_is_as_if_it_had_not_been(algorithm: Any, costs: list[int]):
    rate = Rate(20, per=timedelta(seconds=1), algorithm=algorithm)
    limits = LocalLimits()
    for cost in costs:
        before = limits.decide([("k", rate)], "peek", 1, NOW)
        if limits.decide([("k", rate)], "hit", cost, NOW)[0]:
            assert limits.decide([("k", rate)], "refund", cost, NOW)[:2] == before[:2]
            limits.decide([("k", rate)], "hit", cost, NOW)
    # More than was taken is not to be had.
    assert limits.decide([("k", rate)], "refund", 20, NOW) == [1, 20, 0, 0]


def test_a_clock_that_goes_back_admits_no_more():
    for algorithm in ALGORITHMS:
        rate = Rate(2, per=timedelta(seconds=1), algorithm=algorithm)  # type: ignore[arg-type]
        limits = LocalLimits()
        assert [limits.decide([("k", rate)], "hit", 1, NOW - n * 700_000)[0] for n in range(4)] == [
            1,
            1,
            0,
            0,
        ]


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("multidb.repositories.local_limits._MOST_KEPT", 2)
    rate, limits = Rate(1, per=MINUTE), LocalLimits()
    for key in ("a", "b", "a", "c"):  # of which the third is refused
        limits.decide([(key, rate)], "hit", 1, NOW)
    assert [limits.decide([(key, rate)], "peek", 1, NOW)[0] for key in ("c", "b", "a")] == [0, 0, 1]


# --- rates, decisions


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *(("limit", each) for each in (0, -1, 1.5, True, None, "5", 10**9 + 1)),
        *(("per", each) for each in (0, 60, None, timedelta(0), -MINUTE, timedelta(days=367))),
        *(("algorithm", each) for each in ("", "GCRA", None, "token_bucket")),
        *(("name", each) for each in ('a"b', "a\nb", "é", None, "x" * 51)),
    ],
)
def test_what_is_no_rate_is_refused(field: str, wrong: Any):
    given: dict[str, Any] = {"limit": 5, "per": MINUTE, field: wrong}
    with pytest.raises(DataError, match=f"`{field}` of Rate must"):
        Rate(given.pop("limit"), **given)


def test_more_than_one_call_a_microsecond_is_no_rate():
    with pytest.raises(DataError, match="`limit`"):
        Rate(1001, per=timedelta(milliseconds=1))


def test_headers():
    fast = Rate(5, per=timedelta(seconds=1.5))
    slow = Rate(100, per=MINUTE, name="a minute")
    soon, later = timedelta(seconds=0.2), timedelta(seconds=30)
    quotas = Quota(fast, 0, soon, soon), Quota(slow, 40, timedelta(0), later)
    refused = Decision(False, 0, soon, later, quotas)
    assert refused.headers() == {
        "RateLimit-Policy": '"5/1.5s";q=5;w=2, "a minute";q=100;w=60',
        "RateLimit": '"5/1.5s";r=0;t=1, "a minute";r=40;t=30',
        "Retry-After": "1",
    }
    admitted = Decision(True, 40, timedelta(0), later, quotas[1:])
    assert admitted.headers() == {
        "RateLimit-Policy": '"a minute";q=100;w=60',
        "RateLimit": '"a minute";r=40;t=30',
    }
    # Of what is not known nothing is said.
    assert Decision(True, 5, timedelta(0), timedelta(0), degraded=True).headers() == {}
    assert Decision(False, 0, soon, soon, degraded=True).headers() == {"Retry-After": "1"}
    error = RateLimitExceededError("too many", decision=refused)
    assert pickle.loads(pickle.dumps(error)).decision == refused
