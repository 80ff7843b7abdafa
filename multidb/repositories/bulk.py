"""Many rows at once: all of them or, on any error, none; never more than a chunk of them in memory."""

from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel

from multidb.errors import AlreadyExistsError, DataError
from multidb.repositories.chunks import Progress, chunks
from multidb.repositories.declaration import unique_index
from multidb.repositories.repository import checked_class
from multidb.stores.postgres.crud import Crud
from multidb.stores.postgres.engine import PostgresStore, Record
from multidb.stores.postgres.statements import Statement

__all__ = ["Bulk", "Upsert", "refused"]

NewT = TypeVar("NewT", bound=BaseModel)
NewT_contra = TypeVar("NewT_contra", bound=BaseModel, contravariant=True)

#: Columns by the field each follows from, and how.
Derived = Mapping[str, tuple[str, Callable[[Any], Any]]]

#: Rows a round trip, and in memory.
_CHUNK = 5_000
#: From so many rows on COPY is faster than an INSERT of arrays.
_COPIED = 100


class _Write(Protocol[NewT_contra]):
    """Writes one chunk; `alone` if there is no other, and no transaction around it."""

    async def __call__(self, chunk: Sequence[NewT_contra], *, alone: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Upsert:
    """How an upsert finds the row that is there already."""

    #: The fields that tell.
    on: tuple[str, ...]
    #: The columns of their unique index, and its predicate.
    index: tuple[Sequence[str], Any]
    #: Columns that follow from a field.
    derived: Derived
    #: What is stored.
    model: type[BaseModel]

    @classmethod
    def by(
        cls,
        on: object,
        model: type[BaseModel],
        table: sa.Table,
        unique: Mapping[str, tuple[str, ...]],
        derived: Derived,
        operation: str,
    ) -> "Upsert":
        """Return an upsert by these fields. Raises: DataError if no unique index is about them."""
        names: tuple[Any, ...] = tuple(on) if isinstance(on, Iterable) and not isinstance(on, str) else (on,)
        if not all(isinstance(name, str) for name in names):
            raise DataError("`on` must be the name of a field, or several of them", operation=operation)
        for constraint, fields in {f"{table.name}_pkey": ("id",), **unique}.items():
            if set(fields) == set(names) and (index := unique_index(table, constraint)) is not None:
                return cls(names, index, derived, model)
        raise DataError(
            f"`on`: no unique constraint of `{table.name}` is about {', '.join(names)}", operation=operation
        )

    def key(self, new: BaseModel, operation: str) -> tuple[Any, ...]:
        """Return what the index holds of a row: two of one key are one row to it."""
        checked_class(self.model, new, operation)
        return tuple(
            self.derived[name][1](getattr(new, self.derived[name][0]))
            if name in self.derived
            else getattr(new, name)
            for name in self.index[0]
        )


class Bulk(Generic[NewT]):
    """Writes the rows of one repository."""

    def __init__(
        self,
        postgres: PostgresStore,
        crud: Crud,
        columns_of: Mapping[str, tuple[str, ...]],
        values: Callable[[NewT, str], dict[str, Any]],
        changes: Callable[[NewT, Collection[str]], tuple[str, ...]],
        company: UUID | None,
        *,
        copies: bool,
    ) -> None:
        """`values` gives a new row by column, `changes` the columns an upsert by these fields changes.

        `copies` says whether COPY may be used: PostgreSQL refuses it under row level security.
        """
        self._copies = copies
        self._postgres = postgres
        self._crud = crud
        self._columns_of = columns_of
        self._values = values
        self._changes = changes
        self._company = company

    async def add(
        self, new: Iterable[NewT] | AsyncIterable[NewT], operation: str, progress: Progress | None
    ) -> int:
        """Add new rows and return how many."""

        async def write(chunk: Sequence[NewT], *, alone: bool) -> None:
            rows = [self._values(each, operation) for each in chunk]
            try:
                async with _nothing() if alone else self._postgres.transactions.begin():
                    await self._insert(rows, operation)
            except AlreadyExistsError as error:
                raise await self._with_keys(error, chunk, rows, operation) from error.__cause__

        return await self._written(chunks(new, _CHUNK), write, progress, may_be_alone=progress is None)

    async def upsert(
        self,
        new: Iterable[NewT] | AsyncIterable[NewT],
        by: Upsert,
        operation: str,
        progress: Progress | None,
        changed: Callable[[Sequence[UUID]], Awaitable[None]],
    ) -> int:
        """Add new rows, or change those that are there, and return how many.

        `changed` is told which, before the commit.
        """

        async def write(chunk: Sequence[NewT], *, alone: bool) -> None:  # noqa: ARG001 - needs no savepoint
            rows = [self._values(each, operation) for each in chunk]
            statement = self._crud.upsert(rows[0], self._changes(chunk[0], by.on), by.index, many=True)
            stored = await self._fetch(statement, rows, operation)
            await changed([row["id"] for row in stored])
            if len(stored) < len(rows):
                raise refused(by, operation)

        # Never alone: also after it is written a chunk may be refused, and a cache must learn of it.
        alike = _alike(chunks(new, _CHUNK), by, operation)
        return await self._written(alike, write, progress, may_be_alone=False)

    async def _written(
        self,
        chunks: AsyncGenerator[list[NewT]],
        write: _Write[NewT],
        progress: Progress | None,
        *,
        may_be_alone: bool,
    ) -> int:
        count = 0
        async with aclosing(chunks):
            chunk: list[NewT] = await anext(chunks, [])
            following: list[NewT] = await anext(chunks, [])
            # One statement by itself is all or nothing already.
            alone = may_be_alone and not following and self._postgres.transactions.current() is None
            async with _nothing() if alone else self._postgres.transactions.begin():
                while chunk:
                    await write(chunk, alone=alone)
                    count += len(chunk)
                    if progress is not None:
                        progress(count)
                    chunk, following = following, await anext(chunks, []) if following else []
        return count

    async def _insert(self, rows: Sequence[dict[str, Any]], operation: str) -> None:
        if len(rows) < _COPIED or not self._copies:
            await self._fetch(self._crud.insert_many(rows[0]), rows, operation)
        else:
            await self._postgres.copy(
                self._crud.table.name,
                list(rows[0]),
                self._crud.records(rows),
                schema=self._crud.table.schema,
                operation=operation,
                columns_of=self._columns_of,
            )

    async def _fetch(
        self, statement: Statement, rows: Sequence[dict[str, Any]], operation: str
    ) -> list[Record]:
        values = self._crud.arrays(rows)
        if self._company is not None:
            values["_tenant"] = self._company  # type: ignore[assignment]
        return await self._postgres.fetch(
            statement, values, operation=operation, columns_of=self._columns_of, tenant=self._company
        )

    async def _with_keys(
        self, error: AlreadyExistsError, chunk: Sequence[NewT], rows: Sequence[dict[str, Any]], operation: str
    ) -> AlreadyExistsError:
        """Return the error with the keys that rows have already, or that are given twice."""
        fields = self._columns_of.get(error.constraint or "")
        index = unique_index(self._crud.table, error.constraint or "")
        if fields is None or index is None or not set(index[0]) <= set(rows[0]):
            return error
        columns, predicate = index
        if any(isinstance(self._crud.table.c[name].type, sa.ARRAY | sa.JSON) for name in columns):
            return error  # such values are not compared here as the index does
        keys = [tuple(row[name] for name in columns) for row in rows]
        asked = {name: [row[name] for row in rows] for name in columns}
        statement = self._crud.taken(columns, predicate)
        stored = await self._postgres.fetch(statement, asked, operation=operation, tenant=self._company)
        taken = {tuple(row) for row in stored} | {key for key, times in Counter(keys).items() if times > 1}
        # A null is like no other, and never taken.
        taken = {key for key in taken if None not in key}
        found = (
            tuple(getattr(new, field) for field in fields)
            for new, key in zip(chunk, keys, strict=True)
            if key in taken
        )
        return AlreadyExistsError(
            str(error).removeprefix(f"{operation}: "),
            constraint=error.constraint,
            columns=error.columns,
            keys=tuple(dict.fromkeys(found)),
            store="postgres",
            operation=operation,
        )


def refused(by: Upsert, operation: str) -> AlreadyExistsError:
    """Return the error of an upsert that met a row it does not see, and leaves alone."""
    return AlreadyExistsError(
        "a deleted row or another company's has this value",
        columns=by.on,
        store="postgres",
        operation=operation,
    )


async def _alike(
    chunks: AsyncGenerator[list[NewT]], by: Upsert, operation: str
) -> AsyncGenerator[list[NewT]]:
    """Yield lists whose rows give the same fields and have different keys, for one statement each.

    The order stays: of two rows with one key the later one wins, as if written one by one.
    """
    async with aclosing(chunks):
        async for chunk in chunks:
            alike: list[NewT] = []
            keys: set[tuple[Any, ...]] = set()
            for each in chunk:
                key = by.key(each, operation)
                if alike and (key in keys or each.model_fields_set != alike[0].model_fields_set):
                    yield alike
                    alike, keys = [], set()
                alike.append(each)
                keys.add(key)
            yield alike


def _nothing() -> AbstractAsyncContextManager[None]:
    return nullcontext()
