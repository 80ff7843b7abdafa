"""`PostgresRepository`: the calls every table has."""

from collections.abc import AsyncIterable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NoReturn
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from multidb.errors import DataError
from multidb.models.entity import Row
from multidb.repositories.bulk import Bulk, Upsert, refused
from multidb.repositories.chunks import Progress
from multidb.repositories.criteria import some
from multidb.repositories.declaration import (
    KEPT,
    changes_of,
    check_columns,
    check_constraints,
    check_fields,
)
from multidb.repositories.postgres_reader import PostgresReader
from multidb.repositories.repository import (
    Resources,
    changed_values,
    check_expected,
    check_fence,
    checked_class,
    checked_id,
    misdeclared,
    model_arguments,
    overtaken,
)
from multidb.repositories.shared_adds import SharedAdds
from multidb.stores.postgres.ambient import Transaction
from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.filtering import Filter
from multidb.stores.postgres.statements import Statement
from multidb.stores.postgres.transactions import Options

__all__ = ["PostgresRepository"]

ModelT = TypeVar("ModelT", bound=Row)
NewT = TypeVar("NewT", bound=BaseModel)
ChangesT = TypeVar("ChangesT", bound=BaseModel, default=BaseModel)


class PostgresRepository(PostgresReader[ModelT], Generic[ModelT, NewT, ChangesT]):
    """Rows of one table, as `ModelT`; added as `NewT`, changed by `ChangesT`.

    The table has a column for every field of the model, `id` as its primary key, and `version`,
    `created_at` and `updated_at`, which the repository keeps. With a column `deleted_at`, `delete`
    only marks the row; no other call sees a marked row but `restore`.

    Outside `db.transaction()` each method is atomic by itself. Inside `db.tenant(...)` a row of
    another company is neither seen nor changed, and none can be added.
    """

    #: Which fields each unique constraint or index is about, for the errors and for `upsert`.
    unique: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: Columns that follow from a field: `{"email_folded": ("email", str.casefold)}`.
    derived: ClassVar[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {}

    new_model: ClassVar[type[BaseModel]]
    changes_model: ClassVar[type[BaseModel]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        models = model_arguments(cls, PostgresRepository)
        if models and all(isinstance(model, type) for model in models):
            _, cls.new_model, changes = models
            # BaseModel itself is ChangesT's default: none was declared.
            cls.changes_model = changes_of(cls.new_model) if changes is BaseModel else changes

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._adds = SharedAdds(resources.postgres, self._crud, self._run, self._read)

    @classmethod
    def check(cls) -> None:
        super().check()
        if not hasattr(cls, "new_model"):
            raise misdeclared(cls, "declare `class Name(PostgresRepository[Model, New])` and its `table`")
        written = {*cls.new_model.model_fields, *cls.changes_model.model_fields, *cls.derived}
        check_columns(cls, cls.table, KEPT | written)
        check_constraints(cls, cls.table, cls.unique)
        check_fields(cls, cls.model, cls.unique)
        check_fields(cls, cls.model, {name: (field,) for name, (field, _) in cls.derived.items()})

    # --- one row

    async def add(self, new: NewT) -> ModelT:
        """Store a new row and return it.

        Calls that meet share one statement; each has its own result and its own error.

        Raises: AlreadyExistsError naming the fields if a unique value is taken, the id included,
        so that adding the same thing again after a lost answer is refused; ConstraintError.
        """
        operation = self._operation("add")
        company = self._company(operation)
        # No invalidation: the absence of a row is never cached.
        return await self._adds.add(self._new_values(new, operation, company), company)

    async def update(
        self,
        id: UUID,
        changes: ChangesT | None = None,
        *,
        version: int | None = None,
        fence: int | None = None,
        **fields: Any,
    ) -> ModelT:
        """Change the given fields and return the row as it is then, its version one higher.

        With `version`, only if the row still has that one. With `fence`, the number a lock gave,
        only if no holder of a later lock has written; the table needs a column `fence`. A call that
        changes nothing returns the row as it is.

        Raises: NotFoundError; ConflictError if the row has another version by now, which it
        tells, or if the fence is passed; AlreadyExistsError; ConstraintError.
        """
        operation = self._operation("update")
        checked_id(id, operation)
        check_expected(version, operation)
        company = self._company(operation)
        values = self._changed(changes, fields, operation, company)
        if fence is not None:
            self._check_fence(fence, operation)
            values["fence"] = fence
        if not values:
            row = await self._shared.load(id, company)
            rows = [row] if row is not None and version in (None, row.version) else []
        else:
            names = [name for name in values if name != "fence"]
            statement = self._crud(company).update(
                names, versioned=version is not None, fenced=fence is not None
            )
            rows = await self._write("update", statement, {**values, **_given(id, version)}, id, company)
        return rows[0] if rows else await self._explain_miss(id, version, fence, "update", company)

    async def upsert(self, new: NewT, *, on: str | Sequence[str] = "id") -> ModelT:
        """Store a new row, or change the one that has the same `on`; return it as it is then.

        `on` names the fields of a unique constraint or index. Of a row that is there, the fields
        that were given to `new` change, those that it has by default stay, and so does the id.
        Atomic, however many do it at once.

        Raises: AlreadyExistsError if another unique value is taken, or a row that cannot be seen, a
        deleted one or another company's, has `on`; ConstraintError.
        """
        operation = self._operation("upsert")
        company = self._company(operation)
        by = Upsert.by(on, self.new_model, self.table, self.unique, self.derived, operation)
        values = self._new_values(new, operation, company)
        statement = self._crud(company).upsert(values, self._changes(new, by.on), by.index, many=False)
        rows = await self._write_rows("upsert", statement, values, company)
        if not rows:
            raise refused(by, operation)
        return self._read(rows[0])

    async def delete(self, id: UUID, *, version: int | None = None) -> bool:
        """Delete the row; return whether it was there. Idempotent.

        Where the table has `deleted_at` the row is marked and `restore` brings it back.

        Raises: ConflictError if `version` is given and the row has another by now;
        ConstraintError if other rows need it.
        """
        operation = self._operation("delete")
        checked_id(id, operation)
        check_expected(version, operation)
        company = self._company(operation)
        statement = self._crud(company).delete(versioned=version is not None)
        rows = await self._write("delete", statement, _given(id, version), id, company)
        if not rows and version is not None and await self._shared.load(id, company) is not None:
            await self._explain_miss(id, version, None, "delete", company)
        return bool(rows)

    async def restore(self, id: UUID) -> ModelT:
        """Bring a deleted row back and return it; a row that is not deleted is returned as it is.

        Raises: NotFoundError if there never was one, or the table keeps no deleted rows;
        AlreadyExistsError if another row has taken a unique value of it meanwhile.
        """
        operation = self._operation("restore")
        checked_id(id, operation)
        company = self._company(operation)
        crud = self._crud(company)
        if crud.marks_deleted:
            rows = await self._write("restore", crud.restore(), _given(id), id, company)
            if rows:
                return rows[0]
        row = await self._shared.load(id, company)
        if row is None:
            raise self._not_found(id, "restore")
        return row

    # --- many rows

    async def add_many(
        self, new: Iterable[NewT] | AsyncIterable[NewT], *, progress: Progress | None = None
    ) -> int:
        """Store new rows and return how many: all of them or, on any error, none.

        Takes any number, also from an iterator or an async iterator, 5,000 a round trip; `progress`
        is called after each with how many there are so far. More than one round trip are a
        transaction, or a savepoint where one is ambient.

        Raises: AlreadyExistsError, whose `keys` are the values of `columns` that were refused in the
        round trip that failed, the first one to; ConstraintError.
        """
        operation = self._operation("add_many")
        return await self._bulk(self._company(operation)).add(new, operation, progress)

    async def update_many(self, *filters: Filter, changes: ChangesT | Mapping[str, Any], **equal: Any) -> int:
        """Change the rows that match every filter and return how many; filters as for `find`.

        One statement: all of them or, on any error, none. At least one filter must be given.

        Raises: AlreadyExistsError; ConstraintError.
        """
        operation = self._operation("update_many")
        company = self._company(operation)
        where = self._where(some(filters, equal, "sqlalchemy.true()", operation), equal, operation)
        if isinstance(changes, Mapping):
            values = self._changed(None, changes, operation, company)
        else:
            checked_class(self.changes_model, changes, operation)
            values = self._changed(changes, {}, operation, company)
        if not values:
            return await self._count(where, company)
        statement = self._crud(company).update_many(values, where, ids=self.cache is not None)
        return await self._write_many("update_many", statement, {**where.values, **values}, company)

    async def upsert_many(
        self,
        new: Iterable[NewT] | AsyncIterable[NewT],
        *,
        on: str | Sequence[str] = "id",
        progress: Progress | None = None,
    ) -> int:
        """Store new rows or change those that are there, each as `upsert` does; return how many were given.

        All of them or, on any error, none. Of several with the same `on` the last one wins. Takes
        what `add_many` takes, in as many round trips.

        Raises: AlreadyExistsError if another unique value is taken; ConstraintError.
        """
        operation = self._operation("upsert_many")
        by = Upsert.by(on, self.new_model, self.table, self.unique, self.derived, operation)
        return await self._bulk(self._company(operation)).upsert(
            new, by, operation, progress, self._invalidate
        )

    async def delete_many(self, *filters: Filter, **equal: Any) -> int:
        """Delete the rows that match every filter, or mark them, and return how many.

        One statement: all of them or, on any error, none. At least one filter must be given.

        Raises: ConstraintError if other rows need one.
        """
        operation = self._operation("delete_many")
        company = self._company(operation)
        where = self._where(some(filters, equal, "sqlalchemy.true()", operation), equal, operation)
        statement = self._crud(company).delete_many(where, ids=self.cache is not None)
        return await self._write_many("delete_many", statement, where.values, company)

    # --- how

    async def _run(
        self, name: str, statement: Statement, values: Mapping[str, Any], company: UUID | None
    ) -> list[Record]:
        if company is not None:
            values = {**values, "_tenant": company}
        return await self._resources.postgres.fetch(
            statement, values, operation=self._operation(name), columns_of=self.unique, tenant=company
        )

    async def _write(
        self, name: str, statement: Statement, values: Mapping[str, Any], id: UUID, company: UUID | None
    ) -> list[ModelT]:
        if self.cache is None:
            rows = await self._run(name, statement, values, company)
        else:
            async with self._resources.cache.changing([self._key(id)]):
                rows = await self._run(name, statement, values, company)
        return [self._read(row) for row in rows]

    async def _write_many(
        self, name: str, statement: Statement, values: Mapping[str, Any], company: UUID | None
    ) -> int:
        rows = await self._write_rows(name, statement, values, company)
        return int(rows[0][0]) if self.cache is None else len(rows)

    async def _write_rows(
        self, name: str, statement: Statement, values: Mapping[str, Any], company: UUID | None
    ) -> list[Record]:
        """Run a write whose answer alone tells which entries of the cache to delete.

        Not committed before they are known: an answer that was lost, to a cancellation or with the
        connection, would leave what is stored and nobody deletes.
        """
        if self.cache is None:
            return await self._run(name, statement, values, company)

        async def write(_: Transaction) -> list[Record]:
            rows = await self._run(name, statement, values, company)
            await self._invalidate([row["id"] for row in rows])
            return rows

        # Twice, for what the driver repeats by itself outside a transaction.
        return await self._resources.postgres.transactions.run(write, attempts=2, options=Options())

    async def _invalidate(self, ids: Sequence[UUID]) -> None:
        if self.cache is not None and ids:
            await self._resources.cache.invalidate([self._key(id) for id in ids])

    def _bulk(self, company: UUID | None) -> Bulk[NewT]:
        return Bulk(
            self._resources.postgres,
            self._crud(company),
            self.unique,
            lambda new, operation: self._new_values(new, operation, company),
            self._changes,
            company,
            copies=self.tenant is None,
        )

    def _new_values(self, new: NewT, operation: str, company: UUID | None) -> dict[str, Any]:
        checked_class(self.new_model, new, operation)
        return self._columns_of(new.model_dump(), operation, company)

    def _columns_of(self, values: dict[str, Any], operation: str, company: UUID | None) -> dict[str, Any]:
        """Return the values by column, those that follow from others included."""
        if company is not None and values.get(self.tenant or "", company) != company:
            raise DataError(
                f"`{self.tenant}` must be the company of `db.tenant(...)`, or call it inside `db.unscoped()`",
                operation=operation,
            )
        for column, (field, derive) in self.derived.items():
            if field in values:
                values[column] = derive(values[field])
        return values

    def _changes(self, new: NewT, on: Collection[str]) -> tuple[str, ...]:
        """Return the columns that an upsert of `new` by `on` changes."""
        fields = new.model_fields_set - {*on, "id"}
        derived = (column for column, (field, _) in self.derived.items() if field in fields)
        return (*sorted(fields), *derived)

    def _changed(
        self, changes: ChangesT | None, fields: Mapping[str, Any], operation: str, company: UUID | None
    ) -> dict[str, Any]:
        values = changed_values(self.changes_model, changes, fields, operation)
        return self._columns_of(values, operation, company)

    def _check_fence(self, fence: int, operation: str) -> None:
        if "fence" not in self.table.c:
            raise DataError(f"`fence`: table `{self.table.name}` has no such column", operation=operation)
        check_fence(fence, operation)

    async def _explain_miss(
        self, id: UUID, version: int | None, fence: int | None, name: str, company: UUID | None
    ) -> NoReturn:
        row = await self._shared.load(id, company)
        if row is None:
            raise self._not_found(id, name)
        raise overtaken(
            self.model,
            id,
            version=row.version,
            wanted=version,
            fence=fence,
            store="postgres",
            operation=self._operation(name),
        )


def _given(id: UUID, version: int | None = None) -> dict[str, Any]:
    return {"given_id": id} if version is None else {"given_id": id, "given_version": version}
