"""Every script of `stores/redis/scripts`, by itself, on every kind of servers."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.listener import Messages

from .redis import key, opened

pytestmark = pytest.mark.redis


class Scripts:
    """Runs scripts and commands on keys under one tag."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def key(self, name: str) -> str:
        return f"{key(self._store, 'one')}:{name}"

    async def run(self, script: str, keys: list[str], *arguments: Any) -> Any:
        return await self._store.run(script, map(self.key, keys), arguments, operation="tests.script")

    def hearing(self, name: str) -> AbstractAsyncContextManager[Messages]:
        return self._store.listen(self.key(name), operation="tests.script")

    async def do(self, command: str, name: str, *arguments: Any) -> Any:
        return await self._store.execute(command, self.key(name), *arguments, operation="tests.script")


@pytest.fixture
async def redis(multidb_settings: Settings) -> AsyncIterator[Scripts]:
    async with opened(multidb_settings) as store:
        yield Scripts(store)


async def test_cache_lease(redis: Scripts):
    assert await redis.run("cache_lease", ["entry"], "L1", 5000, "") is None
    assert await redis.run("cache_lease", ["entry"], "L2", 5000, "") == b"L1"
    assert await redis.do("GET", "entry") == b"L1"
    assert 0 < await redis.do("PTTL", "entry") <= 5000
    # In the place of what cannot be read any more.
    assert await redis.run("cache_lease", ["entry"], "L2", 5000, "L1") is None
    assert await redis.do("GET", "entry") == b"L2"
    # Nor of what nobody can read as an entry.
    await redis.do("DEL", "entry")
    await redis.do("RPUSH", "entry", "a list")
    assert await redis.run("cache_lease", ["entry"], "L3", 5000, "") is None
    assert await redis.do("GET", "entry") == b"L3"


async def test_cache_fill(redis: Scripts):
    assert await redis.run("cache_fill", ["entry"], "L1", "V1", 5000) == 0
    await redis.do("SET", "entry", "L1")
    assert await redis.run("cache_fill", ["entry"], "L2", "V2", 5000) == 0
    assert await redis.run("cache_fill", ["entry"], "L1", "V1", 5000) == 1
    assert await redis.do("GET", "entry") == b"V1"
    assert 0 < await redis.do("PTTL", "entry") <= 5000
    # With nothing to store, the lease is given back.
    await redis.do("SET", "entry", "L1")
    assert await redis.run("cache_fill", ["entry"], "L1", "", 5000) == 1
    assert await redis.do("GET", "entry") is None
    # One that somebody waits for is the same lease.
    await redis.do("SET", "entry", "A1")
    assert await redis.run("cache_fill", ["entry"], "L2", "V2", 5000) == 0
    assert await redis.run("cache_fill", ["entry"], "L1", "V1", 5000) == 1
    # And a value is replaced by what was loaded while it stood.
    assert await redis.run("cache_fill", ["entry"], "V1", "V2", 5000) == 1
    assert await redis.run("cache_fill", ["entry"], "V1", "V3", 5000) == 0
    assert await redis.do("GET", "entry") == b"V2"


async def test_cache_await(redis: Scripts):
    assert await redis.run("cache_await", ["entry"], "L1") == 0
    await redis.do("SET", "entry", "L1", "PX", 5000)
    async with redis.hearing("entry") as messages:
        for _ in range(2):
            assert 0 < await redis.run("cache_await", ["entry"], "L1") <= 5000
        assert await redis.do("GET", "entry") == b"A1"
        assert 0 < await redis.do("PTTL", "entry") <= 5000
        assert await redis.run("cache_await", ["entry"], "L2") == 0
        # Whatever takes the lease's place, who waits is told.
        await redis.run("cache_fill", ["entry"], "L1", "V1", 5000)
        await anext(messages)
        for script, arguments in {"cache_mark": ("aa", 5000), "cache_unmark": ("",)}.items():
            await redis.do("SET", "entry", "A1")
            await redis.run(script, ["entry"], *arguments)
            await anext(messages)


