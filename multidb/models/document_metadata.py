"""Document metadata: what was found out about a document of PostgreSQL, beside its text."""

from typing import Annotated, Any
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, VersionedDocument
from multidb.models.fields import UNCHANGED
from multidb.models.filters import Field, VersionedFields

__all__ = ["DocumentMetadata", "DocumentMetadataChanges", "DocumentMetadataFields", "NewDocumentMetadata"]

#: A language tag of BCP 47, such as `en` or `pt-BR`.
_Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*$", max_length=35)]
_Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=100)]
_Tags = Annotated[tuple[_Tag, ...], pydantic.Field(max_length=100)]


class DocumentMetadata(VersionedDocument):
    """The metadata of the document that has the same id."""

    company_id: UUID
    author: _Text | None = None
    language: _Language | None = None
    page_count: _Count | None = None
    word_count: _Count | None = None
    tags: _Tags = ()
    #: What its file says of itself, such as the fields of a PDF or the Exif of a picture.
    properties: dict[str, Any] = {}
    #: What read it, and in which version.
    extractor: _Text | None = None


class NewDocumentMetadata(Model):
    """Metadata to store, under the id of its document."""

    id: UUID
    company_id: UUID
    author: _Text | None = None
    language: _Language | None = None
    page_count: _Count | None = None
    word_count: _Count | None = None
    tags: _Tags = ()
    properties: dict[str, Any] = {}
    extractor: _Text | None = None


class DocumentMetadataChanges(Model):
    """What may change about a document's metadata; fields not given stay as they are."""

    author: _Text | None = UNCHANGED
    language: _Language | None = UNCHANGED
    page_count: _Count | None = UNCHANGED
    word_count: _Count | None = UNCHANGED
    tags: _Tags = UNCHANGED
    properties: dict[str, Any] = UNCHANGED
    extractor: _Text | None = UNCHANGED


class DocumentMetadataFields(VersionedFields):
    """The fields of metadata, for filters and orders."""

    company_id: Field[UUID]
    author: Field[str | None]
    language: Field[str | None]
    page_count: Field[int | None]
    word_count: Field[int | None]
    tags: Field[tuple[str, ...]]
    properties: Field[dict[str, Any]]
    extractor: Field[str | None]
