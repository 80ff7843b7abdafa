"""What `db.cached` offers besides keeping results: tags, early refresh, old values, absence, and the rest."""

import asyncio
import functools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from multidb import ConfigurationError, MultiDB, NotFoundError, UnavailableError, cached
from multidb.cache.entry import Value
from multidb.cache.family import Family
from multidb.models.system_logs import SystemLog
from multidb.repositories.append_only import AppendOnlyRepository
from multidb.settings import Settings

TTL = timedelta(minutes=1)


class Counter:
    """Counts up; and fails when told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


@pytest.fixture
def count() -> Counter:
    return Counter()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes it later, for what the cache takes to be the present."""
    from multidb.cache import family, leases
    from multidb.cache.entry import now

    passed = 0

    def make(seconds: float) -> None:
        nonlocal passed
        passed += int(seconds * 1000)
        for module in (family, leases):
            monkeypatch.setattr(module, "now", lambda: now() + passed)

    return make


async def entry(db: MultiDB, key: str) -> bytes | None:
    return await db.redis.get(f"{db.settings.key_prefix}{key}", operation="test")


async def test_refresh_loads_whatever_is_kept_and_peek_loads_nothing(db: MultiDB, count: Counter):
    @db.cached("test:{n}", ttl=TTL)
    async def counted(n: int) -> int:
        return count()

    assert await counted.peek(1) is None
    assert await counted.refresh(1) == 1
    assert await counted.peek(1) == await counted(1) == 1
    assert await counted.refresh(n=1) == 2
    assert await counted.peek(1) == await counted(1) == 2
    # Not even a load under way keeps it from being stored, and that load is not.
    key = f"{db.settings.key_prefix}test:{{1}}"
    await db.redis.execute("SET", key, "Lsomeone-else", operation="test")
    assert await counted.peek(1) is None
    assert await counted.refresh(1) == await counted(1) == 3
    async with db.transaction():
        assert await counted.peek(1) is None
        assert await counted.refresh(1) == 4
    assert await counted(1) == 3
    # What cannot be loaded is no result, and what is kept stays.
    count.error = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await counted.refresh(1)
    count.error = None
    assert await counted.peek(1) == 3
    # While a commit changes it, nothing is stored.
    await db.redis.run("cache_mark", [key], ["aa", 5000], operation="test")
    assert await counted.refresh(1) == 6
    assert (await entry(db, "test:{1}") or b"").startswith(b"Waa:")


async def test_many_looks_once_and_loads_what_is_missing_in_one_call(db: MultiDB):
    loads: list[Sequence[int]] = []

    @db.cached("test:{n}", ttl=TTL)
    async def named(n: int, suffix: str = "") -> str | None:
        loads.append([n])
        return None if n == 3 else f"{n}"

    assert await named.many([3, 1, 2, 1]) == {1: "1", 2: "2"}
    assert loads == [[3], [1], [2]]

    @named.bulk
    async def several(ns: Sequence[int]) -> dict[int, str]:
        loads.append(ns)
        return {n: f"{n}" for n in sorted([*ns, 99]) if n != 3}

    assert await named.many(range(6)) == {0: "0", 1: "1", 2: "2", 4: "4", 5: "5"}
    assert loads[3:] == [[0, 3, 4, 5]]
    assert await named(4) == "4"
    assert len(loads) == 4
    with db.uncached():
        assert list(await named.many([2, 1])) == [2, 1]
    assert await named.many([]) == {}
    assert (named.metrics.hits, named.metrics.misses, named.metrics.loads) == (3, 7, 2)


async def test_many_of_a_method_calls_the_bulk_method(multidb_settings: Settings):
    class NoteRepository(AppendOnlyRepository[SystemLog]):
        collection = "notes"

        @cached("cache:notes:{service}", ttl=TTL)
        async def loudness(self, service: str) -> int:
            raise NotImplementedError

        @loudness.bulk
        async def loudnesses(self, services: Sequence[str]) -> dict[str, int]:
            return {service: len(service) + len(type(self).collection) for service in services}

    async with MultiDB(multidb_settings, repositories=[NoteRepository]) as db:
        notes = db[NoteRepository]
        for _ in range(2):
            assert await notes.loudness.many(["a", "bc"]) == {"a": 6, "bc": 7}
        assert await notes.loudness("a") == 6
        assert db.cache.metrics["cache:notes:{service}"].hits == 3


async def test_any_async_callable_can_be_cached(db: MultiDB):
    class Adder:
        async def __call__(self, n: int, by: int = 1) -> int:
            return n + by

        async def twice(self, n: int) -> int:
            return 2 * n

    adder = Adder()
    called = db.cached("test:called:{n}", ttl=TTL)(adder)
    partial = db.cached("test:partial:{n}", ttl=TTL)(functools.partial(adder, by=10))
    bound = db.cached("test:bound:{n}", ttl=TTL)(adder.twice)
    for _ in range(2):
        assert [await called(1), await partial(1), await bound(1)] == [2, 11, 2]

    @bound.bulk
    async def all_twice(ns: Sequence[int]) -> dict[int, int]:
        return {n: 2 * n for n in ns}

    assert await bound.many([1, 2]) == {1: 2, 2: 4}
    assert [each.metrics.loads for each in (called, partial, bound)] == [1, 1, 2]