async def test_cache_mark(redis: Scripts):
    await redis.do("SET", "entry", "V1")
    assert await redis.run("cache_mark", ["entry"], "aa", 5000) == 1
    assert (await redis.do("GET", "entry")).startswith(b"Waa:")
    assert await redis.run("cache_lease", ["entry"], "L1", 5000, "") != b"L1"
    # Set again, because its answer was lost, it is one.
    assert await redis.run("cache_mark", ["entry"], "aa", 5000) == 1
    assert await redis.run("cache_mark", ["entry"], "bb", 60_000) == 2
    assert 50_000 < await redis.do("PTTL", "entry") <= 60_000
    # One past its deadline is gone, though others are set over and over.
    await redis.do("SET", "entry", "Wcc:1000,dd:1000")
    assert await redis.run("cache_mark", ["entry"], "ee", 5000) == 1
    await redis.do("DEL", "entry")
    await redis.do("RPUSH", "entry", "a list")
    assert await redis.run("cache_mark", ["entry"], "aa", 5000) == 1


async def test_cache_unmark(redis: Scripts):
    for token in ("aa", "bb"):
        await redis.run("cache_mark", ["entry"], token, 5000, "")
    # Neither another's mark nor an invalidation without one takes back this one.
    assert await redis.run("cache_unmark", ["entry"], "aa") == 1
    assert await redis.run("cache_unmark", ["entry"], "aa") == 1
    assert await redis.run("cache_unmark", ["entry"], "") == 1
    assert 0 < await redis.do("PTTL", "entry") <= 5000
    assert await redis.run("cache_unmark", ["entry"], "bb") == 0
    assert await redis.do("GET", "entry") is None
    for held in ("V1", "L1", "Wcc:1000"):
        await redis.do("SET", "entry", held)
        assert await redis.run("cache_unmark", ["entry"], "bb") == 0
        assert await redis.do("GET", "entry") is None


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("script", ["cache_lease", "cache_tag"])
async def test_one_key_is_enough_to_keep_marks(redis: Scripts, script: str, left: int):
    keys = ["entry", "entry:1", "entry:2"]
    arguments = {"cache_lease": ("L1", 5000, ""), "cache_tag": ("G1", 5000)}[script]
    await redis.run("cache_mark", keys, "aa", 5000)
    held = await redis.do("GET", "entry")
    for name in (name for place, name in enumerate(keys) if place != left):
        await redis.do("DEL", name)
    assert await redis.run(script, keys, *arguments) == held
    if left:
        assert [await redis.do("GET", name) for name in keys] == [held] * 3
        assert 0 < await redis.do("PTTL", "entry") <= 5000
        # Whatever expires soonest is evicted first where Redis is told so: of these, then, not all.
        assert await redis.do("PTTL", keys[left]) > 3_000_000
    # Taken back or past their deadline, they are nowhere.
    assert await redis.run("cache_unmark", keys, "aa") == 0
    assert [await redis.do("GET", name) for name in keys] == [None] * 3
    await redis.do("SET", keys[1], "Wbb:1000")
    assert await redis.run(script, keys, *arguments) in (None, b"G1")
    assert await redis.do("GET", keys[1]) is None


async def test_cache_mark_joins_what_is_left_of_other_marks(redis: Scripts):
    keys = ["entry", "entry:1", "entry:2"]
    await redis.run("cache_mark", keys, "aa", 5000)
    await redis.do("DEL", "entry")
    assert await redis.run("cache_mark", keys, "bb", 9000) == 2
    assert await redis.run("cache_mark", keys, "bb", 9000) == 2
    assert 5000 < await redis.do("PTTL", "entry") <= 9000
    await redis.do("DEL", "entry")
    assert await redis.run("cache_unmark", keys, "aa") == 1
    assert (await redis.do("GET", "entry")).startswith(b"Wbb:")


