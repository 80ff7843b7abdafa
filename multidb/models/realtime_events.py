"""Realtime events: what the listeners of a channel are told, now or when they come back."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from multidb.models.entity import Entity
from multidb.models.fields import UtcMilliseconds, utc_now
from multidb.models.ids import uuid7

__all__ = ["RealtimeEvent"]


class RealtimeEvent(Entity):
    """One event of a channel. The caller makes it; it never changes.

    Ids are in the order of time, of one process to the millisecond and in sequence within it; of
    several as far as their clocks agree.
    """

    id: UUID = Field(default_factory=uuid7)
    timestamp: UtcMilliseconds = Field(default_factory=utc_now)
    channel: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    #: What happened, such as `message.posted`.
    kind: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    payload: dict[str, Any] = {}
    #: Who caused it.
    user_id: UUID | None = None
