"""`MultiDB`: the three stores as one, wired."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, cast
from uuid import UUID

from typing_extensions import Unpack

from multidb.cache.aside import CacheAside, uncached
from multidb.cache.decorator import CachedFunction, Declaration
from multidb.cache.policy import CacheOptions, CachePolicy
from multidb.connections import ConnectionManager
from multidb.errors import ConfigurationError, DataError
from multidb.models.health import Health
from multidb.models.prologue import Prologue
from multidb.registry import BUILT_IN, route_all
from multidb.repositories.ai_processing_results import AiProcessingResultRepository
from multidb.repositories.api_request_logs import ApiRequestLogRepository
from multidb.repositories.audit_logs import AuditLogRepository
from multidb.repositories.calendar_events import CalendarEventRepository
from multidb.repositories.companies import CompanyRepository
from multidb.repositories.company_users import CompanyUserRepository
from multidb.repositories.counters import CounterRepository
from multidb.repositories.document_metadata import DocumentMetadataRepository
from multidb.repositories.documents import DocumentRepository
from multidb.repositories.dynamic_configurations import DynamicConfigurationRepository
from multidb.repositories.form_submissions import FormSubmissionRepository
from multidb.repositories.forms import FormRepository
from multidb.repositories.jobs import JobRepository
from multidb.repositories.kanban_boards import KanbanBoardRepository
from multidb.repositories.kanban_cards import KanbanCardRepository
from multidb.repositories.kanban_columns import KanbanColumnRepository
from multidb.repositories.locks import LockRepository
from multidb.repositories.presence import PresenceRepository
from multidb.repositories.prologue import Requests
from multidb.repositories.rate_limits import RateLimitRepository, Rates
from multidb.repositories.realtime_events import RealtimeEventRepository
from multidb.repositories.redaction import Redact, Redactor
from multidb.repositories.repository import Repository, Resources
from multidb.repositories.sessions import SessionRepository
from multidb.repositories.system_logs import SystemLogRepository
from multidb.repositories.unit_of_work import Transaction, Work
from multidb.repositories.uploads import UploadRepository
from multidb.repositories.usage_analytics import UsageAnalyticsRepository
from multidb.repositories.user_activity_logs import UserActivityLogRepository
from multidb.repositories.user_profiles import UserProfileRepository
from multidb.repositories.user_sessions import UserSessionRepository
from multidb.repositories.users import UserRepository
from multidb.settings import Settings
from multidb.stores.cursor import CursorCodec
from multidb.stores.mongo.client import MongoStore
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.postgres.transactions import Isolation, Options
from multidb.stores.redis.client import RedisStore
from multidb.stores.scope import EVERYBODY, Scope

__all__ = ["MultiDB"]

P = ParamSpec("P")
R = TypeVar("R")
RepositoryT = TypeVar("RepositoryT", bound=Repository)


class MultiDB:
    """PostgreSQL, MongoDB and Redis as one typed data layer.

    ::

        async with MultiDB() as db:
            user = await db.users.add(NewUser(email="ada@example.com", name="Ada"))

    `settings` are read from MULTIDB_* and `.env` if not given; `repositories` are the
    application's own, found again as `db[InvoiceRepository]`. `redact` returns what may be stored of
    a log entry, given as a document, and is called from worker threads too; without it that is a
    `Redactor`. There is no I/O until it is opened. One object serves all tasks of one event loop.

    Raises: ConfigurationError if a setting or a repository's declaration is wrong.
    """

    companies: CompanyRepository
    users: UserRepository
    user_profiles: UserProfileRepository
    company_users: CompanyUserRepository
    user_sessions: UserSessionRepository
    documents: DocumentRepository
    jobs: JobRepository
    forms: FormRepository
    calendar_events: CalendarEventRepository
    kanban_boards: KanbanBoardRepository
    kanban_columns: KanbanColumnRepository
    kanban_cards: KanbanCardRepository
    audit_logs: AuditLogRepository
    system_logs: SystemLogRepository
    user_activity_logs: UserActivityLogRepository
    api_request_logs: ApiRequestLogRepository
    usage_analytics: UsageAnalyticsRepository
    document_metadata: DocumentMetadataRepository
    ai_processing_results: AiProcessingResultRepository
    form_submissions: FormSubmissionRepository
    dynamic_configurations: DynamicConfigurationRepository
    realtime_events: RealtimeEventRepository
    sessions: SessionRepository
    rate_limits: RateLimitRepository
    presence: PresenceRepository
    uploads: UploadRepository
    locks: LockRepository
    counters: CounterRepository

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        repositories: Sequence[type[Repository]] = (),
        redact: Redact | None = None,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        self._connections = ConnectionManager(self.settings)
        #: What is cached: its metrics, and the tags.
        self.cache = CacheAside(self._connections.redis, self._connections.postgres, self.settings)
        self._connections.before_closing.append(self.cache.close)
        self.routes = route_all([*BUILT_IN, *repositories], local=self.settings.cache_local)
        self._repositories: dict[type[Repository], Repository] = {}
        resources = Resources(
            settings=self.settings,
            postgres=self._connections.postgres,
            mongo=self._connections.mongo,
            redis=self._connections.redis,
            cache=self.cache,
            cursors=CursorCodec(self.settings.derive_key("cursor")),
            redact=redact or Redactor(self.settings.redacted_keys),
            before_closing=self._connections.before_closing,
            after_closing=self._connections.after_closing,
            repositories=self._repositories,
        )
        for each in (*BUILT_IN, *repositories):
            self._repositories[each] = each(resources)
        self._work = Work(resources)
        self.outbox, self.relay = self._work.outbox, self._work.relay
        for each in BUILT_IN:
            setattr(self, each.entity(), self._repositories[each])
        self._requests = Requests(resources)

    def __getitem__(self, repository: type[RepositoryT]) -> RepositoryT:
        """Return the repository of this class."""
        try:
            return cast(RepositoryT, self._repositories[repository])
        except KeyError:
            name = repository.__name__
            raise ConfigurationError(
                f"{name} is not wired: pass it as MultiDB(repositories=[{name}])"
            ) from None

    # --- opening and closing

    @classmethod
    @asynccontextmanager
    async def embedded(
        cls,
        directory: str | Path = ".multidb",
        *,
        repositories: Sequence[type[Repository]] = (),
        migration_paths: Sequence[Path] = (),
        schema_paths: Sequence[Path] = (),
        progress: Callable[[str], None] | None = None,
    ) -> AsyncIterator[Self]:
        """Start real servers in `directory`, bring their schemas up to date, and open.

        Needs `multidb[embedded]`. Servers that run there already are used and left running;
        those started here stop at the end. The data stays. `migration_paths` are folders of the
        application's own revisions, `schema_paths` of its collections' schemas, else those of the
        settings of these names. `progress` is called with one short line a step, from more than
        one thread.
        """
        # The one import that points up: this convenience is the top of the house.
        from multidb.ops.embedded import provisioned

        async with (
            provisioned(
                Path(directory), migration_paths=migration_paths, schema_paths=schema_paths, progress=progress
            ) as settings,
            cls(settings, repositories=repositories) as db,
        ):
            yield db

    async def open(self) -> None:
        """Connect to the stores, within `Settings.open_timeout`. Idempotent.

        Raises: UnavailableError, or ConfigurationError for what a server refuses; then nothing
        is left open.
        """
        await self._connections.open()
        if self.settings.relay:
            self.relay.start()

    async def close(self) -> None:
        """Finish the calls under way, then close every connection. Idempotent; may be opened again."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.__aexit__(kind, error, trace)

    async def health(self) -> Health:
        """Return how each store does: answer, latency, version, role, pool. Never raises.

        Takes at most `Settings.health_timeout`.
        """
        return await self._connections.health()

    # --- how a request begins

    async def request(
        self, token: str, endpoint: str, *, rate: Rates | None = None, cost: int = 1
    ) -> Prologue:
        """Check a token and touch its session, hold the request to its limits, and count it.

        In one round trip to Redis, and atomic: `session, decision = await db.request(...)`. Where the
        token opens no session, both are None and nothing has happened. Where a limit refuses, the session
        was used and its user is there, in `presence` with the session's id as device; the request is not
        counted. Else it counts for the limits, `cost` against each, and for `counters`, stored within a
        second, and lost if the process is killed before. `rate` is one rate or several, or None for none.

        Raises: UnavailableError if Redis cannot be reached, whatever the outage policy, for then
        nobody knows whose request it is; DataError. Not idempotent.
        Source: Redis `session:user:{user_id}`, `rate_limit:user:{user_id}:{endpoint}`,
        `realtime:user:{user_id}:presence`, `counter:api_calls:{endpoint}:{date}`.
        """
        return await self._requests.begin(token, endpoint, rate, cost)

    # --- one unit of work

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        timeout: timedelta | None = None,
        actor: str | None = None,
        request_id: str | None = None,
    ) -> AbstractAsyncContextManager[Transaction]:
        """Begin a PostgreSQL transaction that every repository called in this task joins.

        It commits at the end of the block, and rolls back on an error, on a cancellation, and when
        `timeout` has passed before its end. Nested, it is a savepoint, and takes no options. It
        covers PostgreSQL alone: writes to MongoDB and Redis made inside happen at once, and stay
        if it rolls back. Called through what the block gets, `tx.system_logs.append(...)`, they
        follow the commit for certain (`docs/outbox.md`). `tx.on_commit` runs a function after it.
        `actor` and `request_id` stand in the audit log beside what it changes.

        Raises: UnavailableError if the connection breaks: during the commit, whether it
        happened is not known. StoreTimeoutError. TransactionError if the ambient transaction is
        another task's, or a statement in this one failed and its error was caught; ConflictError,
        retryable, if PostgreSQL cannot put concurrent transactions in an order.
        """
        options = Options(
            isolation=isolation, read_only=read_only, timeout=timeout, actor=actor, request_id=request_id
        )
        return self._work.begin(options)

    async def run_transaction(
        self,
        work: Callable[[], Awaitable[R]] | Callable[[Transaction], Awaitable[R]],
        *,
        attempts: int = 5,
        isolation: Isolation | None = None,
        read_only: bool = False,
        timeout: timedelta | None = None,  # noqa: ASYNC109 - of the transaction, and it rolls back
        actor: str | None = None,
        request_id: str | None = None,
    ) -> R:
        """Run `work` inside `transaction(...)` and return what it returns, replayed where that may help.

        It is called again from the start, up to `attempts` times in all and after a short pause at
        random, when PostgreSQL says that another try may succeed: a serialization failure, a
        deadlock, a statement whose table was changed. So `work` must do nothing outside
        PostgreSQL that must not happen twice; `on_commit` is for that. Inside a transaction it
        runs once, for only the whole can be replayed. If `work` has a parameter, it is given the
        transaction.

        Raises: what `transaction` does, and what `work` raises.
        """
        if type(attempts) is not int or attempts < 1:
            raise DataError("`attempts` must be a whole number from 1", operation="run_transaction")
        options = Options(
            isolation=isolation, read_only=read_only, timeout=timeout, actor=actor, request_id=request_id
        )
        return await self._work.run(work, attempts=attempts, options=options)

    def mongo_transaction(self) -> AbstractAsyncContextManager[None]:
        """Begin a MongoDB transaction that every repository of documents called in this task joins.

        It commits at the end of the block, and rolls back on an error or a cancellation; nested, it
        joins the one that is there. It covers MongoDB alone, and is not atomic with PostgreSQL,
        around it or inside: one of the two may commit and the other not.

        Raises: UnavailableError if the connection breaks: during the commit, whether it happened is
        not known. ConflictError, retryable, if another transaction changes the same documents.
        TransactionError if the ambient transaction is another task's, or a call in this one failed
        and its error was caught; ConfigurationError if the server is no member of a replica set.
        """
        return self._connections.mongo.transactions.begin()

    async def run_mongo_transaction(self, work: Callable[[], Awaitable[R]], *, attempts: int = 5) -> R:
        """Run `work` inside `mongo_transaction()` and return what it returns, replayed where that may help.

        It is called again from the start, up to `attempts` times in all and after a short pause at
        random, when the transaction was rolled back for a conflict with another or for a connection
        that broke. So `work` must do nothing outside MongoDB that must not happen twice. Inside a
        transaction it runs once, for only the whole can be replayed.

        Raises: what `mongo_transaction` does, and what `work` raises.
        """
        if type(attempts) is not int or attempts < 1:
            raise DataError("`attempts` must be a whole number from 1", operation="run_mongo_transaction")
        return await self._connections.mongo.transactions.run(work, attempts=attempts)

    # --- whose rows

    def tenant(self, company_id: UUID) -> Scope:
        """Make every call inside the block about this company's rows only, `async with db.tenant(id):`.

        Repositories of rows that belong to companies then read, change and add no others', and row
        level security in PostgreSQL holds them to it. Users, their profiles and sessions belong to
        no company. It reaches the tasks started inside; blocks may be nested, the inner one counts.

        Raises: DataError if `company_id` is not a UUID.
        """
        if not isinstance(company_id, UUID):
            raise DataError(
                f"`company_id` must be a UUID, not {type(company_id).__name__}", operation="tenant"
            )
        return Scope(company_id)

    def unscoped(self) -> Scope:
        """Make every call inside the block about all companies' rows, `async with db.unscoped():`."""
        return Scope(EVERYBODY)

    # --- the cache

    def cached(
        self, key: str, *, ttl: timedelta, tags: Sequence[str] = (), **options: Unpack[CacheOptions]
    ) -> Callable[[Callable[P, Awaitable[R]]], CachedFunction[P, R]]:
        """Keep what an async function returns in Redis, at `key`, for `ttl`.

        `key` names parameters of the function in braces: `"cache:user:{user_id}"`. The return
        annotation decides how values are stored: pydantic models, dataclasses, TypedDicts,
        builtins and containers of them. Calls that meet share one call of the function, also those
        of other processes. While Redis is away, and inside a transaction and `uncached()`, the
        function itself is called.

        `tags` are keys too: `db.cache.invalidate_tag` forgets all that bears one. What `options`
        there are, `CacheOptions` says.

        The result is called like the function, and has `.invalidate`, `.refresh` and `.peek` with the
        same parameters, and `.many(ids)`. May be used before the database is open.

        Raises: ConfigurationError, when decorating, for a key, an option or an annotation that
        does not fit.
        """
        policy = CachePolicy(key, ttl, **options)

        def decorate(function: Callable[P, Awaitable[R]]) -> CachedFunction[P, R]:
            return CachedFunction(Declaration(function, policy, tags), function, self.cache)

        return decorate

    def uncached(self) -> AbstractContextManager[None]:
        """Make reads inside the block go to the store itself, and leave the cache as it is."""
        return uncached()

    # --- the hatches

    @property
    def postgres(self) -> PostgresStore:
        """PostgreSQL itself; `.engine` is SQLAlchemy's AsyncEngine."""
        return self._connections.postgres

    @property
    def mongo(self) -> MongoStore:
        """MongoDB itself; `.database` is the driver's database object."""
        return self._connections.mongo

    @property
    def redis(self) -> RedisStore:
        """Redis itself; `.client` is redis-py's asyncio client."""
        return self._connections.redis
