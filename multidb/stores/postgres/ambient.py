"""The ambient transaction: whoever calls a repository inside `async with db.transaction()` joins it."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias
from uuid import UUID

from asyncpg.pool import PoolConnectionProxy

from multidb.stores.ambient import Ambient, Owned
from multidb.stores.postgres.outbox import Told, write

__all__ = [
    "AMBIENT",
    "TENANT_ROLE",
    "AfterCommit",
    "Connection",
    "Mark",
    "Marker",
    "OnCommit",
    "Transaction",
]

if TYPE_CHECKING:
    import asyncpg

    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
else:
    Connection = PoolConnectionProxy

#: The role whose statements row level security holds to one company's rows. It cannot log in.
TENANT_ROLE = "multidb_tenant"

#: Makes the statements that follow in this transaction see what `seen` says.
SEE = "SELECT set_config('role', $1, true), set_config('multidb.company_id', $2, true)"

_UNKNOWN = object()

#: Something to do once the outermost transaction's COMMIT has been sent, whatever became of it.
AfterCommit: TypeAlias = Callable[[], Awaitable[None]]

#: Something to do once the outermost transaction is known to have committed.
OnCommit: TypeAlias = Callable[[], Awaitable[object]]


class Mark(Protocol):
    """Stands around one commit. Neither call raises: a commit must not fail by what it is told to."""

    async def begin(self) -> Sequence[Told]:
        """COMMIT is about to be sent; return what must follow it, if who keeps the copies was not told."""
        ...

    async def end(self) -> None:
        """COMMIT was answered, or will never be; or the transaction was rolled back."""


class Marker(Protocol):
    """Is told of every commit that changes what it keeps copies of."""

    def mark(self, keys: Collection[str]) -> Mark:
        """Return what is to stand around a commit that changes what these copies were made of."""
        ...


def seen(tenant: UUID | None) -> tuple[str, str]:
    """Return the arguments of `SEE` for one company's rows, or for everybody's."""
    return ("none", "") if tenant is None else (TENANT_ROLE, str(tenant))


class Transaction(Owned):
    """A transaction on one PostgreSQL connection, or a savepoint within one."""

    def __init__(self, owner: object, connection: Connection, depth: int) -> None:
        super().__init__(owner, AMBIENT.innermost())
        self.connection = connection
        #: 0 for the transaction itself, 1 for a savepoint in it, and so on.
        self.depth = depth
        #: Whether it was rolled back.
        self.undone = False
        #: Whether its COMMIT was answered.
        self.committed = False
        #: Whose rows the connection's statements now see.
        self.tenant: UUID | object | None = None
        #: What it changes, by who keeps copies of it.
        self.changed: dict[Marker, dict[str, None]] = {}
        #: What stands around its commit, once that has begun.
        self.marks: list[Mark] = []
        self.after_commit: list[AfterCommit] = []
        self.when_committed: list[OnCommit] = []
        #: Whether it may write nothing.
        self.read_only = False
        #: What is to follow its commit on MongoDB and Redis.
        self.told: list[Told] = []

    def on_commit(self, action: OnCommit) -> None:
        """Run an async function once the outermost transaction has committed, and only then.

        In order, after the block. A savepoint that rolls back forgets its own. What one raises is
        logged: the commit has happened, and the others run all the same.
        """
        self.when_committed.append(action)

    def change(self, marker: Marker, keys: Collection[str]) -> None:
        """Have `marker` told of these keys around the commit. A savepoint that rolls back forgets its own."""
        self.changed.setdefault(marker, {}).update(dict.fromkeys(keys))

    def join(self, savepoint: "Transaction") -> None:
        """Take over what is to be done around and after the commit from a savepoint that has ended."""
        for marker, keys in savepoint.changed.items():
            self.change(marker, keys)
        self.after_commit += savepoint.after_commit
        self.when_committed += savepoint.when_committed
        self.told += savepoint.told

    async def mark(self) -> None:
        """Tell those who keep copies of what it changes that it is about to be committed."""
        self.marks = [marker.mark(keys) for marker, keys in self.changed.items()]
        for mark in self.marks:
            self.told += await mark.begin()

    async def write_told(self) -> None:
        """Write down what is to follow the commit, just before it."""
        await self.see(None)
        await write(self.connection, self.told)

    async def see(self, tenant: UUID | None) -> None:
        """Make the statements that follow see one company's rows only, or everybody's."""
        if tenant != self.tenant:
            # Until the answer is there, nobody knows.
            self.tenant = _UNKNOWN
            await self.connection.fetch(SEE, *seen(tenant))
            self.tenant = tenant

    def forget(self) -> None:
        """Be rolled back: drop what was to be done after the commit, for there will be none."""
        self.undone = True
        self.changed.clear()
        self.after_commit.clear()
        self.when_committed.clear()
        self.told.clear()


AMBIENT: Ambient[Transaction] = Ambient("multidb_transaction", "postgres")
