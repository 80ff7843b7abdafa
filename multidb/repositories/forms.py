"""Forms: what is asked, as a JSON Schema. PostgreSQL `forms`, not cached."""

from typing import ClassVar
from uuid import UUID

from multidb.models.forms import Form, FormChanges, FormFields, NewForm
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["FormRepository"]


class FormRepository(PostgresRepository[Form, NewForm, FormChanges]):
    """The calls on forms."""

    c: ClassVar[FormFields]
    table = tables.forms
    tenant = "company_id"
    unique = {
        "forms_pkey": ("id",),
        "forms_company_id_name_key": ("company_id", "name"),
    }

    async def by_name(self, company_id: UUID, *, name: str) -> Form | None:
        """Return the company's form of this name, or None.

        Raises: UnavailableError if PostgreSQL cannot be reached.
        Source: PostgreSQL `forms`, index `forms_company_id_name_key`; not cached.
        """
        return await self.find_one(company_id=company_id, name=name)
