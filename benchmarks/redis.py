"""Redis's client and what stands on it, against redis-py, limits, throttled-py and starsessions.

    .venv/bin/python benchmarks/redis.py [--quick] [--write]
    .venv/bin/python benchmarks/redis.py --only locks --seconds 2 --rounds 9

All sides are measured in turn, in one process, on the same server; each round begins with another one.
A table gives the medians of the rounds, the ratio of the medians, and the lowest and highest ratio of
a round. The peers have a pool of 50 connections that makes callers wait, for redis-py's other one
refuses the 65th of 64 tasks and more; what they do stands in `benchmarks/redis_peers.py`.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

# First of all, for it takes this folder off the path, where this file would be taken for redis-py.
import benchmarks  # noqa: F401, I001

from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks import redis_peers as peers
from benchmarks.measuring import (
    Call,
    Lengths,
    OURS,
    Report,
    by_number,
    command,
    machine,
)
from multidb import MultiDB, NewUser, Rate, uuid7
from multidb.settings import Settings
from multidb.stores.redis.commands import script

WRITTEN = Path(__file__).parents[1] / "docs" / "benchmarks-redis.md"

#: What DESIGN asks for: by work, tasks and peer, the ratio to reach.
TARGETS = {
    ("GET", 1, "redis-py"): 0.85,
    ("GET", 64, "redis-py"): 3,
    ("users.get", 1, "redis-py GET"): 0.85,
    ("users.get", 64, "redis-py GET"): 3,
    ("rate_limits.hit", 64, "limits, sliding window"): 3,
    ("rate_limits.hit", 64, "throttled-py, GCRA"): 3,
    ("locks.document", 64, "redis-py Lock"): 3,
    ("request", 1, "four calls of redis-py"): 2,
}

KEYS = 5_000
VALUE = b"x" * 200


@dataclass(frozen=True)
class Sizes(Lengths):
    """How much of everything."""

    tasks: tuple[int, ...] = (1, 16, 64, 256)


QUICK = Sizes(seconds=0.2, rounds=1, tasks=(1, 64))


@dataclass
class Run(Report[Sizes]):
    """One run: who is measured, how long, and what has been found."""

    targets = TARGETS

    db: MultiDB
    redis: Redis

    def key(self, number: int) -> str:
        """Return one of the keys."""
        return f"{self.db.settings.key_prefix}bench:{{{number % KEYS}}}"


async def commands(run: Run) -> None:
    """Single commands and a script: GET, SET, INCR, a lease that is refused."""
    ours, peer, key = run.db.redis, run.redis, run.key
    for number in range(KEYS):
        await peer.set(key(number), VALUE)
    source, digest = script("cache_fill")
    await peer.script_load(source)
    table = run.comparison("Commands and a script")
    works: dict[str, tuple[Call, Call]] = {
        "GET": (
            lambda n: peer.get(key(n)),
            lambda n: ours.get(key(n), operation="bench"),
        ),
        "SET": (
            lambda n: peer.set(key(n), VALUE, px=600_000),
            lambda n: ours.execute("SET", key(n), VALUE, "PX", 600_000, operation="bench"),
        ),
        "EVALSHA": (
            lambda n: peer.evalsha(digest, 1, key(n), "L", "V", "1"),
            lambda n: ours.run("cache_fill", [key(n)], ["L", "V", 1], operation="bench"),
        ),
    }
    for work, (theirs, own) in works.items():
        await run.rates(table, work, {"redis-py": theirs, OURS: own}, *run.sizes.tasks)


async def cached(run: Run) -> None:
    """`users.get` out of the cache, its model included, against the bare GET of the same bytes."""
    new = [NewUser(email=f"{n}@example.com", name=f"User {n}") for n in range(KEYS)]
    await run.db.users.add_many(new)
    ids = [user.id for user in new]
    ours = by_number(run.db.users.get, ids)
    for number in range(KEYS):
        await ours(number)
    pattern = run.db.redis.pattern("cache:user:{id}")
    keys = [pattern.key({"id": id}) for id in ids]
    peer: Call = lambda number: run.redis.get(keys[number % KEYS])  # noqa: E731 - as those above
    await run.rates(
        run.comparison("users.get, cached"), "users.get", {"redis-py GET": peer, OURS: ours}, *run.sizes.tasks
    )


async def limited(run: Run) -> None:
    """A hit of a limit that admits it, of many users."""
    ids = [uuid7() for _ in range(KEYS)]
    by_user = Rate(peers.LIMIT, per=timedelta(hours=1))
    sides = peers.rate_limits(run.db.settings, run.redis, lambda n: str(ids[n % KEYS]))
    sides[OURS] = by_number(lambda user_id: run.db.rate_limits.hit(user_id, "GET /reports", by_user), ids)
    await run.rates(run.comparison("A rate limit"), "rate_limits.hit", sides, *run.sizes.tasks)


async def locked(run: Run) -> None:
    """A lock that nobody else wants, taken and given back; ours has a fence."""
    ids = [uuid7() for _ in range(max(KEYS, 1000))]  # more than there are tasks

    async def taken(number: int) -> None:
        async with run.db.locks.document(ids[number % len(ids)]):
            pass

    theirs = peers.lock(run.redis, lambda n: f"{run.db.settings.key_prefix}lock:{ids[n % len(ids)]}")
    sides: dict[str, Call] = {"redis-py Lock": theirs, OURS: taken}
    await run.rates(run.comparison("A lock, taken and given back"), "locks.document", sides, *run.sizes.tasks)


async def begun(run: Run) -> None:
    """A session that is used; and the beginning of a request against the same as four calls of redis-py."""
    new = [NewUser(email=f"{n}@example.org", name="Ada") for n in range(min(KEYS, 100))]
    await run.db.users.add_many(new)
    ids = [user.id for user in new]
    tokens = [(await run.db.sessions.create(id))[0] for id in ids]
    table = run.comparison("Sessions, and how a request begins")
    used = peers.starsessions(run.redis, lambda n: f"{run.key(n)}:session")
    used[OURS] = lambda n: run.db.sessions.get(tokens[n % len(tokens)])
    await run.rates(table, "sessions.get", used, *run.sizes.tasks)
    by_user = Rate(peers.LIMIT, per=timedelta(hours=1))
    sides: dict[str, Call] = {
        "four calls of redis-py": await peers.four_calls(run.redis, run.db.settings.key_prefix, ids),
        OURS: lambda n: run.db.request(tokens[n % len(tokens)], "GET /reports", rate=by_user),
    }
    await run.rates(table, "request", sides, *run.sizes.tasks)


SECTIONS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "commands": commands,
    "cached": cached,
    "limits": limited,
    "locks": locked,
    "requests": begun,
}


async def measure(settings: Settings, sizes: Sizes, names: Collection[str] = SECTIONS) -> list[str]:
    """Measure the sections of these names and return the report's lines."""
    pool = BlockingConnectionPool.from_url(settings.redis_url.get_secret_value(), max_connections=peers.POOL)
    async with MultiDB(settings) as db, aclosing(Redis.from_pool(pool)) as redis:
        run = Run(sizes, db, redis)
        for name in names:
            await SECTIONS[name](run)
        answer = await db.redis.ask(operation="benchmark")
        return run.lines(f"{machine(f'Redis {answer.version}')}; {sizes.rounds} rounds of {sizes.seconds} s.")


_HEAD = (
    "# Redis, against its peers",
    "",
    "Written by `benchmarks/redis.py --write`, which measures all sides in turn, in one process, on the",
    "same server. Medians of the rounds, and `ratio` of the medians; `rounds` tells the lowest and the",
    "highest ratio of a round. What the peers do stands in `benchmarks/redis_peers.py`.",
)

if __name__ == "__main__":
    command(
        __doc__,
        measure,
        sections=SECTIONS,
        sizes=Sizes(),
        quick=QUICK,
        written=WRITTEN,
        head=_HEAD,
        peers=("limits", "throttled", "starsessions"),
    )
