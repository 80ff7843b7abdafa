"""Reads that meet share their round trips: rows by id, whether there is one, and rows by relation."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import sqlalchemy as sa

from multidb.errors import DataError
from multidb.models.entity import Entity
from multidb.stores.postgres.crud import Crud
from multidb.stores.postgres.engine import PostgresStore, Record
from multidb.stores.postgres.keyset import Keyset
from multidb.stores.postgres.statements import Statement

__all__ = ["Relatives", "SharedReads"]

ModelT = TypeVar("ModelT", bound=Entity)
V = TypeVar("V")

#: By which field, in which order, through which table and column, and whose.
Relatives = tuple[str, Keyset, tuple[str, str] | None, UUID | None]


class Run(Protocol):
    """Runs a statement under the name of a call."""

    def __call__(
        self, name: str, statement: Statement, values: Mapping[str, Any], company: UUID | None
    ) -> Awaitable[list[Record]]: ...


class SharedReads(Generic[ModelT]):
    """The reads of one repository that others may ride with; inside a transaction each goes alone.

    What several are told of one row is an object for each, where an object can be changed.
    """

    def __init__(
        self,
        postgres: PostgresStore,
        crud: Callable[[UUID | None], Crud],
        run: Run,
        read: Callable[[Record | Mapping[str, Any]], ModelT],
    ) -> None:
        self._transactions = postgres.transactions
        self._crud = crud
        self._run = run
        self._read = read
        changeable = any(isinstance(column.type, sa.JSON | sa.ARRAY) for column in crud(None).columns)
        own: Callable[[Any], Any] | None = deepcopy if changeable else None
        self._gets = postgres.batcher(self._load_one, self._load_many, own=own)
        self._presence = postgres.batcher(self._is_present, partial(_each_told, self._are_present))
        self._relatives = postgres.batcher(
            self._load_relatives, partial(_each_told, self._load_relatives_of_many), own=own
        )

    async def load(self, id: UUID, company: UUID | None) -> ModelT | None:
        """Return the row with this id, or None."""
        if self._transactions.current() is not None:
            return await self._load_one(id, company)
        return await self._gets.get(id, company)

    async def present(self, name: str, value: Any, company: UUID | None) -> bool:
        """Return whether a row has this value in its field `name`."""
        if self._transactions.current() is not None:
            return await self._is_present(value, (name, company))
        return bool(await self._presence.get(value, (name, company)))

    async def related(self, values: Sequence[Any], relatives: Relatives) -> dict[Any, list[ModelT]]:
        """Return the rows that belong to each of `values`."""
        if len(values) == 1 and self._transactions.current() is None:
            return {values[0]: await self._relatives.get(values[0], relatives) or []}
        return await self._load_relatives_of_many(values, relatives)

    async def _load_one(self, id: UUID, company: UUID | None) -> ModelT | None:
        rows = await self._run("get", self._crud(company).get, {"id": id}, company)
        return self._read(rows[0]) if rows else None

    async def _load_many(self, ids: Sequence[UUID], company: UUID | None) -> dict[UUID, ModelT | Exception]:
        loaded: dict[UUID, ModelT | Exception] = {}
        for row in await self._run("get", self._crud(company).get_many, {"ids": ids}, company):
            try:
                loaded[row["id"]] = self._read(row)
            except DataError as error:
                # One row that does not fit its model must not fail those who asked for others.
                loaded[row["id"]] = error
        return loaded

    async def _is_present(self, value: Any, group: tuple[str, UUID | None]) -> bool:
        return value in await self._are_present([value], group)

    async def _are_present(self, values: Sequence[Any], group: tuple[str, UUID | None]) -> dict[Any, bool]:
        name, company = group
        rows = await self._run("exists", self._crud(company).present(name), {"values": values}, company)
        return {values[row[0] - 1]: True for row in rows}

    async def _load_relatives(self, value: Any, relatives: Relatives) -> list[ModelT]:
        return (await self._load_relatives_of_many([value], relatives)).get(value, [])

    async def _load_relatives_of_many(
        self, values: Sequence[Any], relatives: Relatives
    ) -> dict[Any, list[ModelT]]:
        by, keyset, through, company = relatives
        statement = self._crud(company).related(by, keyset, through)
        found: dict[Any, list[ModelT]] = {}
        for row in await self._run("include", statement, {"values": list(values)}, company):
            columns = dict(row)
            found.setdefault(columns.pop("_of"), []).append(self._read(columns))
        return found


async def _each_told(
    load: Callable[[Sequence[Any], Any], Awaitable[dict[Any, V]]], values: Sequence[Any], group: Any
) -> dict[Any, V | Exception]:
    """Load by values; one that no column holds, or has a row that does not fit, fails none of the others."""
    try:
        return {**await load(values, group)}
    except DataError as error:
        if len(values) == 1:
            return {values[0]: error}
        half = len(values) // 2
        first = await _each_told(load, values[:half], group)
        return first | await _each_told(load, values[half:], group)
