"""Companies: the tenants that users, documents and jobs belong to."""

from multidb.models.entity import Model, Row
from multidb.models.fields import UNCHANGED, Name, NewId, Slug, UtcDatetime

__all__ = ["Company", "CompanyChanges", "NewCompany"]


class Company(Row):
    """A company as it is stored."""

    name: Name
    slug: Slug
    deleted_at: UtcDatetime | None = None


class NewCompany(Model):
    """A company to add."""

    id: NewId
    name: Name
    slug: Slug


class CompanyChanges(Model):
    """What may change about a company; fields not given stay as they are."""

    name: Name = UNCHANGED
    slug: Slug = UNCHANGED
