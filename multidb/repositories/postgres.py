"""`PostgresRepository`: the calls every table has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NoReturn, cast
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel
from typing_extensions import TypeVar

from multidb.cache.codec import Codec
from multidb.cache.policy import CachePolicy
from multidb.errors import ConflictError, DataError, NotFoundError, StoreName
from multidb.models.entity import Row
from multidb.models.page import Page
from multidb.repositories.declaration import changes_of, check_cache, check_fields, check_table
from multidb.repositories.repository import (
    Repository,
    Resources,
    checked_class,
    checked_id,
    known_fields,
    known_values,
    misdeclared,
    model_arguments,
    page_size,
    validated,
)
from multidb.repositories.rows import row_reader
from multidb.stores.postgres.crud import Crud
from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.keyset import Keyset
from multidb.stores.postgres.statements import Statement
from multidb.stores.redis.keys import KeyPattern

__all__ = ["PostgresRepository"]

ModelT = TypeVar("ModelT", bound=Row)
NewT = TypeVar("NewT", bound=BaseModel)
ChangesT = TypeVar("ChangesT", bound=BaseModel, default=BaseModel)

Filter = sa.ColumnElement[bool]


class PostgresRepository(Repository, Generic[ModelT, NewT, ChangesT]):
    """Rows of one table, as `ModelT`; added as `NewT`, changed by `ChangesT`.

    The table has a column for every field of the model, `id` as its primary key, and `version`,
    `created_at` and `updated_at`, which the repository keeps. With a column `deleted_at`, `delete`
    only marks the row; no other call sees a marked row but `restore`.

    Every method takes part in the ambient `db.transaction()`; outside one, each is atomic by
    itself. All raise UnavailableError if PostgreSQL cannot be reached, and DataError for a value
    or a field name that does not fit.
    """

    store: ClassVar[StoreName] = "postgres"
    table: ClassVar[sa.Table]
    #: How `get` is cached; None reads PostgreSQL each time.
    cache: ClassVar[CachePolicy | None] = None
    #: Which fields each unique constraint or index is about, for the errors.
    unique: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: Columns that follow from a field: `{"email_folded": ("email", str.casefold)}`.
    derived: ClassVar[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {}

    model: ClassVar[type[Row]]
    new_model: ClassVar[type[BaseModel]]
    changes_model: ClassVar[type[BaseModel]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        models = model_arguments(cls, PostgresRepository)
        if models and all(isinstance(model, type) for model in models):
            cls.model, cls.new_model, changes = models
            # BaseModel itself is ChangesT's default: none was declared.
            cls.changes_model = changes_of(cls.new_model) if changes is BaseModel else changes

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._crud = Crud(self.table, self.model.model_fields)
        self._read: Callable[[Record], ModelT] = row_reader(
            cast(type[ModelT], self.model), self.table, self._operation("read")
        )
        self._batcher = resources.postgres.batcher(self._load_one, self._load_many)
        if self.cache is not None:
            self._cache_key = resources.cache.pattern(self.cache.key)
            self._codec = Codec(self.model | None)

    @classmethod
    def target(cls) -> str:
        return cls.table.name

    @classmethod
    def claims(cls) -> list[str]:
        # What the hole is called does not stand in the stored key.
        cached = [] if cls.cache is None else [f"redis `{KeyPattern(cls.cache.key).shape}`"]
        return super().claims() + cached

    @classmethod
    def check(cls) -> None:
        if not hasattr(cls, "model") or not hasattr(cls, "table"):
            raise misdeclared(cls, "declare `class Name(PostgresRepository[Model, New])` and its `table`")
        names = {*cls.new_model.model_fields, *cls.changes_model.model_fields, *cls.derived}
        check_table(cls, cls.table, cls.model, names, cls.unique)
        check_fields(cls, cls.model, cls.unique)
        check_fields(cls, cls.model, {name: (field,) for name, (field, _) in cls.derived.items()})
        if cls.cache is not None:
            check_cache(cls, cls.cache)

    # --- reading

    async def get(self, id: UUID) -> ModelT | None:
        """Return the row with this id, or None.

        Never older than any write whose call had returned; inside a transaction, what it sees.
        Source: the cache where the entity is cached, then PostgreSQL.
        """
        checked_id(id, self._operation("get"))
        if self.cache is None or self._resources.cache.bypassed:
            return await self._load(id)
        return await self._resources.cache.get(
            self._key(id),
            self._codec,
            lambda: self._load(id),
            ttl=self.cache.ttl,
            operation=self._operation("get"),
        )

    async def fetch(self, id: UUID) -> ModelT:
        """Return the row with this id, as `get` does.

        Raises: NotFoundError if there is none.
        """
        row = await self.get(id)
        if row is None:
            raise self._not_found(id, "fetch")
        return row

    async def get_many(self, ids: Iterable[UUID]) -> dict[UUID, ModelT]:
        """Return the rows with these ids by their id, in the order asked; ids without a row are left out.

        Source: PostgreSQL, one round trip.
        """
        wanted = list(dict.fromkeys(ids))
        for id in wanted:
            checked_id(id, self._operation("get_many"))
        if not wanted:
            return {}
        rows = await self._run("get_many", self._crud.get_many, {"ids": wanted})
        found = {row.id: row for row in map(self._read, rows)}
        return {id: found[id] for id in wanted if id in found}

    async def find(
        self,
        *filters: Filter,
        order_by: str | Sequence[str] = "id",
        limit: int = 50,
        after: str | None = None,
        **equal: Any,
    ) -> Page[ModelT]:
        """Return one page of the rows that match every filter.

        `filters` are SQLAlchemy expressions over `table.c`; `equal` names fields and the values
        they must have (None for null). `order_by` names fields, `-name` for descending; null
        counts as greater than every value, and ties are broken by `id`. `limit` is 1 to 1000.
        Give a page's `next` as `after` for the page that follows it: rows added or removed
        meanwhile make it neither repeat nor skip one that was there throughout.

        Raises: InvalidCursorError if `after` comes from another query.
        Source: PostgreSQL; the cost grows with `limit`, not with the depth of the page.
        """
        operation = self._operation("find")
        size = page_size(limit, operation)
        keyset = Keyset(self.table, self._order(order_by, operation))
        query = keyset.ordered(self._crud.select(*self._matching(filters, equal, operation)))
        statement = Statement(query.limit(size + 1))
        binding = repr((self.table.name, statement.sql, statement.arguments()[:-1])).encode()
        if after is not None:
            position = keyset.read(self._resources.cursors.decode(after, query=binding))
            statement = Statement(query.where(keyset.after(position)).limit(size + 1))
        rows = await self._run("find", statement)
        following = None
        if len(rows) > size:
            following = self._resources.cursors.encode(keyset.position(rows[size - 1]), query=binding)
        return Page(tuple(map(self._read, rows[:size])), following)

    async def find_one(self, *filters: Filter, **equal: Any) -> ModelT | None:
        """Return the one row that matches, or None; of several, the first by id."""
        query = self._crud.select(*self._matching(filters, equal, self._operation("find_one")))
        rows = await self._run("find_one", Statement(query.order_by(self.table.c.id).limit(1)))
        return self._read(rows[0]) if rows else None

    async def count(self, *filters: Filter, **equal: Any) -> int:
        """Return how many rows match; filters as for `find`. The cost grows with that number."""
        matching = self._crud.select(*self._matching(filters, equal, self._operation("count")))
        rows = await self._run(
            "count", Statement(matching.with_only_columns(sa.func.count(), maintain_column_froms=True))
        )
        return int(rows[0][0])

    async def exists(self, *filters: Filter, **equal: Any) -> bool:
        """Return whether any row matches; filters as for `find`."""
        matching = self._crud.select(*self._matching(filters, equal, self._operation("exists")))
        rows = await self._run("exists", Statement(sa.select(matching.exists())))
        return bool(rows[0][0])

    # --- writing

    async def add(self, new: NewT) -> ModelT:
        """Store a new row and return it.

        Raises: AlreadyExistsError naming the fields if a unique value is taken, the id included,
        so that adding the same thing again after a lost answer is refused; ConstraintError.
        """
        values = self._new_values(new, "add")
        # No invalidation: the absence of a row is never cached.
        return self._read((await self._run("add", self._crud.insert(values), values))[0])

    async def add_many(self, new: Iterable[NewT]) -> int:
        """Store new rows by COPY and return how many: all of them or, on any error, none.

        Raises: AlreadyExistsError; ConstraintError.
        """
        rows = [self._new_values(each, "add_many") for each in new]
        if rows:
            await self._resources.postgres.copy(
                self.table.name,
                list(rows[0]),
                map(self._crud.record, rows),
                operation=self._operation("add_many"),
                columns_of=self.unique,
            )
        return len(rows)

    async def update(
        self, id: UUID, changes: ChangesT | None = None, *, version: int | None = None, **fields: Any
    ) -> ModelT:
        """Change the given fields and return the row as it is then, its version one higher.

        With `version`, only if the row still has that one. A call that changes nothing returns
        the row as it is.

        Raises: NotFoundError; ConflictError if the row has another version by now;
        AlreadyExistsError; ConstraintError.
        """
        checked_id(id, self._operation("update"))
        values = self._changed(changes, fields)
        if not values:
            row = await self._load(id)
            rows = [row] if row is not None and version in (None, row.version) else []
        else:
            statement = self._crud.update(values, versioned=version is not None)
            rows = await self._write("update", statement, {**values, **_given(id, version)}, id)
        return rows[0] if rows else await self._explain_miss(id, version, "update")

    async def delete(self, id: UUID, *, version: int | None = None) -> bool:
        """Delete the row; return whether it was there. Idempotent.

        Where the table has `deleted_at` the row is marked and `restore` brings it back.

        Raises: ConflictError if `version` is given and the row has another by now;
        ConstraintError if other rows need it.
        """
        checked_id(id, self._operation("delete"))
        statement = self._crud.delete(versioned=version is not None)
        rows = await self._write("delete", statement, _given(id, version), id)
        if not rows and version is not None and await self._load(id) is not None:
            await self._explain_miss(id, version, "delete")
        return bool(rows)

    async def restore(self, id: UUID) -> ModelT:
        """Bring a deleted row back and return it; a row that is not deleted is returned as it is.

        Raises: NotFoundError if there never was one, or the table keeps no deleted rows;
        AlreadyExistsError if another row has taken a unique value of it meanwhile.
        """
        checked_id(id, self._operation("restore"))
        if self._crud.marks_deleted:
            rows = await self._write("restore", self._crud.restore(), _given(id), id)
            if rows:
                return rows[0]
        row = await self._load(id)
        if row is None:
            raise self._not_found(id, "restore")
        return row

    # --- how

    async def _load(self, id: UUID) -> ModelT | None:
        if self._resources.postgres.transactions.current() is not None:
            return await self._load_one(id)
        return await self._batcher.get(id)

    async def _load_one(self, id: UUID) -> ModelT | None:
        rows = await self._run("get", self._crud.get, {"id": id})
        return self._read(rows[0]) if rows else None

    async def _load_many(self, ids: Sequence[UUID]) -> dict[UUID, ModelT | DataError]:
        rows = await self._run("get", self._crud.get_many, {"ids": ids})
        return {row["id"]: self._read_or_error(row) for row in rows}

    def _read_or_error(self, row: Record) -> ModelT | DataError:
        # One row that does not fit its model must not fail those who asked for others.
        try:
            return self._read(row)
        except DataError as error:
            return error

    async def _run(
        self, name: str, statement: Statement, values: Mapping[str, Any] | None = None
    ) -> list[Record]:
        return await self._resources.postgres.fetch(
            statement, values, operation=self._operation(name), columns_of=self.unique
        )

    async def _write(
        self, name: str, statement: Statement, values: Mapping[str, Any], id: UUID
    ) -> list[ModelT]:
        # Under way until the entry is gone: closing must not come between.
        with self._resources.postgres.under_way:
            try:
                return [self._read(row) for row in await self._run(name, statement, values)]
            finally:
                # Also after an error: a write whose answer was lost may have happened.
                if self.cache is not None:
                    await self._resources.cache.invalidate([self._key(id)], operation=self._operation(name))

    def _key(self, id: UUID) -> str:
        return self._cache_key.key({self._cache_key.fields[0]: id})

    def _new_values(self, new: NewT, name: str) -> dict[str, Any]:
        checked_class(self.new_model, new, self._operation(name))
        return self._columns_of(new.model_dump())

    def _columns_of(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values by column, those that follow from others included."""
        for column, (field, derive) in self.derived.items():
            if field in values:
                values[column] = derive(values[field])
        return values

    def _changed(self, changes: ChangesT | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        operation = self._operation("update")
        if changes is not None and fields:
            raise DataError("give the changes as one object or by name, not both", operation=operation)
        if changes is None:
            changes = cast(ChangesT, validated(self.changes_model, fields, operation))
        else:
            checked_class(self.changes_model, changes, operation)
        return self._columns_of(changes.model_dump(exclude_unset=True))

    def _matching(self, filters: Sequence[Filter], equal: Mapping[str, Any], operation: str) -> list[Filter]:
        values = known_values(self.model, equal, operation)
        for each in filters:
            if not isinstance(each, sa.ColumnElement):
                raise DataError(
                    "a filter must be a SQLAlchemy expression, such as `table.c.name == value`",
                    operation=operation,
                )
        return [*filters, *(self.table.c[name] == value for name, value in values.items())]

    def _order(self, order_by: str | Sequence[str], operation: str) -> list[str]:
        names = [order_by] if isinstance(order_by, str) else list(order_by)
        known_fields([name.removeprefix("-") for name in names], self.model, operation)
        return names

    def _not_found(self, id: UUID, name: str) -> NotFoundError:
        return NotFoundError(
            f"no {self.model.__name__} has the id {id}", store="postgres", operation=self._operation(name)
        )

    async def _explain_miss(self, id: UUID, version: int | None, name: str) -> NoReturn:
        row = await self._load(id)
        if row is None:
            raise self._not_found(id, name)
        raise ConflictError(
            f"{self.model.__name__} {id} has version {row.version}, not {version}: read it again",
            store="postgres",
            operation=self._operation(name),
        )


def _given(id: UUID, version: int | None = None) -> dict[str, Any]:
    return {"given_id": id} if version is None else {"given_id": id, "given_version": version}
