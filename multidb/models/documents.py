"""Documents: what companies keep, from the draft to the text that was read out of it."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias
from uuid import UUID

import pydantic
from pydantic import StringConstraints

from multidb.models.entity import Model, Related, Row
from multidb.models.fields import UNCHANGED, Title, UtcDatetime
from multidb.models.filters import Field, RowFields
from multidb.models.ids import uuid7

if TYPE_CHECKING:
    from multidb.models.companies import Company
    from multidb.models.users import User

__all__ = ["Document", "DocumentChanges", "DocumentFields", "DocumentStatus", "NewDocument"]

#: How far a document has come.
DocumentStatus: TypeAlias = Literal["draft", "uploaded", "processing", "ready", "failed", "archived"]

#: SHA-256 in lower-case hexadecimal.
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: In bytes.
_Size = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
_MimeType = Annotated[
    str, StringConstraints(pattern=r"^[a-z]+/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*(?:;.*)?$", max_length=255)
]
_Body = Annotated[str, StringConstraints(max_length=10_000_000)]


class Document(Row):
    """A document as it is stored."""

    company_id: UUID
    owner_id: UUID
    title: Title
    status: DocumentStatus
    content_hash: _Sha256 | None = None
    size: _Size | None = None
    mime_type: _MimeType | None = None
    #: The text read out of it. Its first 200,000 characters can be searched for.
    body: _Body = ""
    deleted_at: UtcDatetime | None = None

    company: ClassVar[Related["Company"]] = Related()
    owner: ClassVar[Related["User"]] = Related()


class NewDocument(Model):
    """A document to add."""

    id: UUID = pydantic.Field(default_factory=uuid7)
    company_id: UUID
    owner_id: UUID
    title: Title
    status: DocumentStatus = "draft"
    content_hash: _Sha256 | None = None
    size: _Size | None = None
    mime_type: _MimeType | None = None
    body: _Body = ""


class DocumentChanges(Model):
    """What may change about a document; fields not given stay as they are."""

    owner_id: UUID = UNCHANGED
    title: Title = UNCHANGED
    status: DocumentStatus = UNCHANGED
    content_hash: _Sha256 | None = UNCHANGED
    size: _Size | None = UNCHANGED
    mime_type: _MimeType | None = UNCHANGED
    body: _Body = UNCHANGED


class DocumentFields(RowFields):
    """The fields of a document, for filters and orders."""

    company_id: Field[UUID]
    owner_id: Field[UUID]
    title: Field[str]
    status: Field[DocumentStatus]
    content_hash: Field[str | None]
    size: Field[int | None]
    mime_type: Field[str | None]
    body: Field[str]
    deleted_at: Field[datetime | None]
