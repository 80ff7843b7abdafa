"""What `include` loads: entities that belong to the ones asked for, one round trip a relation.

A relation is declared in the repository, under the name of the model's `Related` attribute, and
names the other side by its entity, so that two repositories may refer to each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from multidb.errors import DataError
from multidb.models.entity import Entity, Related
from multidb.repositories.repository import Resources

if TYPE_CHECKING:
    from multidb.repositories.postgres_reader import PostgresReader

__all__ = ["BelongsTo", "HasMany", "HasOne", "Relation", "Through", "include"]

EntityT = TypeVar("EntityT", bound=Entity)


@dataclass(frozen=True, slots=True)
class Relation(ABC):
    """How rows of `entity` belong to others."""

    entity: str

    @abstractmethod
    async def load(self, other: "PostgresReader[Any]", rows: Sequence[Entity]) -> list[Any]:
        """Return what belongs to each of `rows`, in their order; `other` reads `entity`."""


@dataclass(frozen=True, slots=True)
class BelongsTo(Relation):
    """The one whose id stands in this row's field `by`, or None."""

    by: str

    async def load(self, other: "PostgresReader[Any]", rows: Sequence[Entity]) -> list[Any]:
        ids = [getattr(row, self.by) for row in rows]
        wanted = {id for id in ids if id is not None}
        if len(wanted) == 1:
            # May come from the cache, or share its round trip.
            (id,) = wanted
            found = {id: await other.get(id)}
        else:
            found = dict(await other.get_many(wanted))
        return [found.get(id) for id in ids]


@dataclass(frozen=True, slots=True)
class HasOne(Relation):
    """The one that has this row's id in its field `by`, or None."""

    by: str

    async def load(self, other: "PostgresReader[Any]", rows: Sequence[Entity]) -> list[Any]:
        found = await other.related([row.id for row in rows], by=self.by)
        return [next(iter(found.get(row.id, ())), None) for row in rows]


@dataclass(frozen=True, slots=True)
class HasMany(Relation):
    """All that have this row's id in their field `by`: for relations that are small by nature."""

    by: str
    order_by: str = "id"

    async def load(self, other: "PostgresReader[Any]", rows: Sequence[Entity]) -> list[Any]:
        found = await other.related([row.id for row in rows], by=self.by, order_by=self.order_by)
        return [tuple(found.get(row.id, ())) for row in rows]


@dataclass(frozen=True, slots=True)
class Through(Relation):
    """All whose ids stand in the column `to` of the table `through`, where `by` is this row's id."""

    through: str
    by: str
    to: str
    order_by: str = "id"

    async def load(self, other: "PostgresReader[Any]", rows: Sequence[Entity]) -> list[Any]:
        found = await other.related(
            [row.id for row in rows], by=self.by, order_by=self.order_by, through=(self.through, self.to)
        )
        return [tuple(found.get(row.id, ())) for row in rows]


async def include(
    reader: "PostgresReader[EntityT]",
    resources: Resources,
    rows: list[EntityT],
    names: Collection[Any],
    operation: str,
) -> list[EntityT]:
    """Return the rows with these relations loaded.

    Raises: DataError for a relation there is not.
    """
    if isinstance(names, str) or not isinstance(names, Collection):
        raise DataError(f"`include` takes several names: include=({names!r},)", operation=operation)
    for name in names:
        if not isinstance(name, str) or name not in reader.relations:
            known = ", ".join(reader.relations) or "none"
            raise DataError(
                f"`{name}` is no relation of {reader.model.__name__}; it has {known}", operation=operation
            )
    if not rows:
        return rows
    # Copies: a row read for several callers at once is one object.
    rows = [row.model_copy() for row in rows]
    for name in names:
        relation = reader.relations[name]
        other = cast("PostgresReader[Any]", resources.repository(relation.entity))
        for row, value in zip(rows, await relation.load(other, rows), strict=True):
            Related.load(row, name, value)
    return rows
