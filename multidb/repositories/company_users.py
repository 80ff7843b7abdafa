"""Memberships: who belongs to which company. PostgreSQL `company_users`, not cached."""

from typing import ClassVar
from uuid import UUID

from multidb.models.company_users import CompanyUser, CompanyUserChanges, CompanyUserFields, NewCompanyUser
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["CompanyUserRepository"]


class CompanyUserRepository(PostgresRepository[CompanyUser, NewCompanyUser, CompanyUserChanges]):
    """The calls on memberships."""

    c: ClassVar[CompanyUserFields]
    table = tables.company_users
    tenant = "company_id"
    unique = {
        "company_users_pkey": ("id",),
        "company_users_company_id_user_id_key": ("company_id", "user_id"),
    }

    async def membership(self, company_id: UUID, *, user_id: UUID) -> CompanyUser | None:
        """Return the membership of this user in this company, or None.

        Raises: UnavailableError if PostgreSQL cannot be reached.
        Source: PostgreSQL `company_users`, index `company_users_company_id_user_id_key`; not cached.
        """
        return await self.find_one(company_id=company_id, user_id=user_id)
