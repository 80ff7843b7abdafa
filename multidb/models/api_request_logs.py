"""API requests: what a service was asked, how it answered, and how long that took."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from pydantic import Field, StringConstraints

from multidb.models.entity import Entity, Model
from multidb.models.fields import UtcMilliseconds, utc_now
from multidb.models.filters import EntityFields
from multidb.models.filters import Field as FieldOf
from multidb.models.ids import uuid7
from multidb.models.system_logs import RequestId, Service

__all__ = [
    "ApiRequestLog",
    "ApiRequestLogFields",
    "HttpMethod",
    "RequestShare",
    "RequestStats",
    "RequestWindow",
]

HttpMethod: TypeAlias = Literal[
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"
]

_Bytes = Annotated[int, Field(ge=0, lt=2**63)]


class ApiRequestLog(Entity):
    """One request. The caller makes it; it never changes."""

    id: UUID = Field(default_factory=uuid7)
    timestamp: UtcMilliseconds = Field(default_factory=utc_now)
    service: Service
    method: HttpMethod
    #: The route as it was declared, such as `/users/{id}`: few, where there are paths without number.
    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    status: Annotated[int, Field(ge=100, le=599)]
    #: In milliseconds.
    duration_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    user_id: UUID | None = None
    request_id: RequestId | None = None
    request_bytes: _Bytes | None = None
    response_bytes: _Bytes | None = None


class ApiRequestLogFields(EntityFields):
    """The fields of an API request."""

    timestamp: FieldOf[datetime]
    service: FieldOf[str]
    method: FieldOf[HttpMethod]
    endpoint: FieldOf[str]
    status: FieldOf[int]
    duration_ms: FieldOf[float]
    user_id: FieldOf[UUID | None]
    request_id: FieldOf[str | None]
    request_bytes: FieldOf[int | None]
    response_bytes: FieldOf[int | None]


class RequestStats(Model):
    """How many requests there were, how many failed, and how long they took, in milliseconds.

    A percentile is that of the nearest rank, at most 1% away; None where there were no requests.
    """

    requests: int = 0
    #: Answered with a status of 500 or above.
    errors: int = 0
    mean_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None

    @property
    def error_rate(self) -> float:
        """Errors by requests, from 0 to 1; 0 where there were none."""
        return self.errors / self.requests if self.requests else 0.0


class RequestWindow(RequestStats):
    """The requests of the minute, hour, day, week or month that begins at `start`."""

    start: UtcMilliseconds


class RequestShare(RequestStats):
    """The requests of one endpoint, service or method."""

    value: str
