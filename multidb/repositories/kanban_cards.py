"""The cards of kanban boards. PostgreSQL `kanban_cards`, not cached."""

from typing import ClassVar

from multidb.models.kanban import KanbanCard, KanbanCardChanges, KanbanCardFields, NewKanbanCard
from multidb.repositories.postgres import PostgresRepository
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
