"""Redis's client and what stands on it, against redis-py: in turn, in one process, on the same server.

    .venv/bin/python benchmarks/redis.py [--seconds 0.7] [--rounds 5] [--only calls]

Each round measures the peer and ours, and begins with the other one. A table gives the medians of the
rounds, the ratio of the medians, and the lowest and highest ratio of a round. redis-py has a pool of
50 connections that makes callers wait, for its other one refuses the 65th of 64 tasks and more.

It starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL.
"""

# First of all, for it takes this folder off the path, where this file would be taken for redis-py.
import benchmarks  # noqa: F401, I001

import argparse
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial

from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.measuring import OURS, Call, Comparison, Table, by_number, in_turn, on_servers, parser, rate
from multidb import MultiDB, NewUser
from multidb.settings import Settings
from multidb.stores.redis.commands import script

#: What DESIGN asks for: by work and tasks, the ratio to reach.
TARGETS = {("GET", 1): 0.85, ("GET", 64): 3, ("users.get", 1): 0.85, ("users.get", 64): 3}

TASKS = (1, 16, 64, 256)
KEYS = 5_000
VALUE = b"x" * 200


class Run:
    """One run: who is measured, and how long."""

    def __init__(self, db: MultiDB, redis: Redis, arguments: argparse.Namespace) -> None:
        self.db = db
        self.redis = redis
        self._seconds: float = arguments.seconds
        self._rounds: int = arguments.rounds
        self._prefix = db.settings.key_prefix

    def key(self, number: int) -> str:
        """Return one of the keys."""
        return f"{self._prefix}bench:{{{number % KEYS}}}"

    async def compare(self, table: Table, work: str, calls: Mapping[str, Call], *tasks: int) -> None:
        """Measure a call of both sides with these numbers of tasks."""
        for number in tasks:
            for call in calls.values():
                await rate(call, tasks=number, seconds=self._seconds / 5)  # opens what is opened once
            sides = {
                name: partial(rate, call, tasks=number, seconds=self._seconds) for name, call in calls.items()
            }
            compared = Comparison(await in_turn(sides, rounds=self._rounds))
            target = TARGETS.get((work, number))
            for peer in compared.peers:
                reach = "" if target is None else f"at least {target}"
                table.row(work, peer, number, *compared.cells(peer), reach)


async def commands(run: Run) -> None:
    """Single commands and a script: GET, SET, INCR, a lease that is refused."""
    ours, peer, key = run.db.redis, run.redis, run.key
    for number in range(KEYS):
        await peer.set(key(number), VALUE)
    source, digest = script("cache_fill")
    await peer.script_load(source)
    table = _table("Commands and a script")
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
        await run.compare(table, work, {"redis-py": theirs, OURS: own}, *TASKS)


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
    await run.compare(_table("users.get, cached"), "users.get", {"redis-py GET": peer, OURS: ours}, *TASKS)


SECTIONS: dict[str, Callable[[Run], Awaitable[None]]] = {"commands": commands, "cached": cached}


def _table(title: str) -> Table:
    return Table(title, "work", "against", "tasks", "its calls/s", "our calls/s", "ratio", "rounds", "target")


async def measure(arguments: argparse.Namespace, settings: Settings) -> None:
    """Print the tables."""
    pool = BlockingConnectionPool.from_url(settings.redis_url.get_secret_value(), max_connections=50)
    async with MultiDB(settings) as db, aclosing(Redis.from_pool(pool)) as redis:
        for name in arguments.only or SECTIONS:
            await SECTIONS[name](Run(db, redis, arguments))


if __name__ == "__main__":
    made = parser(__doc__, seconds=0.7, rounds=5)
    made.add_argument("--only", action="append", choices=SECTIONS, help="only this; may be repeated")
    on_servers(partial(measure, made.parse_args()))
