"""The audit log: who changed what, when, and how it was before. PostgreSQL `audit_logs`, read only."""

from typing import ClassVar
from uuid import UUID

from multidb.models.audit_logs import AuditLog, AuditLogFields
from multidb.models.page import Page
from multidb.repositories.postgres_reader import PostgresReader
from multidb.stores.postgres import tables

__all__ = ["AuditLogRepository"]


class AuditLogRepository(PostgresReader[AuditLog]):
    """The calls on the audit log. `find` gives the newest first.

    The database writes it, by triggers, in the transaction of the change itself: who and for which
    request is what `db.transaction(actor=..., request_id=...)` was told.
    """

    c: ClassVar[AuditLogFields]
    table = tables.audit_logs
    tenant = "company_id"
    order_by = "-ts"

    async def history(
        self, entity: str, id: UUID, *, limit: int = 50, after: str | None = None
    ) -> Page[AuditLog]:
        """Return a page of what happened to one row, `history("documents", id)`, the oldest first.

        Source: PostgreSQL `audit_logs`, index `audit_logs_entity_entity_id_ts_id_idx`.
        """
        return await self.find(entity=entity, entity_id=id, order_by="ts", limit=limit, after=after)