async def test_cache_tag(redis: Scripts):
    assert await redis.run("cache_tag", ["tag"], "G1", 5000) == b"G1"
    assert await redis.run("cache_tag", ["tag"], "G2", 60_000) == b"G1"
    assert 110_000 < await redis.do("PTTL", "tag") <= 120_000
    assert await redis.run("cache_tag", ["tag"], "G2", 5000) == b"G1"
    assert await redis.do("PTTL", "tag") > 110_000
    await redis.run("cache_mark", ["tag"], "aa", 5000)
    assert (await redis.run("cache_tag", ["tag"], "G2", 5000)).startswith(b"Waa:")
    assert await redis.do("PTTL", "tag") <= 5000
    await redis.run("cache_unmark", ["tag"], "aa")
    assert await redis.run("cache_tag", ["tag"], "G2", 5000) == b"G2"


async def test_counter_add(redis: Scripts):
    async def add(process: str, flush: int, by: int) -> Any:
        return await redis.run("counter_add", ["n", "n:flushes"], process, flush, by, 5000)

    assert await add("p", 1, 5) == b"5"
    # Sent again, it counts once; and so does one that comes after a later one.
    assert await add("p", 1, 5) == b"5"
    assert await add("p", 9, 1) == b"6"
    assert await add("p", 8, 1) == b"6"
    assert await add("p", 10, 1) == b"7"
    assert await add("q", 1, 10**12) == str(10**12 + 7).encode()
    assert all([0 < await redis.do("PTTL", name) <= 5000 for name in ("n", "n:flushes")])


async def test_counter_rank(redis: Scripts):
    async def rank(flush: int, *pairs: Any) -> Any:
        return await redis.run("counter_rank", ["day", "day:flushes"], "p", flush, 5000, *pairs)

    assert await rank(1, "a", 3, "b", 1) == 2
    assert await rank(1, "a", 3, "b", 1) == 2
    assert await rank(2, "b", 4, "c", 1) == 3
    assert await redis.do("ZREVRANGE", "day", 0, -1) == [b"b", b"a", b"c"]
    assert [await redis.do("ZSCORE", "day", member) for member in "abc"] == [3, 5, 1]
    assert all([0 < await redis.do("PTTL", name) <= 5000 for name in ("day", "day:flushes")])


DAY, HOUR = 86_400_000, 3_600_000
#: In Unix microseconds.
NOW = 1_795_000_000_000_000


async def create(redis: Scripts, id: str, token: str = "t1", *, limit: int = 10) -> Any:
    return await redis.run("session_create", ["index", f"index:{id}"], id, token, "{}", DAY, HOUR, limit)


async def use(redis: Scripts, id: str, token: str, new: str = "", *, grace: int = HOUR) -> Any:
    return await redis.run("session_use", ["index", f"index:{id}"], id, token, HOUR, 0, new, grace, 3)


async def test_session_create(redis: Scripts):
    await redis.do("ZADD", "index", 1, "ended")
    now, displaced, expired = await create(redis, "a")
    assert (displaced, expired) == ([], [b"ended", b"1"])
    assert await redis.do("HGET", "index:a", "ends") == str(now + DAY).encode()
    assert HOUR - 60_000 < await redis.do("PTTL", "index:a") <= HOUR
    assert HOUR - 60_000 < await redis.do("PTTL", "index") <= HOUR
    assert (await create(redis, "b", limit=1))[1:] == [[b"a"], []]
    assert await redis.do("EXISTS", "index:a") == 0
    assert await redis.do("ZRANGE", "index", 0, -1) == [b"b"]


async def test_session_use(redis: Scripts):
    assert await use(redis, "a", "t1") is None
    await create(redis, "a")
    assert (await use(redis, "a", "t1"))[0] == b"live"
    # The new token takes the other's place, which may be used along with it for a while.
    assert (await use(redis, "a", "t1", "t2"))[0] == b"live"
    assert [(await use(redis, "a", token))[0] for token in ("t1", "t2")] == [b"live"] * 2
    await use(redis, "a", "t2", "t3")
    assert (await use(redis, "a", "t3", "t4"))[0] == b"crowded"
    assert (await use(redis, "a", "another"))[0] == b"reused"
    assert await use(redis, "a", "t3") is None


