"""Sessions: who is signed in, on which device."""

from typing import Annotated
from uuid import UUID

from pydantic import StringConstraints

from multidb.models.entity import Entity
from multidb.models.fields import UtcDatetime

__all__ = ["Session"]


class Session(Entity):
    """A live session. It never holds the token that opens it.

    `id` may be shown to the user and to support staff; it opens nothing.
    """

    user_id: UUID
    device: Annotated[str, StringConstraints(max_length=200)] | None = None
    created_at: UtcDatetime
    expires_at: UtcDatetime
