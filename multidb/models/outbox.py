"""The outbox: what commits have promised to MongoDB and Redis, and how far its delivery is."""

from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from multidb.models.entity import Entity, Model
from multidb.models.fields import UtcDatetime, UtcMilliseconds

__all__ = ["OutboxStats", "StreamPosition", "UndeliveredEffect"]


class UndeliveredEffect(Entity):
    """An effect that a commit has promised, and that is not had yet."""

    #: Of one stream it grows in the order of the commits.
    version: int
    store: Literal["mongo", "redis"]
    #: As in `system_logs.append`.
    effect: str
    payload: dict[str, Any]
    #: The bytes of the document that is to be stored; None where there is none.
    document_size: int | None
    #: What is delivered in order; None for what waits for nothing.
    stream: str | None
    #: Whose call it was: the company of `db.tenant(...)`.
    tenant: UUID | None
    created_at: UtcDatetime
    #: When it is tried again.
    due_at: UtcDatetime
    #: How often it failed.
    attempts: int
    error: str | None
    #: When it was given up, until somebody decides; what follows it in its stream waits.
    dead_at: UtcDatetime | None


class OutboxStats(Model):
    """What waits for one store."""

    store: Literal["mongo", "redis"]
    #: How many effects are not delivered, the dead ones included; of more than 100,000, that number.
    depth: int
    #: How long the first of those that are not dead has waited.
    lag: timedelta
    #: How many have failed, and are tried again.
    failing: int
    #: How many were given up, and wait for `retry` or `skip`.
    dead: int


class StreamPosition(Entity):
    """How far a stream has come on MongoDB. The id is made of the stream's name."""

    stream: str
    version: int
    passed_at: UtcMilliseconds
