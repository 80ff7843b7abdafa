"""Memberships: who belongs to which company. PostgreSQL `company_users`, not cached."""

from typing import ClassVar
from uuid import UUID

from multidb.models.company_users import (
    CompanyRole,
    CompanyUser,
    CompanyUserChanges,
    CompanyUserFields,
    NewCompanyUser,
)
from multidb.models.page import Page
from multidb.repositories.postgres import PostgresRepository
from multidb.repositories.relations import BelongsTo
from multidb.repositories.repository import validated
from multidb.stores.postgres import tables

__all__ = ["CompanyUserRepository"]


class CompanyUserRepository(PostgresRepository[CompanyUser, NewCompanyUser, CompanyUserChanges]):
    """The calls on memberships."""

    c: ClassVar[CompanyUserFields]
    table = tables.company_users
    relations = {"company": BelongsTo("companies", by="company_id"), "user": BelongsTo("users", by="user_id")}
    tenant = "company_id"
    unique = {
        "company_users_pkey": ("id",),
        "company_users_company_id_user_id_key": ("company_id", "user_id"),
    }

    async def join(self, company_id: UUID, *, user_id: UUID, role: CompanyRole = "member") -> CompanyUser:
        """Make the user a member of the company in this role, or give a member this role.

        Idempotent; atomic, however many do it at once.

        Raises: DataError for a role there is not; ConstraintError if the company or the user does not
        exist.
        """
        values = {"company_id": company_id, "user_id": user_id, "role": role}
        new = validated(NewCompanyUser, values, self._operation("join"))
        return await self.upsert(new, on=("company_id", "user_id"))

    async def leave(self, company_id: UUID, *, user_id: UUID) -> bool:
        """End the membership; return whether there was one. Idempotent."""
        return bool(await self.delete_many(company_id=company_id, user_id=user_id))

    async def membership(self, company_id: UUID, *, user_id: UUID) -> CompanyUser | None:
        """Return the membership of this user in this company, or None.

        Raises: UnavailableError if PostgreSQL cannot be reached.
        Source: PostgreSQL `company_users`, index `company_users_company_id_user_id_key`; not cached.
        """
        return await self.find_one(company_id=company_id, user_id=user_id)

    async def members(
        self, company_id: UUID, *, limit: int = 50, after: str | None = None
    ) -> Page[CompanyUser]:
        """Return a page of the company's memberships, each with its `user`, in the order they began."""
        return await self.find(company_id=company_id, include=("user",), limit=limit, after=after)

    async def memberships(
        self, user_id: UUID, *, limit: int = 50, after: str | None = None
    ) -> Page[CompanyUser]:
        """Return a page of the user's memberships, each with its `company`, in the order they began."""
        return await self.find(user_id=user_id, include=("company",), limit=limit, after=after)
