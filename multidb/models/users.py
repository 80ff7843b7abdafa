"""Users: people who may sign in."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, ClassVar
from uuid import UUID

import pydantic

from multidb.models.entity import Model, Related, Row
from multidb.models.fields import PERSONAL, UNCHANGED, Email, Name, UtcDatetime
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

if TYPE_CHECKING:
    from multidb.models.companies import Company
    from multidb.models.user_profiles import UserProfile

__all__ = ["NewUser", "User", "UserChanges", "UserFields"]


class User(Row):
    """A user as it is stored."""

    email: Annotated[Email, PERSONAL]
    name: Annotated[Name, PERSONAL]
    deleted_at: UtcDatetime | None = None

    profile: ClassVar[Related["UserProfile | None"]] = Related()
    #: Those the user is a member of.
    companies: ClassVar[Related["tuple[Company, ...]"]] = Related()


class NewUser(Model):
    """A user to add. No other living user may have the same e-mail, whatever its case.

    The id is made here unless the caller brings one, so that adding the same thing again after a
    lost answer is refused and not stored twice.
    """

    id: UUID = pydantic.Field(default_factory=uuid7)
    email: Email
    name: Name


class UserChanges(Model):
    """What may change about a user; fields not given stay as they are."""

    email: Email = UNCHANGED
    name: Name = UNCHANGED


class UserFields(RowFields):
    """The fields of a user, for filters and orders."""

    email: Field[str]
    name: Field[str]
    deleted_at: Field[datetime | None]
