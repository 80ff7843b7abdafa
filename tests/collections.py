"""An application's own collections: one whose documents change, and one whose documents never do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

import pydantic

from multidb import (
    AppendOnlyRepository,
    Entity,
    EntityFields,
    Field,
    Model,
    MongoRepository,
    MultiDB,
    VersionedDocument,
    VersionedFields,
    uuid7,
)
from multidb.models.fields import UtcMilliseconds
from multidb.settings import Settings

__all__ = ["Event", "Events", "NewPaper", "Paper", "Papers", "make", "open_with_collections"]


class Paper(VersionedDocument):
    slug: str
    label: str | None = None
    title: str = pydantic.Field(min_length=1, max_length=100)
    number: int | None = None
    ratio: float | None = None
    flag: bool | None = None
    at: UtcMilliseconds | None = None
    owner: UUID | None = None
    kind: Literal["draft", "final"] | None = None
    tags: tuple[str, ...] | None = None
    data: dict[str, Any] | None = None
    #: None is not what it is where it is left out, so that it stands in the document.
    score: int | None = 7
    fence: int | None = None


class NewPaper(Model):
    id: UUID = pydantic.Field(default_factory=uuid7)
    slug: str = pydantic.Field(default_factory=lambda: str(uuid7()))
    label: str | None = None
    title: str = pydantic.Field(default="a", min_length=1, max_length=100)
    number: int | None = None
    ratio: float | None = None
    flag: bool | None = None
    at: UtcMilliseconds | None = None
    owner: UUID | None = None
    kind: Literal["draft", "final"] | None = None
    tags: tuple[str, ...] | None = None
    data: dict[str, Any] | None = None
    score: int | None = 7


class PaperFields(VersionedFields):
    slug: Field[str]
    label: Field[str | None]
    title: Field[str]
    number: Field[int | None]
    ratio: Field[float | None]
    flag: Field[bool | None]
    at: Field[datetime | None]
    owner: Field[UUID | None]
    kind: Field[str | None]
    tags: Field[tuple[str, ...] | None]
    data: Field[dict[str, Any] | None]
    score: Field[int | None]


class Papers(MongoRepository[Paper, NewPaper]):
    c: ClassVar[PaperFields]
    collection = "papers"
    unique = {"papers_slug": ("slug",)}


class Event(Entity):
    id: UUID = pydantic.Field(default_factory=uuid7)
    at: UtcMilliseconds
    name: str
    data: dict[str, Any] = {}


class EventFields(EntityFields):
    at: Field[datetime]
    name: Field[str]
    data: Field[dict[str, Any]]


class Events(AppendOnlyRepository[Event]):
    c: ClassVar[EventFields]
    collection = "events"
    order_by = "-at"


async def make(db: MultiDB) -> None:
    """Make the collections, with what is unique in them."""
    await db.mongo.database.create_collection("events")
    await db.mongo.database["papers"].create_index("slug", name="papers_slug", unique=True)


@asynccontextmanager
async def open_with_collections(settings: Settings, *more: Any) -> AsyncIterator[MultiDB]:
    """Yield a `MultiDB` that knows the collections, which are there."""
    async with MultiDB(settings, repositories=[Papers, Events, *more]) as db:
        await make(db)
        yield db
