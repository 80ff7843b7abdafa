"""`users.get`, uncached, against the drivers: both in turn, in one process, on the same servers.

    .venv/bin/python benchmarks/reads.py [--seconds 0.7] [--rounds 5]

Starts servers of its own from the wheels, or takes those of MULTIDB_TEST_*_URL. Each round measures
the peer and ours; the table gives the medians, the ratio of the medians, and the lowest and highest
ratio of a round. What the peers do stands in `benchmarks/sides.py`.
"""

import argparse
from functools import partial

from benchmarks.measuring import OURS, Call, Comparison, Table, by_number, in_turn, on_servers, parser, rate
from benchmarks.peers import peers
from benchmarks.sides import Ours
from multidb import MultiDB, NewUser
from multidb.settings import Settings

ROWS = 5_000


async def measure(arguments: argparse.Namespace, settings: Settings) -> None:
    """Print the table."""

    async def compare(table: Table, name: str, peer: Call, ours: Call, tasks: int) -> None:
        seconds = arguments.seconds
        sides = {
            "peer": partial(rate, peer, tasks=tasks, seconds=seconds),
            OURS: partial(rate, ours, tasks=tasks, seconds=seconds),
        }
        compared = Comparison(await in_turn(sides, rounds=arguments.rounds))
        table.row(name, tasks, *compared.cells("peer"))

    async with MultiDB(settings) as db, peers(settings, advanced_alchemy=False) as drivers:
        new = [NewUser(email=f"{n}@example.com", name=f"User {n}") for n in range(ROWS)]
        await db.users.add_many(new)
        ids = [user.id for user in new]
        ours = by_number(Ours(db).get, ids)
        table = Table("Uncached", "against", "tasks", "peer/s", "ours/s", "ratio", "rounds")
        with db.uncached():
            for tasks in (1, 4, 16, 64, 256):
                await compare(table, "asyncpg fetchrow", by_number(drivers["asyncpg"].get, ids), ours, tasks)
            for tasks in (1, 64):
                core = by_number(drivers["SQLAlchemy Core"].get, ids)
                await compare(table, "SQLAlchemy Core", core, ours, tasks)


if __name__ == "__main__":
    on_servers(partial(measure, parser(__doc__, seconds=0.7, rounds=5).parse_args()))
