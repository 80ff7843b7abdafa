"""Health: what each store answers when it is asked how it does."""

from datetime import timedelta
from typing import Literal

from multidb.models.entity import Model
from multidb.models.outbox import OutboxStats

__all__ = ["Health", "PoolUsage", "Role", "StoreHealth"]

#: What the server is among its replicas. `primary` takes writes.
Role = Literal["primary", "replica", "unknown"]


class PoolUsage(Model):
    """The connections one client holds."""

    #: Open connections.
    size: int
    #: Those of them that are working for someone; None where the client does not tell.
    in_use: int | None
    #: The most there may be.
    limit: int


class StoreHealth(Model):
    """One store's answer, or why there is none."""

    ok: bool
    #: Whether the application needs this store: not one of `Settings.degradable_stores`.
    required: bool
    #: One round trip, a free connection included; None where no answer came.
    latency: timedelta | None = None
    version: str | None = None
    role: Role = "unknown"
    pool: PoolUsage | None = None
    #: What is wrong, in a sentence; None when all is well.
    detail: str | None = None


class Health(Model):
    """How the stores do. `ok` says whether every required one answers."""

    ok: bool
    postgres: StoreHealth
    mongo: StoreHealth
    redis: StoreHealth
    #: What commits have promised to MongoDB and Redis, undelivered; None where PostgreSQL does not tell.
    outbox: tuple[OutboxStats, ...] | None = None