async def test_a_tag_forgets_all_that_bear_it(db: MultiDB, count: Counter, monkeypatch: pytest.MonkeyPatch):
    @db.cached("test:{n}", ttl=TTL, tags=["tag:{team}", "tag:all:{everything}"])
    async def tagged(n: int, team: int, everything: str = "all") -> int:
        return count()

    async def numbers() -> list[int]:
        return [await tagged(1, 1), await tagged(2, 1), await tagged(3, 2)]

    assert await numbers() == await numbers() == [1, 2, 3]
    await db.cache.invalidate_tag("tag:{team}", team=1)
    assert await numbers() == await numbers() == [4, 5, 3]
    await db.cache.invalidate_tag("tag:all:{everything}", everything="all")
    assert await numbers() == [6, 7, 8]
    # One that was evicted is as one that was invalidated: what it was is not known.
    await db.redis.delete([f"{db.settings.key_prefix}tag:{{2}}"], operation="test")
    assert await numbers() == [6, 7, 9]
    # By the commit of a transaction, and not if it is rolled back.
    with pytest.raises(KeyError):
        async with db.transaction():
            await db.cache.invalidate_tag("tag:{team}", team=1)
            raise KeyError
    assert await numbers() == [6, 7, 9]
    async with db.transaction():
        await db.cache.invalidate_tag("tag:{team}", team=1)
        assert (await entry(db, "tag:{1}") or b"").startswith(b"G")
    assert await numbers() == [10, 11, 9]
    # While that is under way nothing that bears it is served, or stored.
    await db.redis.run("cache_mark", [f"{db.settings.key_prefix}tag:{{1}}"], ["aa", 5000], operation="test")
    assert await numbers() == [12, 13, 9]
    assert await entry(db, "test:{1}") is None


async def test_many_are_forgotten_by_their_tags_too(db: MultiDB, count: Counter, monkeypatch: Any):
    @db.cached("test:{n}", ttl=TTL, tags=["tag:{n}", "tag:all:{tag}"])
    async def tagged(n: int, tag: str = "all") -> int:
        return count()

    assert await tagged.many([1, 2]) == await tagged.many([1, 2]) == {1: 1, 2: 2}
    assert await tagged(2) == 2
    await db.cache.invalidate_tag("tag:{n}", n=1)
    assert await tagged.many([1, 2]) == {1: 3, 2: 2}
    assert await tagged(1) == 3
    await db.cache.invalidate_tag("tag:all:{tag}", tag="all")
    assert await tagged.many([2, 1]) == await tagged.many([2, 1]) == {2: 4, 1: 5}
    monkeypatch.setitem(db.cache._marks.owed, f"{db.settings.key_prefix}tag:{{2}}", {""})
    assert await tagged.many([1, 2]) == {1: 5, 2: 6}


async def test_what_is_loaded_while_its_tag_is_invalidated_is_not_served(db: MultiDB, count: Counter):
    began, let_on = asyncio.Event(), asyncio.Event()

    @db.cached("test:{n}", ttl=TTL, tags=["tag:{team}"])
    async def tagged(n: int, team: int) -> int:
        number = count()
        began.set()
        await let_on.wait()
        return number

    @db.cached("test:other:{n}", ttl=TTL, tags=["tag:{team}"])
    async def other(n: int, team: int) -> int:
        return n

    early = asyncio.create_task(tagged(1, 1))
    await began.wait()
    await db.cache.invalidate_tag("tag:{team}", team=1)
    await other(1, 1)  # which begins the next generation
    late = asyncio.create_task(tagged(1, 1))
    await asyncio.sleep(0.02)
    let_on.set()
    assert await early == 1
    assert await late == 2
    assert await tagged(1, 1) in {2, 3}
    assert count.calls > 1


async def test_absence_is_kept_where_that_is_wished(db: MultiDB, count: Counter, later: Any):
    @db.cached("test:{n}", ttl=TTL, negative_ttl=timedelta(seconds=5), jitter=0)
    async def absent(n: int) -> str | None:
        return None if count() == 1 else "there"

    assert await absent(1) is None
    assert await absent(1) is None
    assert count.calls == 1
    assert 0 < await db.redis.execute("PTTL", f"{db.settings.key_prefix}test:{{1}}", operation="test") <= 5000
    later(6)
    assert await absent(1) == "there"
    await absent.invalidate(1)
    assert await absent(1) == "there"


async def test_it_is_loaded_early_in_the_background(
    db: MultiDB, count: Counter, monkeypatch: pytest.MonkeyPatch
):
    refreshed = asyncio.Event()

    @db.cached("test:{n}", ttl=TTL)
    async def counted(n: int) -> int:
        if count.calls:
            refreshed.set()
        return count()

    assert await counted(1) == 1
    monkeypatch.setattr(Family, "is_due", lambda self, value: True)
    assert await counted(1) == 1
    await refreshed.wait()
    async with asyncio.timeout(30):
        while counted.metrics.refreshed_early == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    monkeypatch.undo()
    assert await counted(1) == 2
    # What fails leaves what is there; what was invalidated meanwhile is not put back.
    monkeypatch.setattr(Family, "is_due", lambda self, value: True)
    count.error = KeyError()
    assert await counted(1) == 2
    async with asyncio.timeout(30):
        while counted.metrics.load_errors == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    monkeypatch.undo()
    assert await counted.peek(1) == 2


