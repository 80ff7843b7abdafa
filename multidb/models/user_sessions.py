"""The history of sessions: who was signed in, from where, and until when.

Sessions that live are in Redis; what is here grants nothing.
"""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, Row
from multidb.models.fields import PERSONAL, UNCHANGED, Device, IpAddress, UserAgent, UtcDatetime, utc_now
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

__all__ = ["NewUserSession", "UserSession", "UserSessionChanges", "UserSessionFields"]

_Reason = Annotated[str, StringConstraints(pattern=r"\S", max_length=100)]


class UserSession(Row):
    """A session as it is remembered. `ended_at` is None while nobody has told of its end."""

    user_id: UUID
    device: Device | None = None
    ip: Annotated[IpAddress, PERSONAL] | None = None
    user_agent: Annotated[UserAgent, PERSONAL] | None = None
    started_at: UtcDatetime
    ended_at: UtcDatetime | None = None
    #: Such as `signed out`, `expired`, `revoked`.
    end_reason: _Reason | None = None


class NewUserSession(Model):
    """A session to remember; give it the live one's id, and the two can be told to be one."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    user_id: UUID
    device: Device | None = None
    ip: IpAddress | None = None
    user_agent: UserAgent | None = None
    started_at: UtcDatetime = pydantic.Field(default_factory=utc_now)
    ended_at: UtcDatetime | None = None
    end_reason: _Reason | None = None


class UserSessionChanges(Model):
    """What may change about a session: how it ended, and from where it was last used."""

    ip: IpAddress | None = UNCHANGED
    user_agent: UserAgent | None = UNCHANGED
    ended_at: UtcDatetime | None = UNCHANGED
    end_reason: _Reason | None = UNCHANGED


class UserSessionFields(RowFields):
    """The fields of a session, for filters and orders."""

    user_id: Field[UUID]
    device: Field[str | None]
    ip: Field[str | None]
    user_agent: Field[str | None]
    started_at: Field[datetime]
    ended_at: Field[datetime | None]
    end_reason: Field[str | None]
