"""Transactions and savepoints: begun, ended and undone, and what follows a commit."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal, TypeAlias, TypeVar, get_args
from uuid import UUID

from multidb.errors import (
    ConflictError,
    DataError,
    StoreError,
    StoreTimeoutError,
    TransactionError,
    UnavailableError,
)
from multidb.stores.completion import complete
from multidb.stores.postgres.ambient import (
    AMBIENT,
    TENANT_ROLE,
    AfterCommit,
    Connection,
    Marker,
    Transaction,
)
from multidb.stores.postgres.errors import heedless, translating
from multidb.stores.store import UnderWay

__all__ = ["Isolation", "Options", "Transactions"]

V = TypeVar("V")

_log = logging.getLogger("multidb.postgres")

Isolation: TypeAlias = Literal["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a transaction runs. The defaults are the server's."""

    isolation: Isolation | None = None
    read_only: bool = False
    #: How long it may take, from BEGIN until COMMIT is sent; it is rolled back then.
    timeout: timedelta | None = None
    #: Who acts, and for which request: what the audit log will say.
    actor: str | None = None
    request_id: str | None = None
    #: The company whose rows its first statements see.
    tenant: UUID | None = None
    #: Whether each statement is planned for the tables as they are now, and in the order of an index
    #: where there is one. A plan that is kept is of when it was made, and statistics of when they were
    #: taken, such as of a queue that was empty.
    replan: bool = False

    def begin(self) -> str:
        """Return the statement that begins it."""
        isolation = f" ISOLATION LEVEL {self.isolation.upper()}" if self.isolation else ""
        # In one message, for it is a round trip a statement. A UUID needs no quoting.
        see = f"; SET LOCAL ROLE {TENANT_ROLE}; SET LOCAL multidb.company_id = '{self.tenant}'"
        begin = f"BEGIN{isolation}{' READ ONLY' if self.read_only else ''}"
        if self.replan:
            begin += f"; {_REPLAN}"
        return begin if self.tenant is None else begin + see

    def check(self) -> None:
        """Raise: DataError for an option that is of the wrong type, or an isolation there is not."""
        isolations, timeout = get_args(Isolation), self.timeout
        for name, right, fits in (
            ("isolation", f"one of {', '.join(isolations)}", self.isolation in (None, *isolations)),
            ("read_only", "True or False", isinstance(self.read_only, bool)),
            ("timeout", "a timedelta, or None", timeout is None or isinstance(timeout, timedelta)),
            ("actor", "a text, or None", _is_text(self.actor)),
            ("request_id", "a text, or None", _is_text(self.request_id)),
        ):
            if not fits:
                raise DataError(f"`{name}` must be {right}", operation="transaction")


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


#: No bitmap either: it reads all entries of rows that are gone, which a plain scan marks as it passes.
_REPLAN = "SET LOCAL plan_cache_mode = force_custom_plan; " + "; ".join(
    f"SET LOCAL enable_{way} = off" for way in ("seqscan", "bitmapscan", "sort", "incremental_sort")
)

#: Tells the audit triggers who acts, for this transaction only.
_ACT = "SELECT set_config('multidb.actor', $1, true), set_config('multidb.request_id', $2, true)"

#: Before a transaction is replayed, up to this many seconds, doubled each time.
_PAUSE = 0.005

#: The server's own ways.
PLAIN = Options()