def test_the_nearer_its_end_the_likelier_it_is_loaded_early():
    from multidb.cache.codec import Codec
    from multidb.cache.entry import now
    from multidb.cache.policy import CachePolicy

    def share(left: int, took: int, eagerness: float = 1.0) -> float:
        family = Family(CachePolicy("a:{n}", TTL, early_refresh=eagerness), Codec(int), "test")
        value = Value(now() + left, took, (), b"", b"")
        return sum(family.is_due(value) for _ in range(2000)) / 2000

    assert share(60_000, 10_000) == 0
    assert 0.2 < share(100, 100_000) < 0.6  # e to the power of -1
    assert share(10, 100_000) > share(300, 100_000)
    assert share(1, 1_000_000, eagerness=0) == 0


async def test_an_old_value_is_served_while_the_loader_fails(db: MultiDB, count: Counter, later: Any):
    @db.cached("test:{n}", ttl=TTL, stale_if_error=timedelta(minutes=5))
    async def counted(n: int) -> int:
        return count()

    assert await counted(1) == 1
    later(70)
    count.error = UnavailableError("away")
    assert await asyncio.gather(*(counted(1) for _ in range(5))) == [1] * 5
    assert counted.metrics.stale_served >= 1
    # An answer is an answer.
    count.error = NotFoundError("gone")
    with pytest.raises(NotFoundError):
        await counted(1)
    count.error = None
    assert await counted(1) == count.calls
    # Not after an invalidation, though it comes while the loader is at it.
    later(70)

    class InvalidatedError(UnavailableError):
        pass

    began, let_on = asyncio.Event(), asyncio.Event()

    @db.cached("test:slow:{n}", ttl=TTL, stale_if_error=timedelta(minutes=5))
    async def slow(n: int) -> int:
        if count.error is not None:
            began.set()
            await let_on.wait()
        return count()

    await slow(1)
    later(70)
    count.error = InvalidatedError("away")
    failing = asyncio.create_task(slow(1))
    await began.wait()
    await slow.invalidate(1)
    let_on.set()
    with pytest.raises(InvalidatedError):
        await failing
    # Nor past its time.
    count.error = None
    await counted.refresh(1)
    later(1000)
    count.error = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await counted(1)


async def test_large_values_are_compressed_and_entries_do_not_expire_together(db: MultiDB):
    @db.cached("test:{n}", ttl=TTL, jitter=0.5)
    async def text(n: int) -> str:
        return "x" * n

    for n in (100, 100_000):
        assert await text(n) == await text(n) == "x" * n
    assert len(await entry(db, "test:{100000}") or b"") < 1000
    assert text.metrics.hits == 2
    await asyncio.gather(*(text(n) for n in range(1, 21)))
    left = [
        await db.redis.execute("PTTL", f"{db.settings.key_prefix}test:{{{n}}}", operation="test")
        for n in range(1, 21)
    ]
    assert max(left) <= 60_000
    assert min(left) > 25_000
    assert max(left) - min(left) > 1000


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"ttl": timedelta(0)}, "`ttl` must be a timedelta of more than zero"),
        ({"ttl": 60}, "`ttl` must be a timedelta of more than zero, not 60"),
        ({"jitter": 1}, "`jitter` must be at least 0 and less than 1"),
        ({"jitter": "some"}, "`jitter` must be at least 0 and less than 1"),
        ({"early_refresh": -1}, "`early_refresh` must be 0 or more"),
        ({"early_refresh": float("nan")}, "`early_refresh` must be 0 or more"),
        ({"stale_if_error": timedelta(-1)}, "`stale_if_error` must be a timedelta of zero or more"),
        ({"stale_if_error": 5}, "`stale_if_error` must be a timedelta"),
        ({"negative_ttl": timedelta(0)}, "`negative_ttl` must be a timedelta of more than zero"),
        ({"local": "yes"}, "`local` must be True or False, not 'yes'"),
        ({"early_refresh": float("inf")}, "`early_refresh` must be 0 or more"),
        ({"tags": "tag:{n}"}, "`tags` must be a list of strings"),
        ({"tags": [1]}, "`tags` must be a list of strings"),
        ({"tags": None}, "`tags` must be a list of strings"),
        ({"tags": iter(["tag:{n}"])}, "`tags` must be a list of strings"),
        ({"tags": ["tag:{team}"]}, "names `team`, which is not a parameter"),
    ],
)
async def test_what_does_not_fit_is_said_when_decorating(
    multidb_settings: Settings, options: dict[str, Any], wrong: str
):
    async def function(n: int) -> int:
        return n

    with pytest.raises(ConfigurationError, match=wrong):
        MultiDB(multidb_settings).cached("test:{n}", **{"ttl": TTL, **options})(function)
