"""The entities, one family a file."""

from multidb.models.ai_processing_results import (
    AiProcessingLog,
    AiProcessingResult,
    AiProcessingResultChanges,
    NewAiProcessingResult,
)
from multidb.models.api_request_logs import (
    ApiRequestLog,
    HttpMethod,
    RequestShare,
    RequestStats,
    RequestWindow,
)
from multidb.models.audit_logs import AuditAction, AuditLog
from multidb.models.calendar_events import CalendarEvent, CalendarEventChanges, NewCalendarEvent
from multidb.models.companies import Company, CompanyChanges, NewCompany
from multidb.models.company_users import CompanyRole, CompanyUser, CompanyUserChanges, NewCompanyUser
from multidb.models.counters import EndpointCount
from multidb.models.document_metadata import (
    DocumentMetadata,
    DocumentMetadataChanges,
    NewDocumentMetadata,
)
from multidb.models.documents import Document, DocumentChanges, DocumentMatch, DocumentStatus, NewDocument
from multidb.models.dynamic_configurations import ConfigurationVersion, DynamicConfiguration
from multidb.models.emitted import Emitted
from multidb.models.entity import Entity, Model, Related, Row, VersionedDocument
from multidb.models.fields import PERSONAL, SECRET, UNCHANGED, UtcDatetime
from multidb.models.filters import Condition, EntityFields, Field, Fields, Order, RowFields, VersionedFields
from multidb.models.form_submissions import FormSubmission, NewFormSubmission
from multidb.models.forms import Form, FormChanges, NewForm
from multidb.models.health import Health, PoolUsage, StoreHealth
from multidb.models.ids import uuid7
from multidb.models.jobs import Backoff, Heartbeat, Job, JobChanges, JobState, NewJob, QueueStats
from multidb.models.kanban import (
    KanbanBoard,
    KanbanBoardChanges,
    KanbanCard,
    KanbanCardChanges,
    KanbanColumn,
    KanbanColumnChanges,
    NewKanbanBoard,
    NewKanbanCard,
    NewKanbanColumn,
)
from multidb.models.outbox import OutboxStats, UndeliveredEffect
from multidb.models.page import Page
from multidb.models.presence import PresenceEvent
from multidb.models.prologue import Prologue
from multidb.models.rate_limits import Decision, Quota, Rate
from multidb.models.realtime_events import RealtimeEvent
from multidb.models.sessions import Session
from multidb.models.system_logs import LogLevel, SystemLog
from multidb.models.uploads import Upload
from multidb.models.usage_analytics import Bucket, Usage, UsageAnalytics, UsageShare, UsageWindow
from multidb.models.user_activity_logs import ActiveUsers, Cohort, FunnelStep, UserActivityLog
from multidb.models.user_profiles import NewUserProfile, UserProfile, UserProfileChanges
from multidb.models.user_sessions import NewUserSession, UserSession, UserSessionChanges
from multidb.models.users import NewUser, User, UserChanges

__all__ = [
    "PERSONAL",
    "SECRET",
    "UNCHANGED",
    "ActiveUsers",
    "AiProcessingLog",
    "AiProcessingResult",
    "AiProcessingResultChanges",
    "ApiRequestLog",
    "AuditAction",
    "AuditLog",
    "Backoff",
    "Bucket",
    "CalendarEvent",
    "CalendarEventChanges",
    "Cohort",
    "Company",
    "CompanyChanges",
    "CompanyRole",
    "CompanyUser",
    "CompanyUserChanges",
    "Condition",
    "ConfigurationVersion",
    "Decision",
    "Document",
    "DocumentChanges",
    "DocumentMatch",
    "DocumentMetadata",
    "DocumentMetadataChanges",
    "DocumentStatus",
    "DynamicConfiguration",
    "Emitted",
    "EndpointCount",
    "Entity",
    "EntityFields",
    "Field",
    "Fields",
    "Form",
    "FormChanges",
    "FormSubmission",
    "FunnelStep",
    "Health",
    "Heartbeat",
    "HttpMethod",
    "Job",
    "JobChanges",
    "JobState",
    "KanbanBoard",
    "KanbanBoardChanges",
    "KanbanCard",
    "KanbanCardChanges",
    "KanbanColumn",
    "KanbanColumnChanges",
    "LogLevel",
    "Model",
    "NewAiProcessingResult",
    "NewCalendarEvent",
    "NewCompany",
    "NewCompanyUser",
    "NewDocument",
    "NewDocumentMetadata",
    "NewForm",
    "NewFormSubmission",
    "NewJob",
    "NewKanbanBoard",
    "NewKanbanCard",
    "NewKanbanColumn",
    "NewUser",
    "NewUserProfile",
    "NewUserSession",
    "Order",
    "OutboxStats",
    "Page",
    "PoolUsage",
    "PresenceEvent",
    "Prologue",
    "QueueStats",
    "Quota",
    "Rate",
    "RealtimeEvent",
    "Related",
    "RequestShare",
    "RequestStats",
    "RequestWindow",
    "Row",
    "RowFields",
    "Session",
    "StoreHealth",
    "SystemLog",
    "UndeliveredEffect",
    "Upload",
    "Usage",
    "UsageAnalytics",
    "UsageShare",
    "UsageWindow",
    "User",
    "UserActivityLog",
    "UserChanges",
    "UserProfile",
    "UserProfileChanges",
    "UserSession",
    "UserSessionChanges",
    "UtcDatetime",
    "VersionedDocument",
    "VersionedFields",
    "uuid7",
]
