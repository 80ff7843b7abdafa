"""The cards of kanban boards. PostgreSQL `kanban_cards`, not cached."""

from typing import ClassVar, cast
from uuid import UUID

from multidb.models.kanban import KanbanCard, KanbanCardChanges, KanbanCardFields, NewKanbanCard
from multidb.repositories.kanban_columns import KanbanColumnRepository
from multidb.repositories.postgres import PostgresRepository
from multidb.repositories.ranked import moved, rank_at
from multidb.stores.postgres import tables

__all__ = ["KanbanCardRepository"]


class KanbanCardRepository(PostgresRepository[KanbanCard, NewKanbanCard, KanbanCardChanges]):
    """The calls on the cards of boards."""

    c: ClassVar[KanbanCardFields]
    table = tables.kanban_cards
    tenant = "company_id"
    unique = {
        "kanban_cards_pkey": ("id",),
        "kanban_cards_column_id_rank_key": ("column_id", "rank"),
    }

    async def place(self, column_id: UUID, *, before: UUID | None = None, after: UUID | None = None) -> str:
        """Return a rank for a new card: beside another one of the column, or after them all.

        Raises: DataError if the other one is not a card of the column.
        """
        operation = self._operation("place")
        return await rank_at(
            self, {"column_id": column_id}, before=before, after=after, moving=None, operation=operation
        )

    async def move(
        self,
        id: UUID,
        *,
        column_id: UUID | None = None,
        before: UUID | None = None,
        after: UUID | None = None,
        version: int | None = None,
    ) -> KanbanCard:
        """Put a card beside another one of a column, or after them all; only its own row changes.

        The column is its own unless another is given, which may be one of another board. With
        `version`, only if the card still has that one.

        Raises: NotFoundError; DataError if the other one is not a card of the column;
        ConflictError if the card has another version by now, or, retryable, if others moved to the
        same place at the same time.
        """
        operation = self._operation("move")
        columns = cast(KanbanColumnRepository, self._resources.repository("kanban_columns"))

        async def put() -> KanbanCard:
            column = await columns.fetch(column_id or (await self.fetch(id)).column_id)
            rank = await rank_at(
                self, {"column_id": column.id}, before=before, after=after, moving=id, operation=operation
            )
            return await self.update(
                id, board_id=column.board_id, column_id=column.id, rank=rank, version=version
            )

        return await moved(self._resources.postgres.transactions, put, operation)
