"""`PostgresReader`: the calls every table has that change nothing."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, cast, get_type_hints
from uuid import UUID

import sqlalchemy as sa
from typing_extensions import TypeVar

from multidb.cache.codec import Codec
from multidb.cache.leases import Entry
from multidb.cache.policy import CachePolicy
from multidb.errors import NotFoundError, StoreName
from multidb.models.entity import Entity
from multidb.models.page import Page
from multidb.repositories.criteria import OrderBy, fields_class, order_names
from multidb.repositories.declaration import check_cache, check_fields, check_table
from multidb.repositories.paging import Asked, Place, page_of
from multidb.repositories.relations import Relation, include
from multidb.repositories.repository import (
    Repository,
    Resources,
    checked_id,
    checked_ids,
    known_values,
    misdeclared,
    model_arguments,
    page_size,
)
from multidb.repositories.rows import row_reader
from multidb.repositories.shared_reads import SharedReads
from multidb.repositories.table_criteria import where_of
from multidb.stores.postgres.crud import Crud
from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.filtering import Filter, Where
from multidb.stores.postgres.keyset import Keyset
from multidb.stores.postgres.statements import Statement
from multidb.stores.redis.keys import KeyPattern

__all__ = ["PostgresReader"]

ModelT = TypeVar("ModelT", bound=Entity)

#: Rows a round trip of `stream`.
_STREAMED = 1000


class PostgresReader(Repository, Generic[ModelT]):
    """Rows of one table, as `ModelT`, to be read.

    The table has a column for every field of the model, and `id`. With a column `deleted_at`, no
    call sees a row that is marked there.

    Filters are conditions over the fields, `db.users.c.name.ilike("a%")`, or SQLAlchemy expressions
    over `table.c`; what is given by name, `name="Ada"`, must be equal (None for null).

    With `tenant`, the field that names the company a row belongs to, every call inside
    `db.tenant(...)` sees that company's rows only.

    Every method takes part in the ambient `db.transaction()`. All raise UnavailableError if
    PostgreSQL cannot be reached, and DataError for a value or a field name that does not fit.
    """

    store: ClassVar[StoreName] = "postgres"
    table: ClassVar[sa.Table]
    #: The order of `find` where the caller names none.
    order_by: ClassVar[str] = "id"
    #: How `get` is cached; None reads PostgreSQL each time.
    cache: ClassVar[CachePolicy | None] = None
    #: The field that holds the id of the company a row belongs to; None where rows belong to nobody.
    tenant: ClassVar[str | None] = None
    #: What `include` may name, and how it is found.
    relations: ClassVar[Mapping[str, Relation]] = {}
    #: The fields, to make conditions and orders of. A subclass annotates its own class of them.
    c: ClassVar[Any]

    model: ClassVar[type[Entity]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        models = model_arguments(cls, PostgresReader)
        if models and isinstance(models[0], type):
            cls.model = models[0]
            cls.c = fields_class(cls)(cls.model.__name__, cls.model.model_fields)

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        fields = tuple(self.model.model_fields)
        self._crud_of_all = Crud.of(self.table, fields)
        self._crud_of_tenant = None if self.tenant is None else Crud.of(self.table, fields, self.tenant)
        self._read = row_reader(cast(type[ModelT], self.model), self.table, self._operation("read"))
        self._shared = SharedReads(resources.postgres, self._crud, self._run, self._read)
        if self.cache is not None:
            policy = self.cache
            if self.entity() in resources.settings.cache_local:
                policy = replace(policy, local=True)
            self._cache_key = resources.cache.pattern(policy.key)
            self._family = resources.cache.family(
                self, policy, Codec(self.model | None), self._operation("get")
            )

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
        check_table(cls, cls.table, cls.model)
        check_fields(cls, cls.model, {"order_by": [cls.order_by.removeprefix("-")]})
        check_fields(cls, cls.model, {"tenant": [] if cls.tenant is None else [cls.tenant]})
        check_fields(cls, cls.model, {f"c: {type(cls.c).__name__}": get_type_hints(type(cls.c))})
        if cls.cache is not None:
            check_cache(cls, cls.cache)

    # --- reading

    async def get(self, id: UUID, *, include: Sequence[str] = ()) -> ModelT | None:
        """Return the row with this id, or None.

        Never older than any write whose call had returned (with `CachePolicy.local`, in this process);
        inside a transaction, what it sees.
        `include` names relations to load with it, one round trip each, shared with the calls that
        meet it.

        Source: the cache where the entity is cached, then PostgreSQL.
        """
        operation = self._operation("get")
        checked_id(id, operation)
        company = self._company(operation)
        if self.cache is None:
            row = await self._shared.load(id, company)
        else:
            row = await self._resources.cache.get(
                self._entry(id), lambda: self._shared.load(id, company), scope=company
            )
            if row is not None and not self._is_of(company, row):
                row = None
        return row if row is None or not include else (await self._including([row], include, operation))[0]

    async def fetch(self, id: UUID, *, include: Sequence[str] = ()) -> ModelT:
        """Return the row with this id, as `get` does.

        Raises: NotFoundError if there is none.
        """
        row = await self.get(id, include=include)
        if row is None:
            raise self._not_found(id, "fetch")
        return row

    async def get_many(self, ids: Iterable[UUID], *, include: Sequence[str] = ()) -> dict[UUID, ModelT]:
        """Return the rows with these ids by their id, in the order asked; ids without a row are left out.

        Source: the cache where the entity is cached, one round trip; then PostgreSQL, one for those
        it does not have, and one for each relation in `include`.
        """
        operation = self._operation("get_many")
        wanted = checked_ids(ids, operation)
        if not wanted:
            return {}
        company = self._company(operation)

        async def load(ids: Sequence[UUID]) -> dict[UUID, ModelT]:
            rows = await self._run("get_many", self._crud(company).get_many, {"ids": ids}, company)
            return {row.id: row for row in map(self._read, rows)}

        if self.cache is None:
            found = await load(wanted)
        else:
            found = await self._resources.cache.get_many({id: self._entry(id) for id in wanted}, load)
        ordered = [found[id] for id in wanted if id in found and self._is_of(company, found[id])]
        return {row.id: row for row in await self._including(ordered, include, operation)}

    async def find(
        self,
        *filters: Filter,
        order_by: OrderBy | None = None,
        limit: int = 50,
        after: str | None = None,
        before: str | None = None,
        total: bool = False,
        include: Sequence[str] = (),
        **equal: Any,
    ) -> Page[ModelT]:
        """Return one page of the rows that match every filter.

        `order_by` names fields, `-name` for descending; null counts as greater than every value,
        and ties are broken by `id`. `limit` is 1 to 1000. Give a page's `next` as `after` for the
        page that follows it, or its `previous` as `before` for the one it follows: rows added or
        removed meanwhile make it neither repeat nor skip one that was there throughout. With
        `total` a second query counts all that match. `include` names relations to load, one round
        trip each.

        Raises: InvalidCursorError if a cursor comes from another query.
        Source: PostgreSQL; the cost grows with `limit`, not with the depth of the page.
        """
        operation = self._operation("find")
        asked = Asked(after, before, operation)
        size = page_size(limit, operation)
        company = self._company(operation)
        where = self._where(filters, equal, operation)
        keyset = self._keyset(order_by, operation)
        first = self._crud(company).find(where, keyset, None, backwards=False)
        # What a cursor is good for: this query, with these values, for this company.
        query = repr((self.table.name, first.sql, first.arguments(where.values), company)).encode()
        place = asked.place(self._resources.cursors, query)
        rows, more = await self._rows(where, keyset, size, place, company, "find", backwards=asked.backwards)
        return page_of(
            await self._including(list(map(self._read, rows)), include, operation),
            rows,
            keyset.position,
            asked=asked,
            place=place,
            more=more,
            cursors=self._resources.cursors,
            query=query,
            total=await self._count(where, company) if total else None,
        )

    def stream(
        self, *filters: Filter, order_by: OrderBy | None = None, **equal: Any
    ) -> AsyncIterator[ModelT]:
        """Yield every row that matches, in order; filters and order as for `find`.

        Rows come 1,000 a round trip, each found by where the last one ended, and no connection is
        held between them: the consumer may be slow, and stop at any row. A row that is there
        throughout comes exactly once; one added, changed or removed meanwhile may come or not. For
        a snapshot, stream inside `db.transaction(isolation="repeatable read")`. Whose rows they are
        is decided by the call, wherever they are consumed.

        Source: PostgreSQL.
        """
        operation = self._operation("stream")
        company = self._company(operation)
        where = self._where(filters, equal, operation)
        return self._stream(where, self._keyset(order_by, operation), company)

    async def _stream(self, where: Where, keyset: Keyset, company: UUID | None) -> AsyncIterator[ModelT]:
        place: Place | None = None
        while True:
            rows, more = await self._rows(where, keyset, _STREAMED, place, company, "stream")
            for row in rows:
                yield self._read(row)
            if not more:
                return
            place = Place(keyset.position(rows[-1]))

    async def find_one(self, *filters: Filter, include: Sequence[str] = (), **equal: Any) -> ModelT | None:
        """Return the one row that matches, or None; of several, the first by id."""
        operation = self._operation("find_one")
        company = self._company(operation)
        where = self._where(filters, equal, operation)
        rows, _ = await self._rows(where, self._keyset("id", operation), 1, None, company, "find_one")
        found = await self._including(list(map(self._read, rows)), include, operation)
        return found[0] if found else None

    async def count(self, *filters: Filter, **equal: Any) -> int:
        """Return how many rows match; filters as for `find`. The cost grows with that number."""
        operation = self._operation("count")
        return await self._count(self._where(filters, equal, operation), self._company(operation))

    async def exists(self, *filters: Filter, **equal: Any) -> bool:
        """Return whether any row matches; filters as for `find`.

        Calls that ask by one and the same field, `exists(email=...)`, share their round trips.
        """
        operation = self._operation("exists")
        company = self._company(operation)
        if not filters and len(equal) == 1:
            ((name, value),) = known_values(self.model, equal, operation).items()
            if value is not None and not isinstance(self.table.c[name].type, sa.ARRAY | sa.JSON):
                return await self._shared.present(name, value, company)
        where = self._where(filters, equal, operation)
        rows = await self._run("exists", self._crud(company).exists(where), where.values, company)
        return bool(rows[0][0])

    # --- how

    def _company(self, operation: str) -> UUID | None:
        """Return the company whose rows the call is about, or None for everybody's."""
        return None if self.tenant is None else self._resources.tenant(operation)

    def _crud(self, company: UUID | None) -> Crud:
        return self._crud_of_all if company is None or self._crud_of_tenant is None else self._crud_of_tenant

    async def related(
        self,
        values: Sequence[Any],
        *,
        by: str,
        order_by: str = "id",
        through: tuple[str, str] | None = None,
    ) -> dict[Any, list[ModelT]]:
        """Return the rows that have any of `values` in the field `by`, in order, by that value.

        With `through`, a table and its column of ids of these rows, `by` is a column of that table.
        It is what a `Relation` loads by; calls about one value share their round trips.
        """
        operation = self._operation("include")
        keyset = self._keyset(order_by, operation)
        return await self._shared.related(values, (by, keyset, through, self._company(operation)))

    async def _including(self, rows: list[ModelT], names: Sequence[str], operation: str) -> list[ModelT]:
        return await include(self, self._resources, rows, names, operation) if names else rows

    async def _count(self, where: Where, company: UUID | None) -> int:
        rows = await self._run("count", self._crud(company).count(where), where.values, company)
        return int(rows[0][0])

    async def _rows(
        self,
        where: Where,
        keyset: Keyset,
        size: int,
        place: Place | None,
        company: UUID | None,
        name: str,
        *,
        backwards: bool = False,
    ) -> tuple[list[Record], bool]:
        """Return up to `size` rows from a place on, in order, and whether there are more."""
        values: dict[str, Any] = {**where.values, "_limit": size + 1}
        nulls: list[bool] | None = None
        inclusive = False
        if place is not None:
            here = keyset.read(place.position)
            nulls = [value is None for value in here.values()]
            values |= here
            inclusive = place.inclusive
        statement = self._crud(company).find(where, keyset, nulls, backwards=backwards, inclusive=inclusive)
        rows = await self._run(name, statement, values, company)
        more = len(rows) > size
        rows = rows[:size]
        return rows[::-1] if backwards else rows, more

    async def _run(
        self, name: str, statement: Statement, values: Mapping[str, Any], company: UUID | None
    ) -> list[Record]:
        if company is not None:
            values = {**values, "_tenant": company}
        return await self._resources.postgres.fetch(
            statement, values, operation=self._operation(name), tenant=company
        )

    def _entry(self, id: UUID) -> Entry:
        return Entry(self._key(id), self._family)

    def _key(self, id: UUID) -> str:
        return self._cache_key.key({self._cache_key.fields[0]: id})

    def _is_of(self, company: UUID | None, row: ModelT) -> bool:
        # What a cache holds, it holds for everybody.
        return company is None or getattr(row, self.tenant or "") == company

    def _where(self, filters: Sequence[Filter], equal: Mapping[str, Any], operation: str) -> Where:
        return where_of(self.model, self.table, filters, equal, operation)

    def _keyset(self, order_by: OrderBy | None, operation: str) -> Keyset:
        given = self.order_by if order_by is None else order_by
        return Keyset.of(self.table, order_names(self.model, given, operation))

    def _not_found(self, id: UUID, name: str) -> NotFoundError:
        return NotFoundError(
            f"no {self.model.__name__} has the id {id}", store="postgres", operation=self._operation(name)
        )
