"""User activity: what the users of an application did."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from multidb.models.entity import Entity, Model
from multidb.models.fields import PERSONAL, IpAddress, UserAgent, UtcMilliseconds, utc_now
from multidb.models.filters import EntityFields
from multidb.models.filters import Field as FieldOf
from multidb.models.ids import uuid7
from multidb.models.system_logs import RequestId

__all__ = ["ActiveUsers", "Cohort", "FunnelStep", "UserActivityLog", "UserActivityLogFields"]

#: What was done, or to what kind of thing: one of few words, such as `document.opened`.
_Word = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class UserActivityLog(Entity):
    """One thing a user did. The caller makes it; it never changes."""

    id: UUID = Field(default_factory=uuid7)
    timestamp: UtcMilliseconds = Field(default_factory=utc_now)
    user_id: UUID
    action: _Word
    #: What it was done to: its kind, such as `document`, and its id there.
    resource_kind: _Word | None = None
    resource_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    session_id: UUID | None = None
    request_id: RequestId | None = None
    ip: Annotated[IpAddress, PERSONAL] | None = None
    user_agent: Annotated[UserAgent, PERSONAL] | None = None
    metadata: dict[str, Any] = {}


class UserActivityLogFields(EntityFields):
    """The fields of a user activity log."""

    timestamp: FieldOf[datetime]
    user_id: FieldOf[UUID]
    action: FieldOf[str]
    resource_kind: FieldOf[str | None]
    resource_id: FieldOf[str | None]
    session_id: FieldOf[UUID | None]
    request_id: FieldOf[str | None]
    ip: FieldOf[str | None]
    user_agent: FieldOf[str | None]
    metadata: FieldOf[dict[str, Any]]


class ActiveUsers(Model):
    """How many users did something in the day, week or month that begins at `start`."""

    start: UtcMilliseconds
    users: int = 0


class FunnelStep(Model):
    """How many users came as far as this step."""

    action: str
    users: int


class Cohort(Model):
    """The users who were first seen in the window that begins at `start`."""

    start: UtcMilliseconds
    users: int
    #: How many of them were seen in this window, which is all, in the next, and so on.
    retained: tuple[int, ...]
