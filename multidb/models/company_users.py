"""Memberships: which users belong to which companies, and what they may do there."""

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias
from uuid import UUID

import pydantic

from multidb.models.entity import Model, Related, Row
from multidb.models.fields import UNCHANGED
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

if TYPE_CHECKING:
    from multidb.models.companies import Company
    from multidb.models.users import User

__all__ = ["CompanyRole", "CompanyUser", "CompanyUserChanges", "CompanyUserFields", "NewCompanyUser"]

#: What a member may do. What follows from it is the application's to decide.
CompanyRole: TypeAlias = Literal["owner", "admin", "member", "viewer"]


class CompanyUser(Row):
    """A membership as it is stored."""

    company_id: UUID
    user_id: UUID
    role: CompanyRole

    company: ClassVar[Related["Company"]] = Related()
    user: ClassVar[Related["User"]] = Related()


class NewCompanyUser(Model):
    """A membership to add. A user has one at most in a company."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    user_id: UUID
    role: CompanyRole = "member"


class CompanyUserChanges(Model):
    """What may change about a membership; fields not given stay as they are."""

    role: CompanyRole = UNCHANGED


class CompanyUserFields(RowFields):
    """The fields of a membership, for filters and orders."""

    company_id: Field[UUID]
    user_id: Field[UUID]
    role: Field[CompanyRole]
