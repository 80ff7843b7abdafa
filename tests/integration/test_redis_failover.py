"""Redis: a master is killed under load, behind Sentinels and in a cluster."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.crc import key_slot

from multidb import ConfigurationError, MultiDB, Rate, UnavailableError, uuid7
from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.commands import Command

from .redis import key, opened
from .redis_topologies import SLOTS, Cluster, Sentinels, cluster, sentinels

OP = "tests.failover"
KEYS = 60
MANY = Rate(1_000_000, per=timedelta(hours=1), algorithm="fixed_window")
TODAY = datetime.now(UTC).date()


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sentinels | Cluster]:
    """Servers of this test's own, for it kills one."""
    with sentinels(tmp_path) if request.param == "sentinel" else cluster(tmp_path) as running:
        yield running


class Counting:
    """Tasks that count, each on a key of its own, and never stop."""

    def __init__(self, redis: RedisStore) -> None:
        self.redis = redis
        self.attempted = [0] * KEYS
        self.acknowledged = [0] * KEYS
        self.errors: list[Exception] = []
        self.stopped = False

    async def count(self, n: int) -> None:
        while not self.stopped:
            self.attempted[n] += 1
            try:
                await self.redis.execute("INCR", key(self.redis, n), operation=OP)
            except Exception as error:
                self.errors.append(error)
                await asyncio.sleep(0.02)
            else:
                self.acknowledged[n] += 1

    async def until_each_counts(self) -> None:
        """Wait until every task has counted once more."""
        before = self.acknowledged.copy()
        while not all(map(int.__gt__, self.acknowledged, before)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_master_killed_under_load(multidb_settings: Settings, servers: Sentinels | Cluster):
    url = type(multidb_settings.redis_url)(servers.url)
    async with opened(multidb_settings, redis_url=url) as redis:
        counting = Counting(redis)
        tasks = [asyncio.create_task(counting.count(n)) for n in range(KEYS)]
        await counting.until_each_counts()
        master = await asyncio.to_thread(servers.master)
        await asyncio.to_thread(master.kill)
        before = len(counting.errors)
        async with asyncio.timeout(30):
            while len(counting.errors) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await counting.until_each_counts()
        counting.stopped = True
        await asyncio.gather(*tasks)

        assert {type(error) for error in counting.errors} <= {UnavailableError}
        assert all(error.retryable for error in counting.errors)  # type: ignore[attr-defined]
        values = await redis.get_many([key(redis, n) for n in range(KEYS)], operation=OP)
        stored = [int(value or 0) for value in values]
        # Nothing is counted twice. One count that the replica had not got yet may be lost to each.
        assert all(map(int.__le__, stored, counting.attempted))
        assert all(kept >= counted - 1 for kept, counted in zip(stored, counting.acknowledged, strict=True))
        answer = await redis.ask(operation=OP)
        assert answer.role == "primary"
        assert answer.detail is None


class Requesting:
    """Users who make requests and count calls, and never stop."""

    def __init__(self, db: MultiDB, tokens: list[str]) -> None:
        self.db = db
        self.tokens = tokens
        #: By user, requests begun, and those that were admitted.
        self.begun = [0] * len(tokens)
        self.admitted = [0] * len(tokens)
        #: Calls of `increment` that were made, and those that came back.
        self.counted = 0
        self.stored = 0
        self.errors: list[Exception] = []
        self.stopped = False

    async def request(self, n: int) -> None:
        while not self.stopped:
            self.begun[n] += 1
            try:
                begun = await self.db.request(self.tokens[n], "GET /", rate=MANY)
            except Exception as error:
                self.errors.append(error)
                await asyncio.sleep(0.02)
            else:
                self.admitted[n] += begun.allowed
            self.counted += 1
            await self.db.counters.increment("POST /")
            self.stored += 1

    async def until_each_is_admitted(self) -> None:
        """Wait until every user was admitted twice more: what is stored by then has come to all."""
        before = [count + 1 for count in self.admitted]
        while not all(map(int.__gt__, self.admitted, before)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_requests_and_counters_outlive_a_master(
    db: MultiDB, multidb_settings: Settings, servers: Sentinels | Cluster
):
    url = type(multidb_settings.redis_url)(servers.url)
    settings = multidb_settings.model_copy(update={"redis_url": url})
    async with MultiDB(settings) as there:
        users = [uuid7() for _ in range(12)]
        load = Requesting(there, [(await there.sessions.create(user))[0] for user in users])
        tasks = [asyncio.create_task(load.request(n)) for n in range(len(users))]
        await load.until_each_is_admitted()
        master = await asyncio.to_thread(servers.master)
        await asyncio.to_thread(master.kill)
        async with asyncio.timeout(30):
            while not load.errors:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await load.until_each_is_admitted()
        load.stopped = True
        await asyncio.gather(*tasks)
    assert {type(error) for error in load.errors} == {UnavailableError}

    # By now all that was counted is stored.
    async with MultiDB(settings) as there:
        for user, begun, admitted in zip(users, load.begun, load.admitted, strict=True):
            used = MANY.limit - (await there.rate_limits.peek(user, "GET /", MANY)).remaining
            # One that the replica had not got yet may be lost to each.
            assert admitted - 1 <= used <= begun
        total = await there.counters.get("POST /", TODAY)
        assert 0 < total <= load.counted == load.stored
        await there.counters.increment("POST /", by=7)
        assert await there.counters.get("POST /", TODAY) == total + 7


# --- slots that move


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of this test's own, for it moves slots."""
    with cluster(tmp_path) as running:
        yield running


async def test_commands_follow_their_slot(multidb_settings: Settings, moving: Cluster):
    url = type(multidb_settings.redis_url)(moving.url)
    async with opened(multidb_settings, redis_url=url) as redis:
        names = [key(redis, n) for n in range(30)]
        await redis.send([Command("SET", name, name) for name in names], operation=OP)
        there = moving.nodes[2]
        gone = [name for name in names if key_slot(name.encode()) < SLOTS * 2 // 3][:3]
        for name in gone[:2]:
            await asyncio.to_thread(moving.move, key_slot(name.encode()), there)
        # This one is on its way: its key is there already, and the slot still with its old owner.
        await asyncio.to_thread(moving.move, key_slot(gone[2].encode()), there, whole=False)

        values = await redis.get_many(names, operation=OP)
        assert values == [name.encode() for name in names]
        assert await asyncio.gather(*(redis.get(name, operation=OP) for name in names)) == values
        # A script too, which the other node has to be given first.
        fills = (redis.run("cache_fill", [name], [name, "V", 10_000], operation=OP) for name in names)
        assert await asyncio.gather(*fills) == [1] * 30
        assert await redis.get_many(names, operation=OP) == [b"V"] * 30
        counts = await redis.send(
            [Command("INCR", f"{name}n") for name in gone for _ in range(5)], operation=OP
        )
        assert counts == [1, 2, 3, 4, 5] * 3


async def test_a_dead_node_costs_the_others_nothing(multidb_settings: Settings, moving: Cluster):
    url = type(multidb_settings.redis_url)(moving.url)
    async with opened(multidb_settings, redis_url=url) as redis:
        names = [key(redis, n) for n in range(30)]
        await redis.delete(names, operation=OP)
        # Its replica too, so that nobody comes in its place.
        for node in (moving.nodes[0], moving.nodes[3]):
            await asyncio.to_thread(node.kill)
        async with asyncio.timeout(5):
            calls = (redis.execute("INCR", name, operation=OP) for name in names)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for name, outcome in zip(names, outcomes, strict=True):
            dead = key_slot(name.encode()) < SLOTS // 3
            assert isinstance(outcome, UnavailableError) if dead else outcome == 1
        assert (await redis.ask(operation=OP)).detail == "1 of 3 nodes do not answer"


# --- what the URL says and the server is not


async def test_a_url_of_another_kind_of_servers_is_a_setting(
    multidb_settings: Settings, redis_urls: Callable[[str], str]
):
    cluster_node = redis_urls("cluster").replace("+cluster", "").partition(",")[0]
    server = multidb_settings.redis_url.get_secret_value().replace("redis://", "redis+cluster://")
    sentinel = redis_urls("sentinel").replace("+sentinel", "")
    sentinel = f"redis://{sentinel.partition('@')[2].partition(',')[0]}"
    nobody = redis_urls("sentinel").replace("/shop/", "/nobody/")
    for url, expected in {
        cluster_node: (ConfigurationError, r"redis\+cluster://"),
        server: (ConfigurationError, "no cluster"),
        sentinel: (ConfigurationError, r"redis\+sentinel://"),
        nobody: (UnavailableError, "could not be reached"),
    }.items():
        async with opened(multidb_settings, redis_url=type(multidb_settings.redis_url)(url)) as redis:
            with pytest.raises(expected[0], match=expected[1]):
                await redis.ask(operation=OP)
