"""Forms: what is asked, as a JSON Schema. What is answered lies in MongoDB."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, Row
from multidb.models.fields import UNCHANGED, Name, UtcDatetime
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

__all__ = ["Form", "FormChanges", "FormFields", "NewForm"]

_Description = Annotated[str, StringConstraints(max_length=10_000)]


class Form(Row):
    """A form as it is stored; its `version` tells which wording was answered."""

    company_id: UUID
    name: Name
    description: _Description | None = None
    #: A JSON Schema of what is to be filled in.
    definition: dict[str, Any]
    deleted_at: UtcDatetime | None = None


class NewForm(Model):
    """A form to add. No other living form of the company may have its name."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    name: Name
    description: _Description | None = None
    definition: dict[str, Any]


class FormChanges(Model):
    """What may change about a form; fields not given stay as they are."""

    name: Name = UNCHANGED
    description: _Description | None = UNCHANGED
    definition: dict[str, Any] = UNCHANGED


class FormFields(RowFields):
    """The fields of a form, for filters and orders."""

    company_id: Field[UUID]
    name: Field[str]
    description: Field[str | None]
    definition: Field[dict[str, Any]]
    deleted_at: Field[datetime | None]
