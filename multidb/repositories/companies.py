"""Companies: the tenants that users, documents and jobs belong to. PostgreSQL `companies`, not cached."""

from typing import ClassVar

from multidb.models.companies import Company, CompanyChanges, CompanyFields, NewCompany
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["CompanyRepository"]


class CompanyRepository(PostgresRepository[Company, NewCompany, CompanyChanges]):
    """The calls on companies."""

    c: ClassVar[CompanyFields]
    table = tables.companies
    tenant = "id"
    unique = {"companies_pkey": ("id",), "companies_slug_key": ("slug",)}

    async def by_slug(self, slug: str) -> Company | None:
        """Return the company whose URLs carry this slug, or None.

        Raises: UnavailableError if PostgreSQL cannot be reached.
        Source: PostgreSQL `companies`, index `companies_slug_key`; not cached.
        """
        return await self.find_one(slug=slug)
