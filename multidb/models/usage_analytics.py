"""Usage: how often, and how much of, what an application counts; by hour, day and month of UTC."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Entity, Model
from multidb.models.fields import UtcMilliseconds
from multidb.models.filters import EntityFields, Field

__all__ = [
    "DIMENSIONS",
    "MOST",
    "Bucket",
    "Granularity",
    "Usage",
    "UsageAnalytics",
    "UsageAnalyticsFields",
    "UsageShare",
    "UsageWindow",
]

#: The windows of time that usage is added up in.
Granularity: TypeAlias = Literal["hour", "day", "month"]

#: How many dimensions one record may have.
DIMENSIONS = 8
#: The greatest amount of one record, and the least below zero: so much that no sum is more than eight bytes.
MOST = 10**12

Metric = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]*$", max_length=100)]
Dimension = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=50)]
Value = Annotated[str, StringConstraints(min_length=1, max_length=500)]
_Count = Annotated[int, pydantic.Field(ge=1)]


class Bucket(Model):
    """How many durations there were of about one length."""

    bucket: int
    count: _Count


class UsageAnalytics(Entity):
    """What was counted of one metric in one window, for one company, user and set of dimensions.

    A `tally` is what one process counted of an hour; hours are the sums of tallies, days of hours,
    and months of days.
    """

    by: Literal["tally", "hour", "day", "month"]
    start: UtcMilliseconds
    metric: Metric
    company_id: UUID | None = None
    user_id: UUID | None = None
    dimensions: dict[str, str] = {}
    #: How many records there were. It only grows, so of two states the one with more is the later.
    count: _Count
    #: Of their amounts.
    sum: int
    min: int
    max: int
    #: Of durations, where the metric is `api_requests`.
    histogram: tuple[Bucket, ...] | None = None
    #: The documents that this one is part of, by their granularity.
    part_of: dict[str, UUID] = {}
    #: There while it has changed since it was last added to them.
    pending: UUID | None = None
    expires_at: UtcMilliseconds | None = None


class UsageAnalyticsFields(EntityFields):
    """The fields of what was counted."""

    by: Field[str]
    start: Field[datetime]
    metric: Field[str]
    company_id: Field[UUID | None]
    user_id: Field[UUID | None]
    dimensions: Field[dict[str, str]]
    count: Field[int]
    sum: Field[int]
    min: Field[int]
    max: Field[int]
    histogram: Field[tuple[Bucket, ...] | None]
    part_of: Field[dict[str, UUID]]
    pending: Field[UUID | None]
    expires_at: Field[datetime | None]


class Usage(Model):
    """What was counted: how many records, of which amounts, by how many users that they named."""

    count: int = 0
    sum: int = 0
    #: None where nothing was counted.
    min: int | None = None
    max: int | None = None
    users: int = 0


class UsageWindow(Usage):
    """What was counted in the hour, day or month that begins at `start`."""

    start: UtcMilliseconds


class UsageShare(Usage):
    """What was counted for one company, one user, or one value of a dimension."""

    value: UUID | str
