"""Sessions: who is signed in, on which device."""

from typing import Annotated
from uuid import UUID

from multidb.models.entity import Entity
from multidb.models.fields import PERSONAL, Device, IpAddress, UserAgent, UtcDatetime

__all__ = ["Session"]


class Session(Entity):
    """A live session. It never holds the token that opens it.

    `id` may be shown to the user and to support staff; it opens nothing, and stays when the token
    is rotated.
    """

    user_id: UUID
    device: Device | None = None
    ip: Annotated[IpAddress, PERSONAL] | None = None
    user_agent: Annotated[UserAgent, PERSONAL] | None = None
    created_at: UtcDatetime
    #: When it was last used, to within `Settings.session_touch_interval`.
    last_seen_at: UtcDatetime
    #: When it ends at the latest; unused, it ends earlier.
    expires_at: UtcDatetime
