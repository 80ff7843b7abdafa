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

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks import redis_peers as peers
from benchmarks.measuring import (
    OURS,
    Call,
    Comparison,
    Table,
    by_number,
    in_turn,
    machine,
    on_servers,
    parser,
    rate,
)
from multidb import MultiDB, NewUser, Rate, uuid7
from multidb.settings import Settings
from multidb.stores.redis.commands import script

WRITTEN = Path(__file__).parents[1] / "docs" / "benchmarks-redis.md"

#: What DESIGN asks for: by work and tasks, the ratio to reach.
TARGETS = {
    ("GET", 1): 0.85,
    ("GET", 64): 3,
    ("users.get", 1): 0.85,
    ("users.get", 64): 3,
    ("rate_limits.hit", 64): 3,
    ("locks.document", 64): 3,
    ("request", 1): 2,
}

KEYS = 5_000
VALUE = b"x" * 200


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seconds: float = 0.7
    rounds: int = 5
    tasks: tuple[int, ...] = (1, 16, 64, 256)


QUICK = Sizes(seconds=0.2, rounds=1, tasks=(1, 64))


@dataclass
class Run:
    """One run: who is measured, how long, and what has been found."""

    db: MultiDB
    redis: Redis
    sizes: Sizes
    report: list[Table] = field(default_factory=list)

    def key(self, number: int) -> str:
        """Return one of the keys."""
        return f"{self.db.settings.key_prefix}bench:{{{number % KEYS}}}"

    def table(self, title: str) -> Table:
        """Begin a table."""
        columns = "work", "against", "tasks", "its calls/s", "our calls/s", "ratio", "rounds", "target"
        self.report.append(Table(title, *columns))
        return self.report[-1]

    async def compare(self, table: Table, work: str, calls: Mapping[str, Call]) -> None:
        """Measure a call of all sides with each number of tasks."""
        seconds = self.sizes.seconds
        for number in self.sizes.tasks:
            for call in calls.values():
                await rate(call, tasks=number, seconds=seconds / 5)  # opens what is opened once
            sides = {name: partial(rate, call, tasks=number, seconds=seconds) for name, call in calls.items()}
            compared = Comparison(await in_turn(sides, rounds=self.sizes.rounds))
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
    table = run.table("Commands and a script")
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
        await run.compare(table, work, {"redis-py": theirs, OURS: own})


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
    await run.compare(run.table("users.get, cached"), "users.get", {"redis-py GET": peer, OURS: ours})


async def limited(run: Run) -> None:
    """A hit of a limit that admits it, of many users."""
    ids = [uuid7() for _ in range(KEYS)]
    by_user = Rate(peers.LIMIT, per=timedelta(hours=1))
    sides = peers.rate_limits(run.db.settings, run.redis, lambda n: str(ids[n % KEYS]))
    sides[OURS] = by_number(lambda user_id: run.db.rate_limits.hit(user_id, "GET /reports", by_user), ids)
    await run.compare(run.table("A rate limit"), "rate_limits.hit", sides)


async def locked(run: Run) -> None:
    """A lock that nobody else wants, taken and given back; ours has a fence."""
    ids = [uuid7() for _ in range(max(KEYS, 1000))]  # more than there are tasks

    async def taken(number: int) -> None:
        async with run.db.locks.document(ids[number % len(ids)]):
            pass

    theirs = peers.lock(run.redis, lambda n: f"{run.db.settings.key_prefix}lock:{ids[n % len(ids)]}")
    sides: dict[str, Call] = {"redis-py Lock": theirs, OURS: taken}
    await run.compare(run.table("A lock, taken and given back"), "locks.document", sides)


async def begun(run: Run) -> None:
    """A session that is used; and the beginning of a request against the same as four calls of redis-py."""
    new = [NewUser(email=f"{n}@example.org", name="Ada") for n in range(min(KEYS, 100))]
    await run.db.users.add_many(new)
    ids = [user.id for user in new]
    tokens = [(await run.db.sessions.create(id))[0] for id in ids]
    table = run.table("Sessions, and how a request begins")
    used = peers.starsessions(run.redis, lambda n: f"{run.key(n)}:session")
    used[OURS] = lambda n: run.db.sessions.get(tokens[n % len(tokens)])
    await run.compare(table, "sessions.get", used)
    by_user = Rate(peers.LIMIT, per=timedelta(hours=1))
    sides: dict[str, Call] = {
        "four calls of redis-py": await peers.four_calls(run.redis, run.db.settings.key_prefix, ids),
        OURS: lambda n: run.db.request(tokens[n % len(tokens)], "GET /reports", rate=by_user),
    }
    await run.compare(table, "request", sides)


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
        run = Run(db, redis, sizes)
        for name in names:
            await SECTIONS[name](run)
        answer = await db.redis.ask(operation="benchmark")
        lines = [f"{machine(f'Redis {answer.version}')}; {sizes.rounds} rounds of {sizes.seconds} s."]
        for table in run.report:
            lines += ["", *table.lines]
        return lines


def main() -> None:
    """Measure, print, and write it down if asked to."""
    arguments = parser(__doc__, seconds=None, rounds=None)
    arguments.add_argument("--quick", action="store_true", help="less of everything")
    arguments.add_argument("--only", action="append", choices=SECTIONS, help="only this; may be repeated")
    arguments.add_argument("--write", action="store_true", help=f"write it to docs/{WRITTEN.name}")
    given = arguments.parse_args()
    if given.write and given.only:
        arguments.error("--write takes a whole run, without --only")
    sizes = QUICK if given.quick else Sizes()
    sizes = replace(sizes, seconds=given.seconds or sizes.seconds, rounds=given.rounds or sizes.rounds)
    for name in ("limits", "throttled", "starsessions"):
        if find_spec(name) is None:
            print(f"{name} is not installed and left out; `make bench` installs it")

    async def run(settings: Settings) -> None:
        lines = await measure(settings, sizes, given.only or SECTIONS)
        if given.write:
            WRITTEN.write_text("\n".join([*_HEAD, *lines, ""]))

    on_servers(run)


_HEAD = [
    "# Redis, against its peers",
    "",
    "Written by `benchmarks/redis.py --write`, which measures all sides in turn, in one process, on the",
    "same server. Medians of the rounds, and `ratio` of the medians; `rounds` tells the lowest and the",
    "highest ratio of a round. What the peers do stands in `benchmarks/redis_peers.py`.",
    "",
]

if __name__ == "__main__":
    main()
