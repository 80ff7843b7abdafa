"""System logs: what the services of an application report."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from multidb.models.entity import Entity
from multidb.models.fields import UtcMilliseconds, utc_now
from multidb.models.filters import EntityFields
from multidb.models.filters import Field as FieldOf
from multidb.models.ids import uuid7

__all__ = ["LogLevel", "RequestId", "Service", "SystemLog", "SystemLogFields"]

#: Which part of the application it was.
Service = Annotated[str, StringConstraints(min_length=1, max_length=100)]
#: What ties together all that was done for one request.
RequestId = Annotated[str, StringConstraints(max_length=200)]


class LogLevel(StrEnum):
    """How grave an entry is, as in the standard library's `logging`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class SystemLog(Entity):
    """One entry of a service's log. The caller makes it; it never changes."""

    id: UUID = Field(default_factory=uuid7)
    timestamp: UtcMilliseconds = Field(default_factory=utc_now)
    level: LogLevel
    service: Service
    message: Annotated[str, StringConstraints(max_length=100_000)]
    context: dict[str, Any] = {}
    user_id: UUID | None = None
    request_id: RequestId | None = None


class SystemLogFields(EntityFields):
    """The fields of a system log."""

    timestamp: FieldOf[datetime]
    level: FieldOf[LogLevel]
    service: FieldOf[str]
    message: FieldOf[str]
    context: FieldOf[dict[str, Any]]
    user_id: FieldOf[UUID | None]
    request_id: FieldOf[str | None]
