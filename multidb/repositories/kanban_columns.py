"""The columns of kanban boards. PostgreSQL `kanban_columns`, not cached."""

from typing import ClassVar
from uuid import UUID

from multidb.models.kanban import KanbanColumn, KanbanColumnChanges, KanbanColumnFields, NewKanbanColumn
from multidb.repositories.postgres import PostgresRepository
from multidb.repositories.ranked import moved, rank_at
from multidb.stores.postgres import tables

__all__ = ["KanbanColumnRepository"]


class KanbanColumnRepository(PostgresRepository[KanbanColumn, NewKanbanColumn, KanbanColumnChanges]):
    """The calls on the columns of boards."""

    c: ClassVar[KanbanColumnFields]
    table = tables.kanban_columns
    tenant = "company_id"
    unique = {
        "kanban_columns_pkey": ("id",),
        "kanban_columns_company_id_board_id_id_key": ("company_id", "board_id", "id"),
        "kanban_columns_board_id_rank_key": ("board_id", "rank"),
    }

    async def place(self, board_id: UUID, *, before: UUID | None = None, after: UUID | None = None) -> str:
        """Return a rank for a new column: beside another one of the board, or after them all.

        Raises: DataError if the other one is not a column of the board.
        """
        operation = self._operation("place")
        return await rank_at(
            self, {"board_id": board_id}, before=before, after=after, moving=None, operation=operation
        )

    async def move(self, id: UUID, *, before: UUID | None = None, after: UUID | None = None) -> KanbanColumn:
        """Put a column beside another one of its board, or after them all; only its own row changes.

        Raises: NotFoundError; DataError if the other one is not a column of its board;
        ConflictError, retryable, if others moved to the same place at the same time.
        """
        operation = self._operation("move")

        async def put() -> KanbanColumn:
            board_id = (await self.fetch(id)).board_id
            rank = await rank_at(
                self, {"board_id": board_id}, before=before, after=after, moving=id, operation=operation
            )
            return await self.update(id, rank=rank)

        return await moved(self._resources.postgres.transactions, put, operation)
