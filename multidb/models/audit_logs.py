"""The audit log: who changed what, when, and how it was before. Written by the database itself."""

from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from multidb.models.entity import Entity
from multidb.models.fields import UtcDatetime
from multidb.models.filters import EntityFields, Field

__all__ = ["AuditAction", "AuditLog", "AuditLogFields"]

#: What was done to the row.
AuditAction: TypeAlias = Literal["insert", "update", "delete"]


class AuditLog(Entity):
    """One change of one row. Personal and secret values in it read `***`."""

    ts: UtcDatetime
    company_id: UUID | None = None
    #: Who did it, and for which request; None where `db.transaction` was not told.
    actor: str | None = None
    request_id: str | None = None
    action: AuditAction
    #: The table.
    entity: str
    entity_id: UUID
    #: Of an update, the values that changed; of a deletion, all of them.
    old: dict[str, Any] | None = None
    #: Of an update, the values that changed; of an insertion, all of them.
    new: dict[str, Any] | None = None


class AuditLogFields(EntityFields):
    """The fields of an entry, for filters and orders."""

    ts: Field[datetime]
    company_id: Field[UUID | None]
    actor: Field[str | None]
    request_id: Field[str | None]
    action: Field[AuditAction]
    entity: Field[str]
    entity_id: Field[UUID]
    old: Field[dict[str, Any] | None]
    new: Field[dict[str, Any] | None]
