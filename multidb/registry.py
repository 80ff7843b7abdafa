"""The registry: every entity, its store, and where in it the entity lives.

A repository declares its entity; this module lists them all, and is what `multidb routes` prints.
"""

from collections.abc import Collection
from dataclasses import dataclass

from multidb.errors import ConfigurationError, StoreName
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
from multidb.repositories.postgres_reader import PostgresReader
from multidb.repositories.presence import PresenceRepository
from multidb.repositories.rate_limits import RateLimitRepository
from multidb.repositories.realtime_events import RealtimeEventRepository
from multidb.repositories.repository import Repository
from multidb.repositories.sessions import SessionRepository
from multidb.repositories.system_logs import SystemLogRepository
from multidb.repositories.uploads import UploadRepository
from multidb.repositories.usage_analytics import UsageAnalyticsRepository
from multidb.repositories.user_activity_logs import UserActivityLogRepository
from multidb.repositories.user_profiles import UserProfileRepository
from multidb.repositories.user_sessions import UserSessionRepository
from multidb.repositories.users import UserRepository

__all__ = ["BUILT_IN", "ROUTES", "Route", "route_all"]


@dataclass(frozen=True, slots=True)
class Route:
    """Where an entity lives."""

    #: The attribute on `MultiDB`.
    entity: str
    store: StoreName
    #: Table, collection or key pattern.
    target: str
    #: The class that serves it; None where there is none yet.
    repository: str | None = None


#: The repositories `MultiDB` always has.
BUILT_IN: tuple[type[Repository], ...] = (
    CompanyRepository,
    UserRepository,
    UserProfileRepository,
    CompanyUserRepository,
    UserSessionRepository,
    DocumentRepository,
    JobRepository,
    FormRepository,
    CalendarEventRepository,
    KanbanBoardRepository,
    KanbanColumnRepository,
    KanbanCardRepository,
    AuditLogRepository,
    SystemLogRepository,
    UserActivityLogRepository,
    ApiRequestLogRepository,
    UsageAnalyticsRepository,
    DocumentMetadataRepository,
    AiProcessingResultRepository,
    FormSubmissionRepository,
    DynamicConfigurationRepository,
    RealtimeEventRepository,
    SessionRepository,
    RateLimitRepository,
    PresenceRepository,
    UploadRepository,
    LockRepository,
    CounterRepository,
)

_PLANNED = (Route("cache", "redis", "cache:user:{user_id}"),)


def route_all(
    repositories: Collection[type[Repository]], *, local: Collection[str] = ()
) -> tuple[Route, ...]:
    """Return the routes of these repositories, each checked; `local` is `Settings.cache_local`.

    Raises: ConfigurationError if one is declared wrongly, two claim the same, or none is `local`.
    """
    routes: list[Route] = []
    taken: dict[str, type[Repository]] = {}
    for repository in repositories:
        repository.check()
        for claim in repository.claims():
            other = taken.setdefault(claim, repository)
            if other is not repository:
                raise ConfigurationError(f"{repository.__name__} and {other.__name__} both claim the {claim}")
        route = Route(repository.entity(), repository.store, repository.target(), repository.__name__)
        if route in routes:
            raise ConfigurationError(f"{repository.__name__} is given twice")
        routes.append(route)
    for repository in repositories:
        if issubclass(repository, PostgresReader):
            for name, relation in repository.relations.items():
                if relation.entity not in {route.entity for route in routes if route.store == "postgres"}:
                    raise ConfigurationError(
                        f"{repository.__name__}: `{name}` is about `{relation.entity}`, which is not wired"
                    )
    cached = {each.entity() for each in repositories if issubclass(each, PostgresReader) and each.cache}
    if strangers := sorted(set(local) - cached):
        raise ConfigurationError(
            f"MULTIDB_CACHE_LOCAL must name entities whose rows are cached: `{strangers[0]}` is none; "
            f"there is {', '.join(sorted(cached))}"
        )
    return tuple(routes)


_ORDER: tuple[StoreName, ...] = ("postgres", "mongo", "redis")

#: Every entity multidb knows, by store.
ROUTES: tuple[Route, ...] = tuple(
    sorted((*route_all(BUILT_IN), *_PLANNED), key=lambda route: _ORDER.index(route.store))
)
