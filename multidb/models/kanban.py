"""Kanban: boards, their columns, and the cards that move from one to the next.

Columns and cards are ordered by their `rank`; `multidb.models.ranks` finds one between two others,
so that moving a card changes that card alone.
"""

from datetime import datetime
from typing import Annotated, ClassVar
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, Related, Row
from multidb.models.fields import UNCHANGED, Name, Title, UtcDatetime
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7
from multidb.models.ranks import Rank

__all__ = [
    "KanbanBoard",
    "KanbanBoardChanges",
    "KanbanBoardFields",
    "KanbanCard",
    "KanbanCardChanges",
    "KanbanCardFields",
    "KanbanColumn",
    "KanbanColumnChanges",
    "KanbanColumnFields",
    "NewKanbanBoard",
    "NewKanbanCard",
    "NewKanbanColumn",
]

_Description = Annotated[str, StringConstraints(max_length=10_000)]
_WipLimit = Annotated[int, pydantic.Field(gt=0, lt=2**31)]


class KanbanBoard(Row):
    """A board as it is stored."""

    company_id: UUID
    name: Name
    description: _Description | None = None
    deleted_at: UtcDatetime | None = None

    #: By rank.
    columns: ClassVar[Related["tuple[KanbanColumn, ...]"]] = Related()
    #: Those of all columns, by rank.
    cards: ClassVar[Related["tuple[KanbanCard, ...]"]] = Related()


class NewKanbanBoard(Model):
    """A board to add; its columns come after it."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    name: Name
    description: _Description | None = None


class KanbanBoardChanges(Model):
    """What may change about a board; fields not given stay as they are."""

    name: Name = UNCHANGED
    description: _Description | None = UNCHANGED


class KanbanBoardFields(RowFields):
    """The fields of a board, for filters and orders."""

    company_id: Field[UUID]
    name: Field[str]
    description: Field[str | None]
    deleted_at: Field[datetime | None]


class KanbanColumn(Row):
    """A column as it is stored. It goes with its board, and its cards go with it."""

    company_id: UUID
    board_id: UUID
    name: Name
    rank: Rank
    #: How many cards the team means to have in it at most; nothing enforces it.
    wip_limit: _WipLimit | None = None


class NewKanbanColumn(Model):
    """A column to add to a board of the same company. No other of the board may have its rank."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    board_id: UUID
    name: Name
    rank: Rank
    wip_limit: _WipLimit | None = None


class KanbanColumnChanges(Model):
    """What may change about a column; fields not given stay as they are."""

    name: Name = UNCHANGED
    rank: Rank = UNCHANGED
    wip_limit: _WipLimit | None = UNCHANGED


class KanbanColumnFields(RowFields):
    """The fields of a column, for filters and orders."""

    company_id: Field[UUID]
    board_id: Field[UUID]
    name: Field[str]
    rank: Field[str]
    wip_limit: Field[int | None]


class KanbanCard(Row):
    """A card as it is stored."""

    company_id: UUID
    board_id: UUID
    column_id: UUID
    title: Title
    description: _Description | None = None
    assignee_id: UUID | None = None
    due_at: UtcDatetime | None = None
    rank: Rank
    deleted_at: UtcDatetime | None = None


class NewKanbanCard(Model):
    """A card to add to a column of that board. No other living card of the column may have its rank."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    board_id: UUID
    column_id: UUID
    title: Title
    description: _Description | None = None
    assignee_id: UUID | None = None
    due_at: UtcDatetime | None = None
    rank: Rank


class KanbanCardChanges(Model):
    """What may change about a card; fields not given stay as they are.

    To move it to another board, give the board and one of its columns together.
    """

    board_id: UUID = UNCHANGED
    column_id: UUID = UNCHANGED
    title: Title = UNCHANGED
    description: _Description | None = UNCHANGED
    assignee_id: UUID | None = UNCHANGED
    due_at: UtcDatetime | None = UNCHANGED
    rank: Rank = UNCHANGED


class KanbanCardFields(RowFields):
    """The fields of a card, for filters and orders."""

    company_id: Field[UUID]
    board_id: Field[UUID]
    column_id: Field[UUID]
    title: Field[str]
    description: Field[str | None]
    assignee_id: Field[UUID | None]
    due_at: Field[datetime | None]
    rank: Field[str]
    deleted_at: Field[datetime | None]
