"""Uploads: what is on its way to become a document."""

from uuid import UUID

from multidb.models.entity import Entity
from multidb.models.fields import UtcDatetime

__all__ = ["Upload"]


class Upload(Entity):
    """An upload under way. Its id is that of the document it will be."""

    user_id: UUID
    #: In bytes, as declared.
    size: int
    #: How many bytes are there.
    received: int
    #: How many of them without a gap from the beginning: there a client that lost count goes on.
    next_offset: int
    #: When it is given up.
    expires_at: UtcDatetime
