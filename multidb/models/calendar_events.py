"""Calendar events: what happens when, with whom, and which room or car it takes."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, Row
from multidb.models.fields import UNCHANGED, Title, UtcDatetime
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

__all__ = ["CalendarEvent", "CalendarEventChanges", "CalendarEventFields", "NewCalendarEvent"]

_Description = Annotated[str, StringConstraints(max_length=10_000)]
_Location = Annotated[str, StringConstraints(max_length=500)]
_Attendees = Annotated[tuple[UUID, ...], pydantic.Field(max_length=1000)]


class CalendarEvent(Row):
    """An event as it is stored. It begins at `starts_at`, and is over at `ends_at`."""

    company_id: UUID
    #: A room, a car: living events of one resource never overlap.
    resource_id: UUID | None = None
    title: Title
    description: _Description | None = None
    location: _Location | None = None
    starts_at: UtcDatetime
    ends_at: UtcDatetime
    #: The ids of the users who take part.
    attendees: _Attendees = ()
    deleted_at: UtcDatetime | None = None


class NewCalendarEvent(Model):
    """An event to add. It must end after it starts, and find its resource free."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    resource_id: UUID | None = None
    title: Title
    description: _Description | None = None
    location: _Location | None = None
    starts_at: UtcDatetime
    ends_at: UtcDatetime
    attendees: _Attendees = ()


class CalendarEventChanges(Model):
    """What may change about an event; fields not given stay as they are."""

    resource_id: UUID | None = UNCHANGED
    title: Title = UNCHANGED
    description: _Description | None = UNCHANGED
    location: _Location | None = UNCHANGED
    starts_at: UtcDatetime = UNCHANGED
    ends_at: UtcDatetime = UNCHANGED
    attendees: _Attendees = UNCHANGED


class CalendarEventFields(RowFields):
    """The fields of an event, for filters and orders."""

    company_id: Field[UUID]
    resource_id: Field[UUID | None]
    title: Field[str]
    description: Field[str | None]
    location: Field[str | None]
    starts_at: Field[datetime]
    ends_at: Field[datetime]
    attendees: Field[tuple[UUID, ...]]
    deleted_at: Field[datetime | None]