async def test_request(redis: Scripts):
    keys = ["index", "index:a", "devices", "limit"]

    async def request(token: str, touch: int = 0, *limit: Any) -> Any:
        count = 4 if limit else 3
        return await redis.run("request", keys[:count], "a", token, HOUR, touch, 60_000, 9, 1, *limit)

    assert await request("t1") is None
    assert await redis.do("EXISTS", "devices") == 0
    await create(redis, "a")
    opened, noted = await request("t1", HOUR)
    assert (opened[0], opened[6], noted) == (b"live", 0, 1)
    # Noted again once a quarter of its time is over.
    assert (await request("t1", HOUR))[1] == 0
    there = await redis.do("ZSCORE", "devices", "a")
    await redis.do("ZADD", "devices", there - 16_000, "a")
    assert (await request("t1", HOUR))[1] == 1
    assert 45_000 < await redis.do("PTTL", "devices") <= 60_000
    one = ["gcra", 1, 60_000_000]
    assert (await request("t1", HOUR, *one))[2] == [1, 0, 0, 60_000_000]
    await redis.do("DEL", "devices")
    opened, noted, decided = await request("t1", 0, *one)
    # Refused, but used and there.
    assert (opened[0], opened[6], noted, decided[0]) == (b"live", 1, 1, 0)
    for name in ("devices", "limit"):
        await redis.do("DEL", name)
    assert [each[0] for each in await request("stolen", 0, *one)] == [b"reused"]
    assert await request("t1", 0, *one) is None
    assert [await redis.do("EXISTS", name) for name in ("devices", "limit")] == [0, 0]


async def test_session_find(redis: Scripts):
    for id in ("a", "b", "lost"):
        await create(redis, id)
    await redis.do("DEL", "index:lost")
    await redis.do("ZADD", "index", 1, "ended")
    live, expired = await redis.run("session_find", ["index"])
    assert {each[0] for each in live} == {b"a", b"b"}
    assert expired == [b"ended", b"1"]
    assert set(await redis.do("ZRANGE", "index", 0, -1)) == {b"a", b"b"}


async def test_session_revoke(redis: Scripts):
    await create(redis, "a")
    await create(redis, "b")
    assert (await redis.run("session_revoke", ["index", "index:a"], "a"))[1] == b"{}"
    assert await redis.do("ZRANGE", "index", 0, -1) == [b"b"]
    assert await redis.do("EXISTS", "index:a") == 0
    assert await redis.run("session_revoke", ["index", "index:a"], "a") is None


async def test_session_revoke_all(redis: Scripts):
    for id in "abc":
        await create(redis, id)
    assert (await redis.run("session_revoke_all", ["index"], "b"))[0] == 2
    assert await use(redis, "a", "t1") is None
    assert (await use(redis, "b", "t1"))[0] == b"live"
    assert (await redis.run("session_revoke_all", ["index"], ""))[0] == 1
    assert await redis.do("EXISTS", "index") == 0


LOCK = ["lock", "fence", "queue", "alive"]


async def acquire(redis: Scripts, token: str, patience: int = 0) -> tuple[int, int]:
    fence, wait = await redis.run("lock_acquire", [*LOCK, f"note:{token}"], token, 5000, DAY, patience)
    return int(fence), int(wait)


async def release(redis: Scripts, token: str, note: int = 0) -> Any:
    return await redis.run("lock_release", ["lock", "queue", "alive", f"note:{token}"], token, note)


async def test_lock_acquire(redis: Scripts):
    first, _ = await acquire(redis, "a")
    assert first > 0
    # Asked again, the same; and nobody else gets it.
    assert await acquire(redis, "a") == (first, 0)
    fence, wait = await acquire(redis, "b", 5000)
    assert (fence, 0 < wait <= 5000) == (0, True)
    await redis.do("DEL", "lock")
    # Who queues comes first.
    assert (await acquire(redis, "c", 5000))[0] == 0
    assert (await acquire(redis, "b", 5000))[0] > first
    await redis.do("DEL", "lock")
    await redis.do("SET", "note:c", "")
    assert await acquire(redis, "c") == (0, 0)


