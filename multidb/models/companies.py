"""Companies: the tenants that users, documents and jobs belong to."""

from datetime import datetime
from uuid import UUID

import pydantic

from multidb.models.entity import Model, Row
from multidb.models.fields import UNCHANGED, Name, Slug, UtcDatetime
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

__all__ = ["Company", "CompanyChanges", "CompanyFields", "NewCompany"]


class Company(Row):
    """A company as it is stored."""

    name: Name
    slug: Slug
    deleted_at: UtcDatetime | None = None


class NewCompany(Model):
    """A company to add.

    The id is made here unless the caller brings one, so that adding the same thing again after a
    lost answer is refused and not stored twice.
    """

    id: UUID = pydantic.Field(default_factory=uuid7)
    name: Name
    slug: Slug


class CompanyChanges(Model):
    """What may change about a company; fields not given stay as they are."""

    name: Name = UNCHANGED
    slug: Slug = UNCHANGED


class CompanyFields(RowFields):
    """The fields of a company, for filters and orders."""

    name: Field[str]
    slug: Field[str]
    deleted_at: Field[datetime | None]
