"""Every script of `stores/redis/scripts`, by itself, on every kind of servers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore

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

    async def do(self, command: str, name: str, *arguments: Any) -> Any:
        return await self._store.execute(command, self.key(name), *arguments, operation="tests.script")


@pytest.fixture
async def redis(multidb_settings: Settings) -> AsyncIterator[Scripts]:
    async with opened(multidb_settings) as store:
        yield Scripts(store)


async def test_cache_lease(redis: Scripts):
    assert await redis.run("cache_lease", ["entry"], "L1", 5000, "") == 1
    assert await redis.run("cache_lease", ["entry"], "L2", 5000, "") == 0
    assert await redis.do("GET", "entry") == b"L1"
    assert 0 < await redis.do("PTTL", "entry") <= 5000
    # In the place of what cannot be read any more.
    assert await redis.run("cache_lease", ["entry"], "L2", 5000, "L1") == 1
    assert await redis.do("GET", "entry") == b"L2"


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


async def test_session_create(redis: Scripts):
    await redis.do("ZADD", "index", 1, "ended")
    about = ["digest", "{}", 60_000, 10_000, 2]
    now, displaced, expired = await redis.run("session_create", ["index", "index:a"], "a", *about)
    assert (displaced, expired) == ([], [b"ended", b"1"])
    assert await redis.do("HGETALL", "index:a") == {
        b"about": b"{}",
        b"created": str(now).encode(),
        b"seen": str(now).encode(),
        b"ends": str(now + 60_000).encode(),
        b"token:digest": b"0",
    }
    for name in ("index", "index:a"):
        assert 0 < await redis.do("PTTL", name) <= 10_000
    await redis.run("session_create", ["index", "index:b"], "b", *about)
    _, displaced, _ = await redis.run("session_create", ["index", "index:c"], "c", *about)
    assert displaced == [b"a"]
    assert await redis.do("EXISTS", "index:a") == 0


async def test_session_use(redis: Scripts):
    keys, use = ["index", "index:a"], ["a", "digest", 10_000, 5000]
    nothing, rotation = ["", 0, 3], ["new", 5000, 2]
    assert await redis.run("session_use", keys, *use, *nothing) is None
    created, _, _ = await redis.run("session_create", keys, "a", "digest", "{}", 60_000, 10_000, 9)
    word, now, about, *moments, first, expired = await redis.run("session_use", keys, *use, *nothing)
    assert (word, about, [int(each) for each in moments]) == (
        b"live",
        b"{}",
        [created, created, created + 60_000],
    )
    assert (now >= created, first, expired) == (True, 0, [])
    # Touched once the interval is over.
    for again in (1, 0):
        assert (await redis.run("session_use", keys, *use[:3], 0, *nothing))[6] in {again, 1}
        await redis.do("HSET", "index:a", "seen", created + 1)
    assert (await redis.run("session_use", keys, *use, *rotation))[0] == b"live"
    assert (await redis.run("session_use", keys, *use, *rotation))[0] == b"crowded"
    assert (await redis.run("session_use", keys, *use, *nothing))[0] == b"live"
    await redis.do("HSET", "index:a", "token:digest", 1)
    assert (await redis.run("session_use", keys, *use, *nothing))[0] == b"reused"
    assert await redis.do("EXISTS", "index:a") == 0


async def test_session_find(redis: Scripts):
    for id in ("a", "b"):
        await redis.run("session_create", ["index", f"index:{id}"], id, "d", "{}", 60_000, 10_000, 9)
    await redis.do("ZADD", "index", 1, "ended", 2**50, "evicted")
    live, expired = await redis.run("session_find", ["index"])
    assert {each[0] for each in live} == {b"a", b"b"}
    assert expired == [b"ended", b"1"]
    assert await redis.do("ZCARD", "index") == 2


async def test_session_revoke(redis: Scripts):
    keys = ["index", "index:a"]
    assert await redis.run("session_revoke", keys, "a") is None
    now, _, _ = await redis.run("session_create", keys, "a", "d", "{}", 60_000, 10_000, 9)
    ended, about, created, _, _ = await redis.run("session_revoke", keys, "a")
    assert (about, int(created), ended >= now) == (b"{}", now, True)
    assert await redis.run("session_revoke", keys, "a") is None
    assert await redis.do("EXISTS", "index") == 0


async def test_session_revoke_all(redis: Scripts):
    await redis.do("ZADD", "index", 2**50, "a", 2**50, "b", 2**50, "c", 1, "ended")
    count, now = await redis.run("session_revoke_all", ["index"], "b")
    assert (count, now > 0) == (2, True)
    assert await redis.do("ZRANGE", "index", 0, -1) == [b"b"]
    assert (await redis.run("session_revoke_all", ["index"], ""))[0] == 1
    assert (await redis.run("session_revoke_all", ["index"], "ended"))[0] == 0


LOCK = ["lock", "lock:fence", "lock:queue", "lock:waiting"]
RELEASE = ["lock", "lock:queue", "lock:waiting"]


async def test_lock_acquire(redis: Scripts):
    async def acquire(token: str, patience: int = 0) -> Any:
        return await redis.run("lock_acquire", [*LOCK, f"lock:{token}"], token, 10_000, 86_400_000, patience)

    fence, wait = await acquire("a")
    assert (fence > 1_700_000_000_000_000, wait) == (True, 0)
    assert await acquire("a") == [fence, 0]
    assert 0 < (await acquire("b", 5000))[1] <= 10_000
    assert await redis.do("ZRANGE", "lock:queue", 0, -1) == [b"b"]
    await redis.do("DEL", "lock")
    refused, wait = await acquire("c")
    assert (refused, 0 < wait <= 5000) == (0, True)
    assert (await acquire("b", 5000))[0] > fence
    assert await redis.do("EXISTS", "lock:queue") == 0
    # A request that was given up before it arrived.
    await redis.do("DEL", "lock")
    await redis.run("lock_release", [*RELEASE, "lock:d"], "d", 1000)
    assert await acquire("d") == [0, 0]
    assert await redis.do("EXISTS", "lock") == 0


async def test_lock_extend(redis: Scripts):
    assert await redis.run("lock_extend", ["lock"], "a", 10_000) == 0
    await redis.do("SET", "lock", "a", "PX", 100)
    assert await redis.run("lock_extend", ["lock"], "b", 10_000) == 0
    assert await redis.run("lock_extend", ["lock"], "a", 10_000) == 1
    assert await redis.do("PTTL", "lock") > 100


async def test_lock_release(redis: Scripts):
    await redis.do("SET", "lock", "a")
    await redis.do("ZADD", "lock:queue", 1, "b", 2, "c")
    await redis.do("ZADD", "lock:waiting", 1, "b", 2, "c")
    assert await redis.run("lock_release", [*RELEASE, "lock:b"], "b", 0) == 0
    assert await redis.do("ZRANGE", "lock:queue", 0, -1) == [b"c"]
    assert await redis.do("GET", "lock") == b"a"
    assert await redis.run("lock_release", [*RELEASE, "lock:a"], "a", 1000) == 1
    assert await redis.do("EXISTS", "lock") == 0
    assert 0 < await redis.do("PTTL", "lock:a") <= 1000


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
    await redis.do("ZADD", "due", 0, "u")
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
    assert await redis.run("upload_reserve", ["user"], "a", 60, 5000, 2, 100) == b"ok"
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
