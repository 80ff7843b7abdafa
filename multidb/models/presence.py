"""Presence: who is there, and who comes and goes."""

from typing import Literal
from uuid import UUID

from multidb.models.entity import Model
from multidb.models.fields import UtcDatetime

__all__ = ["PresenceEvent"]


class PresenceEvent(Model):
    """A user has come, with a first device, or has left, with the last one."""

    kind: Literal["join", "leave"]
    user_id: UUID
    at: UtcDatetime
    #: Give it to `watch(after=...)`, and what happened after this event follows.
    cursor: str
