"""API requests: what a service was asked, how it answered, and how long that took."""

from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from pydantic import Field, StringConstraints

from multidb.models.entity import Entity
from multidb.models.fields import UtcMilliseconds, utc_now
from multidb.models.ids import uuid7
from multidb.models.system_logs import RequestId, Service

__all__ = ["ApiRequestLog", "HttpMethod"]

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
