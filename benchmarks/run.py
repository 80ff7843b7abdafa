"""One run of a benchmark: who is measured, how much of everything, and what has been found."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from benchmarks.measuring import OURS, Lengths, Report
from benchmarks.sides import Ours, Side
from multidb import MultiDB, NewUser

__all__ = ["QUICK", "Run", "Sizes"]

#: What DESIGN asks for: by work, tasks and peer, the ratio to reach.
TARGETS = {
    ("get", 1, "asyncpg"): 0.85,
    ("get", 64, "asyncpg"): 5,
    ("get", 64, "advanced-alchemy"): 40,
    ("add", 64, "advanced-alchemy"): 10,
    ("add_many", 1, "asyncpg"): 0.6,
}


@dataclass(frozen=True)
class Sizes(Lengths):
    """How much of everything."""

    tasks: tuple[int, ...] = (1, 4, 16, 64, 256)
    rows: int = 5_000
    bulk: int = 20_000
    streamed: int = 100_000
    deep: int = 1_000_000
    page: int = 50
    fair_seconds: float = 5


QUICK = Sizes(seconds=0.2, rounds=1, tasks=(1, 64), bulk=5_000, streamed=20_000, deep=50_000, fair_seconds=1)


@dataclass
class Run(Report[Sizes]):
    """One run: who is measured, how much, and what has been found."""

    targets = TARGETS

    db: MultiDB
    peers: Mapping[str, Side]

    @property
    def sides(self) -> dict[str, Side]:
        """The peers and ours."""
        return {**self.peers, OURS: Ours(self.db)}

    async def empty(self) -> None:
        """Leave no user."""
        await self.sql("TRUNCATE users, audit_logs CASCADE")

    async def sql(self, statement: str) -> None:
        """Run a statement on the side."""
        async with self.db.postgres.engine.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await autocommit.exec_driver_sql(statement)

    async def filled(self, *, names: int | None = None) -> list[UUID]:
        """Fill the table with users, who share so many names, and return their ids."""
        rows = self.sizes.rows
        new = [NewUser(email=f"{n}@example.com", name=f"User {n % (names or rows)}") for n in range(rows)]
        await self.db.users.add_many(new)
        await self.sql("VACUUM ANALYZE users")
        return [user.id for user in new]

    async def generated(self, size: int) -> None:
        """Fill the table by the server itself, with ids that count up."""
        for start in range(0, size, 100_000):
            await self.sql(
                "INSERT INTO users (id, email, email_folded, name) "
                "SELECT lpad(to_hex(n), 32, '0')::uuid, n || '@example.com', n || '@example.com', 'Ada' "
                f"FROM generate_series({start + 1}, {min(size, start + 100_000)}) AS n"
            )
        await self.sql("VACUUM ANALYZE users")
