"""Users: people who may sign in."""

from multidb.models.entity import Model, Row
from multidb.models.fields import UNCHANGED, Email, Name, NewId, UtcDatetime

__all__ = ["NewUser", "User", "UserChanges"]


class User(Row):
    """A user as it is stored."""

    email: Email
    name: Name
    deleted_at: UtcDatetime | None = None


class NewUser(Model):
    """A user to add. No other living user may have the same e-mail, whatever its case."""

    id: NewId
    email: Email
    name: Name


class UserChanges(Model):
    """What may change about a user; fields not given stay as they are."""

    email: Email = UNCHANGED
    name: Name = UNCHANGED
