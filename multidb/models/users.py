"""Users: people who may sign in."""

from uuid import UUID

from pydantic import Field

from multidb.models.entity import Model, Row
from multidb.models.fields import UNCHANGED, Email, Name, UtcDatetime
from multidb.models.ids import uuid7

__all__ = ["NewUser", "User", "UserChanges"]


class User(Row):
    """A user as it is stored."""

    email: Email
    name: Name
    deleted_at: UtcDatetime | None = None


class NewUser(Model):
    """A user to add. No other living user may have the same e-mail, whatever its case.

    The id is made here unless the caller brings one, so that adding the same thing again after a
    lost answer is refused and not stored twice.
    """

    id: UUID = Field(default_factory=uuid7)
    email: Email
    name: Name


class UserChanges(Model):
    """What may change about a user; fields not given stay as they are."""

    email: Email = UNCHANGED
    name: Name = UNCHANGED