class Transactions:
    """The transactions of one store."""

    def __init__(
        self,
        connection: Callable[[str], AbstractAsyncContextManager[Connection]],
        under_way: Callable[[], UnderWay],
    ) -> None:
        self._connection = connection
        self._under_way = under_way

    def current(self) -> Transaction | None:
        """Return the ambient transaction, or None. Raises: TransactionError if it is another task's."""
        return AMBIENT.of(self)

    @asynccontextmanager
    async def begin(self, options: Options = PLAIN) -> AsyncIterator[Transaction]:
        """Begin a transaction, or a savepoint where one is ambient, which takes no options.

        Commits at the end of the block; an error or a cancellation inside rolls back.
        Raises: TransactionError at the end of the block if a statement in it failed outside a
        savepoint, for then nothing was committed; StoreTimeoutError if it took longer than its
        timeout; UnavailableError if the connection breaks, also while committing: then whether
        it committed is not known.
        """
        outer = self.current()
        if outer is None:
            async with self._outermost(options) as transaction:
                yield transaction
            return
        if options != PLAIN:
            raise TransactionError(
                "options belong to the outermost transaction; this is a savepoint in one",
                store="postgres",
                operation="transaction",
            )
        savepoint = None
        try:
            async with self.on(outer.connection, options, outer.depth + 1) as savepoint:
                savepoint.tenant, savepoint.read_only = outer.tenant, outer.read_only
                yield savepoint
        finally:
            # Also after a cancellation, which may come when the savepoint was released already
            # and be caught within the outer transaction. Rolled back, it has forgotten them, and
            # what it set is undone.
            if savepoint is not None:
                if not savepoint.undone:
                    outer.tenant = savepoint.tenant
                outer.join(savepoint)

    async def run(self, work: Callable[[Transaction], Awaitable[V]], *, attempts: int, options: Options) -> V:
        """Run `work` in a transaction, again from the start while PostgreSQL asks for that.

        Inside a transaction it runs once: only the whole can be replayed.
        """
        for attempt in range(1, attempts + 1):
            try:
                async with self.begin(options) as transaction:
                    return await work(transaction)
            except (ConflictError, StoreError) as error:
                # A connection that broke may have committed; that is for the caller to decide.
                again = error.retryable and not isinstance(error, UnavailableError)
                if not again or attempt == attempts or self.current() is not None:
                    raise
                await asyncio.sleep(random.uniform(0, _PAUSE * 2**attempt))  # noqa: S311 - it spreads, and is no secret
        raise AssertionError("unreachable")

    async def after_commit(self, action: AfterCommit) -> None:
        """Run `action` once what was written is committed: now, outside a transaction.

        It runs to its end even if the caller is cancelled. A rolled-back savepoint forgets it.
        """
        transaction = self.current()
        if transaction is not None:
            transaction.after_commit.append(action)
        else:
            with self._under_way():
                await complete(_run_all([action]))

    @asynccontextmanager
    async def changing(self, marker: Marker, keys: Collection[str]) -> AsyncIterator[None]:
        """Have `marker` told of these keys around the commit of what the block writes.

        Outside a transaction the block is one statement, its own commit. What it writes may be
        committed although it fails, for an answer may be lost. If what `marker` keeps cannot be told,
        it gets a transaction, which carries what is to follow.
        """
        transaction = self.current()
        if transaction is not None:
            transaction.change(marker, keys)
            yield
            return
        mark = marker.mark(keys)
        # Under way until the mark is taken back: closing must not come between.
        with self._under_way():
            try:
                told = await complete(mark.begin())
                if not told:
                    yield
                    return
                async with self.begin() as transaction:
                    transaction.told += told
                    yield
            finally:
                await complete(mark.end())

    @asynccontextmanager
    async def _outermost(self, options: Options) -> AsyncIterator[Transaction]:
        transaction: Transaction | None = None
        try:
            with self._under_way():
                try:
                    async with (
                        self._connection("transaction") as connection,
                        self.on(connection, options) as transaction,
                    ):
                        yield transaction
                finally:
                    # Also after an error: a COMMIT whose answer was lost may have happened.
                    if transaction is not None and (transaction.marks or transaction.after_commit):
                        ends = [mark.end for mark in transaction.marks]
                        await complete(_run_all([*ends, *transaction.after_commit]))
        finally:
            # Also after a cancellation, which may have come while the COMMIT was under way.
            if transaction is not None and transaction.committed:
                await _run_all(transaction.when_committed)

    @asynccontextmanager
    async def on(
        self, connection: Connection, options: Options, depth: int = 0
    ) -> AsyncIterator[Transaction]:
        """Run the block in a transaction on `connection`, or in a savepoint `depth` deep in one."""
        transaction = Transaction(self, connection, depth)
        begin, end, undo = _statements(depth, options)
        # Translated are the statements, not the body: its errors are the caller's own. Each runs to
        # its end, for a transaction half begun or half ended can only be thrown away.
        tag: str | None = None

        async def send_end() -> None:
            nonlocal tag
            tag = await connection.execute(end)
            transaction.committed = tag == "COMMIT"

        ending = False
        try:
            with translating("transaction"):
                await complete(connection.execute(begin))
                if depth == 0:
                    transaction.tenant, transaction.read_only = options.tenant, options.read_only
                if options.actor is not None or options.request_id is not None:
                    await connection.fetch(_ACT, options.actor or "", options.request_id or "")
            token = AMBIENT.enter(transaction)
            try:
                async with _within(options.timeout):
                    yield transaction
            finally:
                AMBIENT.leave(transaction, token)
            if depth == 0 and transaction.changed:
                await complete(transaction.mark())
            # After the marks: what could not be marked may be told too. Streams are locked from here on.
            if depth == 0 and transaction.told:
                with translating("transaction"):
                    await complete(transaction.write_told())
            ending = True
            with translating("transaction"):
                await complete(send_end())
            if tag == "ROLLBACK":
                # PostgreSQL's answer to COMMIT where a statement has failed: no error, and no commit.
                raise TransactionError(  # noqa: TRY301 - nothing of it stands, like after any failure
                    "rolled back: a statement in it failed, and its error was caught; put what may "
                    "fail into a savepoint of its own, `async with db.transaction()`",
                    store="postgres",
                    operation="transaction",
                )
        except BaseException:
            # A cancellation may have come when all was done; and a COMMIT without an answer may
            # have happened, where a savepoint's release without one is undone.
            done = tag is not None and tag != "ROLLBACK"
            unknown = ending and tag is None and depth == 0
            if not done and not unknown:
                transaction.forget()
                await complete(heedless(partial(connection.execute, undo)))
            raise


def _statements(depth: int, options: Options) -> tuple[str, str, str]:
    """Return what begins, ends and undoes a transaction, or a savepoint `depth` deep in one."""
    if depth == 0:
        return options.begin(), "COMMIT", "ROLLBACK"
    name = f"multidb_{depth}"
    return (
        f"SAVEPOINT {name}",
        f"RELEASE SAVEPOINT {name}",
        f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}",
    )


@asynccontextmanager
async def _within(limit: timedelta | None) -> AsyncIterator[None]:
    """Cancel the body when its time is up. A TimeoutError of its own passes as it is."""
    deadline = asyncio.timeout(None if limit is None else limit.total_seconds())
    try:
        async with deadline:
            yield
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise StoreTimeoutError(
            "it took longer than its timeout and was rolled back", store="postgres", operation="transaction"
        ) from error


async def _run_all(actions: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Run every action, whatever becomes of the others: what is committed cannot fail any more.

    A cancellation ends the action that is under way, and is raised once the others have run.
    """
    cancelled: asyncio.CancelledError | None = None
    for action in actions:
        try:
            await action()
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:
            _log.exception("an action after a commit failed")
    if cancelled is not None:
        raise cancelled
