"""Profiles: what users tell of themselves, one profile a user."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, Related, Row
from multidb.models.fields import PERSONAL, UNCHANGED, Name
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

if TYPE_CHECKING:
    from multidb.models.users import User

__all__ = ["NewUserProfile", "UserProfile", "UserProfileChanges", "UserProfileFields"]

_Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$", max_length=2000)]
_Bio = Annotated[str, StringConstraints(max_length=10_000)]
#: A language, as BCP 47 writes it: `de`, `pt-BR`, `zh-Hant-TW`.
_Locale = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*$", max_length=35)]
#: As the IANA data base names it: `Europe/Berlin`, `UTC`. Which there are changes by the year.
_Timezone = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*$", max_length=64)
]


class UserProfile(Row):
    """A profile as it is stored."""

    user_id: UUID
    display_name: Annotated[Name, PERSONAL] | None = None
    avatar_url: Annotated[_Url, PERSONAL] | None = None
    bio: Annotated[_Bio, PERSONAL] | None = None
    locale: _Locale | None = None
    timezone: _Timezone | None = None
    #: The application's own; any JSON.
    preferences: dict[str, Any] = {}

    user: ClassVar[Related["User"]] = Related()


class NewUserProfile(Model):
    """A profile to add. A user has one at most."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    user_id: UUID
    display_name: Name | None = None
    avatar_url: _Url | None = None
    bio: _Bio | None = None
    locale: _Locale | None = None
    timezone: _Timezone | None = None
    preferences: dict[str, Any] = {}


class UserProfileChanges(Model):
    """What may change about a profile; fields not given stay as they are."""

    display_name: Name | None = UNCHANGED
    avatar_url: _Url | None = UNCHANGED
    bio: _Bio | None = UNCHANGED
    locale: _Locale | None = UNCHANGED
    timezone: _Timezone | None = UNCHANGED
    preferences: dict[str, Any] = UNCHANGED


class UserProfileFields(RowFields):
    """The fields of a profile, for filters and orders."""

    user_id: Field[UUID]
    display_name: Field[str | None]
    avatar_url: Field[str | None]
    bio: Field[str | None]
    locale: Field[str | None]
    timezone: Field[str | None]
    preferences: Field[dict[str, Any]]
