"""What every entity is: a frozen, strict-keyed pydantic model."""

from typing import Any, Generic, Self, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from multidb.errors import DataError
from multidb.models.fields import UtcDatetime, UtcMilliseconds

__all__ = ["Entity", "Model", "Related", "Row", "VersionedDocument"]

T = TypeVar("T")


class Related(Generic[T]):
    """Other entities that belong to this one, there once a call has been asked to `include` them.

    ::

        class User(Row):
            profile: ClassVar[Related["UserProfile | None"]] = Related()

    They are no field: not stored with the entity, not compared, not dumped.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, entity: None, owner: type) -> Self: ...
    @overload
    def __get__(self, entity: object, owner: type) -> T: ...
    def __get__(self, entity: object | None, owner: type) -> Any:
        # What was included stands in the entity's `__dict__`, which Python asks before this.
        if entity is None:
            return self
        raise DataError(
            f"`{self._name}` of this {owner.__name__} was not loaded: ask with include=({self._name!r},)"
        )

    @staticmethod
    def load(entity: object, name: str, value: object) -> None:
        """Make `value` what the entity's attribute `name` gives."""
        vars(entity)[name] = value


class Model(BaseModel):
    """Base of every value multidb takes or returns: immutable, and no field it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, ignored_types=(Related,)
    )


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


class VersionedDocument(Entity):
    """A document of MongoDB that may change, with what the repository keeps for every such one.

    `version` is 1 when the document is added and one more with each change.
    """

    created_at: UtcMilliseconds
    updated_at: UtcMilliseconds
    version: int
