"""An application's own table, with nullable columns of several types, for tests of filters and pages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

import hypothesis
import pydantic
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from multidb import Model, MultiDB, PostgresRepository, Row, uuid7
from multidb.models.filters import Field, RowFields
from multidb.settings import Settings

__all__ = ["NewThing", "Thing", "ThingRepository", "bounded", "open_with_things", "things"]

#: The same examples each time, on a database that all of them share.
bounded = partial(
    hypothesis.settings,
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    # Ordered by code point, as Python does.
    sa.Column("label", sa.Text(collation="C")),
    sa.Column("short", sa.String(3, collation="C"), nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("price", sa.Numeric(8, 2)),
    sa.Column("ratio", sa.Double),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("owner", sa.Uuid),
    sa.Column("tags", sa.ARRAY(sa.String(3))),
    sa.Column("data", JSONB),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
)


class Thing(Row):
    label: str | None
    short: str
    number: int | None
    price: Decimal | None
    ratio: float | None
    flag: bool | None
    day: date | None
    owner: UUID | None
    tags: tuple[str, ...] | None
    data: dict[str, Any] | None


class NewThing(Model):
    id: UUID = pydantic.Field(default_factory=uuid7)
    label: str | None = None
    short: str = ""
    number: int | None = None
    price: Decimal | None = None
    ratio: float | None = None
    flag: bool | None = None
    day: date | None = None
    owner: UUID | None = None
    tags: tuple[str, ...] | None = None
    data: dict[str, Any] | None = None


class ThingFields(RowFields):
    label: Field[str | None]
    short: Field[str]
    number: Field[int | None]
    price: Field[Decimal | None]
    ratio: Field[float | None]
    flag: Field[bool | None]
    day: Field[date | None]
    owner: Field[UUID | None]
    tags: Field[tuple[str, ...] | None]
    data: Field[dict[str, Any] | None]


class ThingRepository(PostgresRepository[Thing, NewThing]):
    c: ClassVar[ThingFields]
    table = things
    unique = {"things_pkey": ("id",)}


@asynccontextmanager
async def open_with_things(settings: Settings, *more: Any) -> AsyncIterator[MultiDB]:
    """Yield a `MultiDB` that knows the table, which is there."""
    async with MultiDB(settings, repositories=[ThingRepository, *more]) as db:
        async with db.postgres.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield db
