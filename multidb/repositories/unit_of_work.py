"""`Transaction`: one unit of work over the three stores, as `db.transaction()` gives it."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from inspect import Parameter
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic import BaseModel

from multidb.errors import ConfigurationError, DataError, TransactionError
from multidb.models.api_request_logs import ApiRequestLog
from multidb.models.document_metadata import DocumentMetadataChanges, NewDocumentMetadata
from multidb.models.entity import Entity, VersionedDocument
from multidb.models.system_logs import SystemLog
from multidb.models.user_activity_logs import UserActivityLog
from multidb.repositories.append_only import AppendOnlyRepository
from multidb.repositories.collection_effects import (
    ConfigurationEffects,
    EventEffects,
    ResultEffects,
    SubmissionEffects,
)
from multidb.repositories.document_effects import AppendEffects, DocumentEffects
from multidb.repositories.effects import Effects
from multidb.repositories.key_effects import CounterEffects, SessionEffects, UploadEffects
from multidb.repositories.mongo import MongoRepository
from multidb.repositories.outbox import Outbox
from multidb.repositories.relay import Relay
from multidb.repositories.repository import Repository, Resources
from multidb.stores.postgres import ambient
from multidb.stores.postgres.ambient import OnCommit
from multidb.stores.postgres.outbox import Told
from multidb.stores.postgres.transactions import Options

__all__ = ["Transaction", "Work"]

EntityT = TypeVar("EntityT", bound=Entity)
DocumentT = TypeVar("DocumentT", bound=VersionedDocument)
NewT = TypeVar("NewT", bound=BaseModel)
ChangesT = TypeVar("ChangesT", bound=BaseModel)
V = TypeVar("V")


_BY_PLACE = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL}


class Transaction:
    """A transaction on PostgreSQL, or a savepoint in one, and what is to follow it on MongoDB and Redis.

    ::

        async with db.transaction() as tx:
            await db.users.update(id, password=...)
            tx.sessions.revoke_all(id)
            tx.system_logs.append(SystemLog(...))

    What is called through it is checked at once, written down with the same commit, and done by a relay soon
    after that; a rollback leaves nothing, nor does that of a savepoint which was open at the call. Of
    other repositories, `tx[ReceiptRepository]`.
    """

    system_logs: AppendEffects[SystemLog]
    user_activity_logs: AppendEffects[UserActivityLog]
    api_request_logs: AppendEffects[ApiRequestLog]
    realtime_events: EventEffects
    document_metadata: DocumentEffects[NewDocumentMetadata, DocumentMetadataChanges]
    ai_processing_results: ResultEffects
    form_submissions: SubmissionEffects
    dynamic_configurations: ConfigurationEffects
    sessions: SessionEffects
    counters: CounterEffects
    uploads: UploadEffects

    def __init__(self, transaction: ambient.Transaction, work: "Work") -> None:
        self._transaction = transaction
        self._work = work

    @property
    def depth(self) -> int:
        """0 for the transaction itself, 1 for a savepoint in it, and so on."""
        return self._transaction.depth

    def on_commit(self, action: OnCommit) -> None:
        """Run an async function once the outermost transaction has committed, and only then.

        In order, after the block. A savepoint that rolls back forgets its own. What one raises is
        logged: the commit has happened, and the others run all the same. It is lost with the process.
        """
        self._transaction.on_commit(action)

    @overload
    def __getitem__(
        self, repository: type[MongoRepository[DocumentT, NewT, ChangesT]]
    ) -> DocumentEffects[NewT, ChangesT]: ...
    @overload
    def __getitem__(self, repository: type[AppendOnlyRepository[EntityT]]) -> AppendEffects[EntityT]: ...
    def __getitem__(self, repository: type[Repository]) -> Any:
        """Return what a repository offers for after the commit.

        Raises: ConfigurationError if it is not wired, or offers nothing.
        """
        return self._work.effects(repository, self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Effects[Any]:
            if name.startswith("_"):
                raise AttributeError(name)
            return self._work.effects(self._work.named(name), self)

    def _tell(self, told: Told, operation: str) -> None:
        """Have an effect follow the commit of the innermost savepoint that is open."""
        current = None if self._transaction.ended else self._work.current()
        if current is None:
            raise TransactionError("the transaction has ended", store="postgres", operation=operation)
        if current.read_only:
            raise TransactionError(
                "the transaction is read-only, and writes down nothing", store="postgres", operation=operation
            )
        if not current.told or current.told[-1].store != told.store:
            self._work.outbox.wakeups.tell([told.store])
        current.told.append(told)


class Work:
    """What the transactions of one `MultiDB` have in common."""

    def __init__(self, resources: Resources) -> None:
        self._transactions = resources.postgres.transactions
        self._repositories = resources.repositories
        self.outbox = Outbox(resources.postgres)
        self.relay = Relay(resources)
        resources.before_closing.extend([self.relay.close, self.outbox.wakeups.close])

    @asynccontextmanager
    async def begin(self, options: Options) -> AsyncIterator[Transaction]:
        """Begin a transaction, or a savepoint, as the store does. Raises: DataError, for a wrong option."""
        options.check()
        async with self._transactions.begin(options) as transaction:
            yield Transaction(transaction, self)

    async def run(self, work: Callable[..., Awaitable[V]], *, attempts: int, options: Options) -> V:
        """Run `work` in a transaction, replayed as the store does; it is given that if it takes one."""
        if not callable(work):
            raise DataError("`work` must be an async function", operation="run_transaction")
        options.check()
        # By place: what a `partial` has set by name counts as a parameter too.
        given = any(each.kind in _BY_PLACE for each in inspect.signature(work).parameters.values())
        return await self._transactions.run(
            lambda transaction: work(Transaction(transaction, self)) if given else work(),
            attempts=attempts,
            options=options,
        )

    def current(self) -> ambient.Transaction | None:
        """Return the innermost transaction of this task. Raises: TransactionError if it is another task's."""
        return self._transactions.current()

    def named(self, entity: str) -> type[Repository]:
        """Return the repository of an entity. Raises: AttributeError if there is none."""
        for each in self._repositories:
            if each.entity() == entity:
                return each
        raise AttributeError(f"a transaction has no `{entity}`; it has {', '.join(sorted(self._offering()))}")

    def effects(self, repository: type[Repository], transaction: Transaction) -> Effects[Any]:
        """Return what a repository offers. Raises: ConfigurationError if that is nothing."""
        wired = self._repositories.get(repository)
        name = repository.__name__
        if wired is None:
            raise ConfigurationError(f"{name} is not wired: pass it as MultiDB(repositories=[{name}])")
        if repository.effects is None:
            why = (
                f"is of PostgreSQL: call `db.{repository.entity()}`, which joins the transaction"
                if repository.store == "postgres"
                else "has no calls that can follow a commit"
            )
            raise ConfigurationError(
                f"`{repository.entity()}` {why}; a transaction offers {', '.join(sorted(self._offering()))}"
            )
        tell = transaction._tell  # noqa: SLF001 - the one way to it, and not for those who call
        return repository.effects(wired, repository.entity(), tell)

    def _offering(self) -> Iterator[str]:
        return (each.entity() for each in self._repositories if each.effects is not None)
