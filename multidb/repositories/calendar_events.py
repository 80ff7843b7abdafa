"""Calendar events: what happens when. PostgreSQL `calendar_events`, not cached."""

from typing import ClassVar

from multidb.models.calendar_events import (
    CalendarEvent,
    CalendarEventChanges,
    CalendarEventFields,
    NewCalendarEvent,
)
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["CalendarEventRepository"]


class CalendarEventRepository(PostgresRepository[CalendarEvent, NewCalendarEvent, CalendarEventChanges]):
    """The calls on calendar events."""

    c: ClassVar[CalendarEventFields]
    table = tables.calendar_events
    tenant = "company_id"
    unique = {
        "calendar_events_pkey": ("id",),
        "calendar_events_resource_id_excl": ("resource_id", "starts_at", "ends_at"),
    }
