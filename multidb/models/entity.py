"""What every entity is: a frozen, strict-keyed pydantic model."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from multidb.models.fields import UtcDatetime

__all__ = ["Entity", "Model", "Row"]


class Model(BaseModel):
    """Base of every value multidb takes or returns: immutable, and no field it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Entity(Model):
    """Something stored, found again by its id."""

    id: UUID


class Row(Entity):
    """A row of PostgreSQL, with what the repository keeps for every row.

    `version` is 1 when the row is added and one more with each change.
    """

    created_at: UtcDatetime
    updated_at: UtcDatetime
    version: int
