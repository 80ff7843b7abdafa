"""Adds that meet share a statement: each has its own row, and its own error."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from multidb.errors import MultiDBError, UnavailableError
from multidb.models.entity import Entity
from multidb.repositories.shared_reads import Run
from multidb.stores.postgres.crud import Crud
from multidb.stores.postgres.engine import PostgresStore, Record

__all__ = ["SharedAdds"]

ModelT = TypeVar("ModelT", bound=Entity)


class SharedAdds(Generic[ModelT]):
    """The adds of one repository; inside a transaction each goes alone."""

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
        self._additions = postgres.batcher(self._add_one, self._add_several)

    async def add(self, values: dict[str, Any], company: UUID | None) -> ModelT:
        """Store a row of these values and return it."""
        addition = _Addition(values)
        if self._transactions.current() is not None:
            return await self._add_one(addition, company)
        return cast(ModelT, await self._additions.get(addition, company))

    async def _add_one(self, addition: "_Addition", company: UUID | None) -> ModelT:
        statement = self._crud(company).insert(addition.values)
        return self._read((await self._run("add", statement, addition.values, company))[0])

    async def _add_several(
        self, additions: Sequence["_Addition"], company: UUID | None
    ) -> dict["_Addition", ModelT | Exception]:
        by_id = {addition.values["id"]: addition for addition in additions}
        crud = self._crud(company)
        added: dict[_Addition, ModelT | Exception] = {}
        try:
            values = crud.arrays([addition.values for addition in by_id.values()])
            for row in await self._run("add", crud.insert_new(values), values, company):
                try:
                    added[by_id[row["id"]]] = self._read(row)
                except MultiDBError as error:
                    added[by_id[row["id"]]] = error
        except UnavailableError:
            raise
        except MultiDBError:
            pass  # it was one of them; each on its own gets the error it deserves
        for addition in additions:
            if addition not in added:
                try:
                    added[addition] = await self._add_one(addition, company)
                except Exception as error:
                    added[addition] = error
        return added


class _Addition:
    """One call of `add`: like no other, whatever it adds."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
