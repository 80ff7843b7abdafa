"""Kanban boards. PostgreSQL `kanban_boards`, not cached."""

from typing import ClassVar

from multidb.models.kanban import KanbanBoard, KanbanBoardChanges, KanbanBoardFields, NewKanbanBoard
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["KanbanBoardRepository"]


class KanbanBoardRepository(PostgresRepository[KanbanBoard, NewKanbanBoard, KanbanBoardChanges]):
    """The calls on boards."""

    c: ClassVar[KanbanBoardFields]
    table = tables.kanban_boards
    tenant = "company_id"
    unique = {
        "kanban_boards_pkey": ("id",),
        "kanban_boards_company_id_id_key": ("company_id", "id"),
    }
