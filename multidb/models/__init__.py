"""The entities, one family a file."""

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
from multidb.models.documents import Document, DocumentChanges, DocumentMatch, DocumentStatus, NewDocument
from multidb.models.emitted import Emitted
from multidb.models.entity import Entity, Model, Related, Row, VersionedDocument
from multidb.models.fields import PERSONAL, SECRET, UNCHANGED, UtcDatetime
from multidb.models.filters import Condition, EntityFields, Field, Fields, Order, RowFields, VersionedFields
from multidb.models.forms import Form, FormChanges, NewForm
from multidb.models.health import Health, PoolUsage, StoreHealth
from multidb.models.ids import uuid7
from multidb.models.jobs import Job, JobChanges, JobState, NewJob
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
from multidb.models.page import Page
from multidb.models.presence import PresenceEvent
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
    "ApiRequestLog",
    "AuditAction",
    "AuditLog",
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
    "Document",
    "DocumentChanges",
    "DocumentMatch",
    "DocumentStatus",
    "Emitted",
    "EndpointCount",
    "Entity",
    "EntityFields",
    "Field",
    "Fields",
    "Form",
    "FormChanges",
    "FunnelStep",
    "Health",
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
    "NewCalendarEvent",
    "NewCompany",
    "NewCompanyUser",
    "NewDocument",
    "NewForm",
    "NewJob",
    "NewKanbanBoard",
    "NewKanbanCard",
    "NewKanbanColumn",
    "NewUser",
    "NewUserProfile",
    "NewUserSession",
    "Order",
    "Page",
    "PoolUsage",
    "PresenceEvent",
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