async def test_lock_extend(redis: Scripts):
    assert await redis.run("lock_extend", ["lock"], "a", HOUR) == 0
    await acquire(redis, "a")
    assert await redis.run("lock_extend", ["lock"], "b", HOUR) == 0
    assert await redis.run("lock_extend", ["lock"], "a", HOUR) == 1
    assert await redis.do("PTTL", "lock") > 5000


async def test_lock_release(redis: Scripts):
    await acquire(redis, "a")
    await acquire(redis, "b", 5000)
    assert await release(redis, "c") == 0
    assert await redis.do("EXISTS", "lock") == 1
    assert await release(redis, "a") == 1
    assert await release(redis, "b", 5000) == 0
    assert [await redis.do("EXISTS", name) for name in ("lock", "queue", "alive", "note:b")] == [0, 0, 0, 1]


async def test_rate_limit(redis: Scripts):
    async def limit(how: str, cost: int, now: Any, *names: str) -> Any:
        rates = ["gcra", 5, 1_000_000] * len(names)
        return await redis.run("rate_limit", list(names), how, cost, now, *rates)

    assert await limit("hit", 4, NOW, "a") == [1, 1, 0, 1_600_000]
    assert await limit("hit", 2, NOW, "a") == [0, 1, 1_000_000, 1_600_000]
    # All or none.
    assert await limit("hit", 2, NOW, "a", "b") == [0, 1, 1_000_000, 1_600_000, 5, 0, 0]
    assert await limit("hit", 1, NOW, "a", "b") == [1, 0, 0, 1_800_000, 4, 0, 1_000_000]
    assert await limit("peek", 1, NOW, "b") == [1, 4, 0, 1_000_000]
    assert await limit("refund", 2, NOW, "a") == [1, 2, 0, 1_400_000]
    assert await limit("refund", 5, NOW, "a") == [1, 5, 0, 0]
    assert await redis.do("EXISTS", "a") == 0
    assert 0 < await redis.do("PTTL", "b") <= 1250
    # Another rate lives as long as it needs, and those that are over go when one more comes.
    assert (await redis.run("rate_limit", ["b"], "hit", 1, NOW + 1_000_000, "gcra", 1, 9_000_000))[0] == 1
    assert await redis.do("HKEYS", "b") == [b"gcra:1:9000000"]
    assert 1250 < await redis.do("PTTL", "b") <= 11_250
    # By the server's clock.
    assert (await limit("hit", 1, "", "c"))[:2] == [1, 4]


async def test_presence_beat(redis: Scripts):
    await redis.do("ZADD", "user", 1, "gone")
    for device in ("a", "b", "c"):
        assert await redis.run("presence_beat", ["user"], device, 5000, 2) == 1
    assert set(await redis.do("ZRANGE", "user", 0, -1)) < {b"a", b"b", b"c"}
    assert await redis.do("ZCARD", "user") == 2
    assert 0 < await redis.do("PTTL", "user") <= 5000


async def test_presence_leave(redis: Scripts):
    await redis.run("presence_beat", ["user"], "a", 5000, 9)
    await redis.run("presence_beat", ["user"], "b", 90_000, 9)
    assert await redis.run("presence_leave", ["user"], "b") == 1
    assert 0 < await redis.do("PTTL", "user") <= 5000
    assert await redis.run("presence_leave", ["user"], "b") == 0
    assert await redis.run("presence_leave", ["user"], "a") == 1
    assert await redis.do("EXISTS", "user") == 0


async def test_presence_note(redis: Scripts):
    keys = ["due", "events"]
    assert await redis.run("presence_note", keys, "u", 5000, 100) == 1
    assert await redis.run("presence_note", keys, "u", 5000, 100) == 0
    await redis.do("ZADD", "due", -7, "u")
    assert await redis.run("presence_note", keys, "u", 5000, 100) == 0
    await redis.do("ZADD", "due", 1, "u")
    assert await redis.run("presence_note", keys, "u", 5000, 100) == 1
    told = [fields[1] for _, fields in await redis.do("XRANGE", "events", "-", "+")]
    assert told == [b"join", b"leave", b"join"]


