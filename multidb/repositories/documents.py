"""Documents: what companies keep. PostgreSQL `documents`, not cached."""

from typing import ClassVar

from multidb.models.documents import Document, DocumentChanges, DocumentFields, NewDocument
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["DocumentRepository"]


class DocumentRepository(PostgresRepository[Document, NewDocument, DocumentChanges]):
    """The calls on documents."""

    c: ClassVar[DocumentFields]
    table = tables.documents
    tenant = "company_id"
    unique = {
        "documents_pkey": ("id",),
        "documents_company_id_id_key": ("company_id", "id"),
    }
