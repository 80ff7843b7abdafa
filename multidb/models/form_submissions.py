"""Form submissions: what was answered to a form of PostgreSQL."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import pydantic

from multidb.models.entity import Entity, Model
from multidb.models.fields import UtcMilliseconds, utc_now
from multidb.models.filters import EntityFields, Field
from multidb.models.ids import uuid7

__all__ = ["FormSubmission", "FormSubmissionFields", "NewFormSubmission"]


class FormSubmission(Entity):
    """The answers to a form, as it was worded in its version then. They never change."""

    form_id: UUID
    form_version: Annotated[int, pydantic.Field(ge=1, lt=2**63)]
    company_id: UUID
    answers: dict[str, Any]
    #: Who answered, if that is known.
    user_id: UUID | None = None
    submitted_at: UtcMilliseconds


class NewFormSubmission(Model):
    """Answers to hand in."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    form_id: UUID
    answers: dict[str, Any]
    user_id: UUID | None = None
    submitted_at: UtcMilliseconds = pydantic.Field(default_factory=utc_now)


class FormSubmissionFields(EntityFields):
    """The fields of a submission, for filters and orders."""

    form_id: Field[UUID]
    form_version: Field[int]
    company_id: Field[UUID]
    answers: Field[dict[str, Any]]
    user_id: Field[UUID | None]
    submitted_at: Field[datetime]
