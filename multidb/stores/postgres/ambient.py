"""The ambient transaction: whoever calls a repository inside `async with db.transaction()` joins it.

It is kept in a context variable, so it reaches every function called inside the block without
being passed. A context is also copied into each new task, and two tasks on one connection would
mix their statements; so a transaction belongs to the task that began it, and another task that
finds it is told so. Once it has ended, a task that still carries it is on its own again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from asyncpg.pool import PoolConnectionProxy

from multidb.errors import TransactionError

__all__ = [
    "TENANT_ROLE",
    "AfterCommit",
    "Connection",
    "OnCommit",
    "Transaction",
    "enter",
    "leave",
    "transaction_of",
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

_ambient: ContextVar["Transaction | None"] = ContextVar("multidb_transaction", default=None)


def seen(tenant: UUID | None) -> tuple[str, str]:
    """Return the arguments of `SEE` for one company's rows, or for everybody's."""
    return ("none", "") if tenant is None else (TENANT_ROLE, str(tenant))


class Transaction:
    """A transaction on one PostgreSQL connection, or a savepoint within one."""

    def __init__(self, owner: object, connection: Connection, depth: int) -> None:
        self.owner = owner
        self.connection = connection
        #: 0 for the transaction itself, 1 for a savepoint in it, and so on.
        self.depth = depth
        #: What was ambient before: a savepoint's transaction, or one on another database.
        self.outer = _ambient.get()
        self.task = asyncio.current_task()
        self.ended = False
        #: Whether it was rolled back.
        self.undone = False
        #: Whose rows the connection's statements now see.
        self.tenant: UUID | object | None = None
        self.after_commit: list[AfterCommit] = []
        self.when_committed: list[OnCommit] = []

    def on_commit(self, action: OnCommit) -> None:
        """Run an async function once the outermost transaction has committed, and only then.

        In order, after the block. A savepoint that rolls back forgets its own. What one raises is
        logged: the commit has happened, and the others run all the same.
        """
        self.when_committed.append(action)

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
        self.after_commit.clear()
        self.when_committed.clear()


def enter(transaction: Transaction) -> Token[Transaction | None]:
    """Make `transaction` the ambient one."""
    return _ambient.set(transaction)


def leave(transaction: Transaction, token: Token[Transaction | None]) -> None:
    """End `transaction`: what was ambient before it is ambient again."""
    transaction.ended = True
    # Left in another context than it was entered in, as an async generator may be, it stays in
    # that one; having ended, it is not seen there.
    with suppress(ValueError):
        _ambient.reset(token)


def transaction_of(owner: object) -> Transaction | None:
    """Return the ambient transaction on `owner`, the store it was begun on, or None.

    Raises: TransactionError if it belongs to another task.
    """
    transaction = _ambient.get()
    while transaction is not None and (transaction.owner is not owner or transaction.ended):
        transaction = transaction.outer
    if transaction is not None and transaction.task is not asyncio.current_task():
        raise TransactionError(
            "this task was started inside a transaction that belongs to another task; call the "
            "repository in the task that began it, or start this task with an empty context "
            "(asyncio.create_task(..., context=contextvars.Context()))",
            store="postgres",
        )
    return transaction
