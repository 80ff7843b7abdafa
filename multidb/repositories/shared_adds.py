"""Adds that meet share a statement: each has its own row, and its own error."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from multidb.errors import MultiDBError, NotOpenError, UnavailableError
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
        added: dict[_Addition, ModelT | Exception] = {}
        # Of two with one id only the first can be told from the other by what comes back.
        first = list({addition.values["id"]: addition for addition in reversed(additions)}.values())
        try:
            await self._add_new(first, company, added)
            for addition in additions:
                if addition not in added:
                    # It conflicts; alone it is told with what.
                    added[addition] = await self._outcome(addition, company)
        except (UnavailableError, NotOpenError) as error:
            # Nobody else need wait for that too. Who was told already, was told right.
            for addition in additions:
                added.setdefault(addition, error)
        return added

    async def _add_new(
        self,
        additions: Sequence["_Addition"],
        company: UUID | None,
        added: dict["_Addition", ModelT | Exception],
    ) -> None:
        """Add those that do not conflict, and note what became of them."""
        if len(additions) == 1:
            added[additions[0]] = await self._outcome(additions[0], company)
            return
        by_id = {addition.values["id"]: addition for addition in additions}
        crud = self._crud(company)
        try:
            values = crud.arrays([addition.values for addition in additions])
            rows = await self._run("add", crud.insert_new(values), values, company)
        except (UnavailableError, NotOpenError):
            raise  # whether they were stored is not known, of none of them
        except MultiDBError:
            # One of them is refused, and nothing is stored: halve them until it is found.
            half = len(additions) // 2
            await self._add_new(additions[:half], company, added)
            await self._add_new(additions[half:], company, added)
            return
        for row in rows:
            try:
                added[by_id[row["id"]]] = self._read(row)
            except MultiDBError as error:
                added[by_id[row["id"]]] = error

    async def _outcome(self, addition: "_Addition", company: UUID | None) -> ModelT | Exception:
        try:
            return await self._add_one(addition, company)
        except (UnavailableError, NotOpenError):
            raise
        except Exception as error:
            return error


class _Addition:
    """One call of `add`: like no other, whatever it adds."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
