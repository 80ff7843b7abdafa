"""Document metadata: what was found out about documents. MongoDB `document_metadata`, by their ids."""

from typing import ClassVar

from multidb.models.document_metadata import (
    DocumentMetadata,
    DocumentMetadataChanges,
    DocumentMetadataFields,
    NewDocumentMetadata,
)
from multidb.repositories.mongo import MongoRepository

__all__ = ["DocumentMetadataRepository"]


class DocumentMetadataRepository(
    MongoRepository[DocumentMetadata, NewDocumentMetadata, DocumentMetadataChanges]
):
    """The calls on metadata.

    Whoever writes it after a change of the document says `put(new, version=document.version)`: in
    whatever order, and however often, such writes arrive, the latest stays.
    """

    c: ClassVar[DocumentMetadataFields]
    collection = "document_metadata"
    tenant = "company_id"