async def test_presence_settle(redis: Scripts):
    keys = ["due", "events"]
    assert await redis.run("presence_settle", keys, "u", 7, 0, 100) == 0
    await redis.do("ZADD", "due", 7, "u")
    assert await redis.run("presence_settle", keys, "u", 8, 0, 100) == 0
    assert await redis.run("presence_settle", keys, "u", 7, 5000, 100) == 0
    assert await redis.do("ZSCORE", "due", "u") > 7
    await redis.do("ZADD", "due", 7, "u")
    assert await redis.run("presence_settle", keys, "u", 7, 0, 100) == 1
    assert await redis.do("ZCARD", "due") == 0
    assert await redis.do("XLEN", "events") == 1


async def test_presence_due(redis: Scripts):
    await redis.do("ZADD", "due", 1, "a", 2, "b", 2**53, "c")
    assert await redis.run("presence_due", ["due"], 9) == [b"a", b"1", b"b", b"2"]
    assert await redis.run("presence_due", ["due"], 1) == [b"a", b"1"]


async def test_presence_count(redis: Scripts):
    await redis.do("ZADD", "due", 1, "a", 2**53, "b")
    assert await redis.run("presence_count", ["due"]) == 1


async def test_upload_reserve(redis: Scripts):
    assert await redis.run("upload_reserve", ["user"], "a", 60, 5000, 2, 100) == b"ok"
    assert await redis.run("upload_reserve", ["user"], "b", 41, 5000, 2, 100) == b"much"
    assert await redis.run("upload_reserve", ["user"], "b", 40, 5000, 2, 100) == b"ok"
    assert await redis.run("upload_reserve", ["user"], "c", 0, 5000, 2, 100) == b"many"
    # Asked for again it has no less room.
    for size in (60, 1):
        assert await redis.run("upload_reserve", ["user"], "a", size, 5000, 2, 100) == b"ok"
    assert await redis.run("upload_reserve", ["user"], "b", 41, 5000, 2, 100) == b"much"
    await redis.do("HSET", "user", "b", "1:40")
    assert await redis.run("upload_reserve", ["user"], "c", 40, 5000, 2, 100) == b"ok"
    assert 0 < await redis.do("PTTL", "user") <= 5000


async def test_upload_begin(redis: Scripts):
    ends = await redis.run("upload_begin", ["upload"], "{}", "u", 10, 5000)
    assert ends > 1_700_000_000_000
    assert 0 < await redis.do("PTTL", "upload") <= 5000
    assert await redis.run("upload_begin", ["upload"], "{}", "u", 10, 5000) == 0


async def test_upload_append(redis: Scripts):
    keys = ["upload", "upload:parts", "upload:chunks"]
    assert await redis.run("upload_append", keys, "abc", 0, 9) == [b"gone"]
    await redis.run("upload_begin", ["upload"], "{}", "u", 10, 5000)
    assert await redis.run("upload_append", keys, "ghij", 6, 3) == [b"ok", 4, 0]
    assert await redis.run("upload_append", keys, "abc", "", 3) == [b"ok", 7, 3]
    assert await redis.run("upload_append", keys, "abc", 0, 3) == [b"ok", 7, 3]
    assert await redis.run("upload_append", keys, "abd", 0, 3) == [b"other"]
    assert await redis.run("upload_append", keys, "defg", 3, 3) == [b"other"]
    assert await redis.run("upload_append", keys, "defghijk", 3, 3) == [b"beyond"]
    assert await redis.run("upload_append", keys, "def", 3, 2) == [b"many"]
    assert await redis.run("upload_append", keys, "def", 3, 3) == [b"ok", 10, 10]
    for name in keys:
        assert 0 < await redis.do("PTTL", name) <= 5000


async def test_upload_drop(redis: Scripts):
    keys = ["upload", "upload:parts", "upload:chunks"]
    assert await redis.run("upload_drop", keys) is None
    await redis.run("upload_begin", ["upload"], "{}", "u", 10, 5000)
    await redis.run("upload_append", keys, "abc", 0, 9)
    assert await redis.run("upload_drop", keys) == b"u"
    for name in keys:
        assert await redis.do("EXISTS", name) == 0
