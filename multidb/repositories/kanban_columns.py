"""The columns of kanban boards. PostgreSQL `kanban_columns`, not cached."""

from typing import ClassVar

from multidb.models.kanban import KanbanColumn, KanbanColumnChanges, KanbanColumnFields, NewKanbanColumn
from multidb.repositories.postgres import PostgresRepository
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
