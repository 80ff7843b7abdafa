"""The statements over a table, each compiled once for its shape and run with other values ever after."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_jsonable_python
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from multidb.stores.postgres.filtering import Where
from multidb.stores.postgres.keyset import Keyset
from multidb.stores.postgres.statements import Statement, encoder, unbounded

__all__ = ["Crud"]

#: How many statements of filters' shapes are kept. Past it the oldest goes, and is compiled anew when needed.
_MOST = 500


class Crud:
    """Statements over one table that read and return `fields`.

    A table with `deleted_at` is deleted from by marking: statements then see only the rows
    that are not marked, but for `restore`. With `tenant`, a column, they see and change only the
    rows where it is `:_tenant`.
    """

    def __init__(self, table: sa.Table, fields: Iterable[str], tenant: str | None = None) -> None:
        self.table = table
        self.columns = [table.c[name] for name in fields]
        self.marks_deleted = "deleted_at" in table.c
        self._ours = sa.true() if tenant is None else table.c[tenant] == self._given(tenant, "_tenant")
        self._visible = sa.and_(self._ours, *([table.c.deleted_at.is_(None)] if self.marks_deleted else []))
        self._compiled: dict[object, Statement] = {}
        #: Every `MultiDB` of the process has the same statements, and each may be in another thread.
        self._keeping = Lock()

        #: The row with `:id`.
        self.get = Statement(self.select().where(table.c.id == self._given("id")))
        #: The rows with any of `:ids`.
        self.get_many = Statement(self.select().where(table.c.id == sa.any_(self._several("id", "ids"))))

    @staticmethod
    @lru_cache(maxsize=200)
    def of(table: sa.Table, fields: tuple[str, ...], tenant: str | None = None) -> "Crud":
        """Return the statements, made once for all who ask for them."""
        return Crud(table, fields, tenant)

    # --- reading

    def find(
        self,
        where: Where,
        keyset: Keyset,
        nulls: Sequence[bool] | None,
        *,
        backwards: bool,
        inclusive: bool = False,
    ) -> Statement:
        """The first `:_limit` rows that match, in order; with `nulls`, beyond the position `:_k0`, …."""

        def build() -> sa.Select[Any]:
            query = keyset.ordered(self.select(where), backwards=backwards)
            if nulls is not None:
                query = query.where(keyset.beyond(nulls, backwards=backwards, inclusive=inclusive))
            return query.limit(sa.bindparam("_limit", None, type_=sa.Integer))

        position = None if nulls is None else tuple(nulls)
        return self.kept(("find", keyset.names, position, backwards, inclusive), where, build)

    def count(self, where: Where) -> Statement:
        """How many rows match."""
        return self.kept(
            ("count",),
            where,
            lambda: self.select(where).with_only_columns(sa.func.count(), maintain_column_froms=True),
        )

    def exists(self, where: Where) -> Statement:
        """Whether any row matches."""
        return self.kept(("exists",), where, lambda: sa.select(self.select(where).exists()))

    def present(self, name: str) -> Statement:
        """Which of `:values` some row has in a column, by their places, the first being 1."""

        def build() -> sa.Select[Any]:
            # By place, for the server may give back another spelling of the value.
            asked = (
                sa.func.unnest(self._several(name, "values"))
                .table_valued("value", with_ordinality="place")
                .render_derived()
            )
            holds = self.select().where(self.table.c[name] == asked.c.value).exists()
            return sa.select(asked.c.place).where(holds)

        return self._once(("present", name), build)

    def related(self, by: str, keyset: Keyset, through: tuple[str, str] | None) -> Statement:
        """The rows that have any of `:values` in the column `by`, in order, and that value as `_of`.

        With `through`, a table and a column of it, the rows whose ids stand in that column where
        `by`, then a column of that table too, is one of the values.
        """

        def build() -> sa.Select[Any]:
            if through is None:
                of, query = self.table.c[by], self.select()
            else:
                other = self.table.metadata.tables[through[0]]
                of = other.c[by]
                query = self.select().join(other, other.c[through[1]] == self.table.c.id)
                if "deleted_at" in other.c:
                    query = query.where(other.c.deleted_at.is_(None))
            values = sa.bindparam("values", None, type_=sa.ARRAY(unbounded(of.type), dimensions=1))
            return keyset.ordered(query.add_columns(of.label("_of")).where(of == sa.any_(values)))

        return self._once(("related", by, keyset.names, through), build)

    def taken(self, names: Sequence[str], predicate: sa.ColumnElement[bool] | None) -> Statement:
        """Which of the keys in the arrays `:name` some row has; `predicate` is that of the unique index."""

        def build() -> sa.Select[Any]:
            keys = self._unnested(names)
            same = [self.table.c[name] == keys.c[name] for name in names]
            row = sa.select(self.table).where(*same, sa.true() if predicate is None else predicate)
            return sa.select(*(keys.c[name] for name in names)).where(row.exists())

        return self._once(("taken", tuple(names)), build)

    def select(self, where: Where | None = None) -> sa.Select[Any]:
        """The rows that can be seen, those that match, to make a statement of one's own for `kept`."""
        query = sa.select(*self.columns).where(self._visible)
        return query if where is None else query.where(where.expression(self.table))

    def kept(self, key: tuple[Any, ...], where: Where, build: Callable[[], Any]) -> Statement:
        """Return the statement that `build` makes, compiled once for each key and shape of `where`."""
        return Statement(build()) if where.shape is None else self._once((*key, where.shape), build)

    # --- writing

    def insert(self, names: Iterable[str]) -> Statement:
        """Add a row with the values `:name` of each name; returns it."""
        names = tuple(names)
        return self._once(
            ("insert", names),
            lambda: sa.insert(self.table).values(self._values(names)).returning(*self.columns),
        )

    def insert_many(self, names: Iterable[str]) -> Statement:
        """Add rows of the arrays `:name`: all or none."""
        names = tuple(names)
        return self._once(("insert many", names), lambda: self._insertion(names))

    def insert_new(self, names: Iterable[str], index: tuple[Sequence[str], Any] | None = None) -> Statement:
        """Add rows of the arrays `:name`, but those that conflict; returns the rows added.

        With `index`, its columns and its predicate, those that conflict there alone.
        """
        names, (columns, predicate) = tuple(names), index or (None, None)
        return self._once(
            ("insert new", names, tuple(columns or ())),
            lambda: (
                self._insertion(names)
                .on_conflict_do_nothing(index_elements=columns, index_where=predicate)
                .returning(*self.columns)
            ),
        )

    def upsert(
        self, names: Iterable[str], changed: Iterable[str], index: tuple[Sequence[str], Any], *, many: bool
    ) -> Statement:
        """Add a row, or change `changed` of the one that has its key in `index`; returns it.

        With `many`, rows of the arrays `:name`, no two of one key. `index` is its columns and its
        predicate. A row of another tenant, or a deleted one, is left alone, and nothing is returned
        for it.
        """
        names, changed, (columns, predicate) = tuple(names), tuple(changed), index

        def build() -> sa.UpdateBase:
            insert = (
                self._insertion(names) if many else postgresql.insert(self.table).values(self._values(names))
            )
            # Also with nothing to change, for only a row that is written is returned.
            kept = self._kept_by_us() if changed else {"id": self.table.c.id}
            return insert.on_conflict_do_update(
                index_elements=columns,
                index_where=predicate,
                set_={**{name: insert.excluded[name] for name in changed}, **kept},
                where=self._visible,
            ).returning(*self.columns)

        return self._once(("upsert", names, changed, tuple(columns), many), build)

    def records(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
        """Yield rows as COPY takes them, in the order of the first one's values."""
        encoders = [(name, encoder(self.table.c[name].type, name)) for name in rows[0]]
        for row in rows:
            yield tuple(
                row[name] if encode is None or row[name] is None else encode(row[name])
                for name, encode in encoders
            )

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Return rows by column, as the statements of many rows take them."""
        return {
            name: [to_jsonable_python(row[name], inf_nan_mode="strings") for row in rows]
            if isinstance(self.table.c[name].type, sa.ARRAY)
            else [row[name] for row in rows]
            for name in rows[0]
        }

    def update(self, names: Iterable[str], *, versioned: bool, fenced: bool = False) -> Statement:
        """Change the row with `:given_id`, and `:given_version` if versioned; returns it.

        If fenced, it takes `:fence` over, and only where no higher one stands.
        """
        names = tuple(names)

        def build() -> sa.UpdateBase:
            values: dict[str, Any] = self._values(names)
            where = self._visible
            if fenced:
                values["fence"] = self._given("fence")
                fence = self.table.c.fence
                passes = fence <= values["fence"]
                where = sa.and_(where, sa.or_(passes, fence.is_(None)) if fence.nullable else passes)
            return self._change(values, self._is_given(versioned), where).returning(*self.columns)

        return self._once(("update", names, versioned, fenced), build)

    def update_many(self, names: Iterable[str], where: Where, *, ids: bool) -> Statement:
        """Change the rows that match to the values `:name`; returns their ids, or else their number."""
        names = tuple(names)
        return self.kept(
            ("update many", names, ids),
            where,
            lambda: self._told(
                self._change(self._values(names), self._visible, where.expression(self.table)), ids
            ),
        )

    def delete(self, *, versioned: bool) -> Statement:
        """Delete or mark the row with `:given_id`, and `:given_version` if versioned; returns it."""
        return self._once(
            ("delete", versioned), lambda: self._removal(self._is_given(versioned)).returning(*self.columns)
        )

    def delete_many(self, where: Where, *, ids: bool) -> Statement:
        """Delete or mark the rows that match; returns their ids, or else their number."""
        return self.kept(
            ("delete many", ids), where, lambda: self._told(self._removal(where.expression(self.table)), ids)
        )

    def restore(self) -> Statement:
        """Take the mark off the row with `:given_id`; returns it."""
        marked = sa.and_(self._ours, self.table.c.deleted_at.is_not(None))
        return self._once(
            "restore",
            lambda: self._change({"deleted_at": None}, marked, self._is_given(versioned=False)).returning(
                *self.columns
            ),
        )

    # --- how

    def _insertion(self, names: Sequence[str]) -> postgresql.Insert:
        rows = self._unnested(names)
        return postgresql.insert(self.table).from_select(names, sa.select(*(rows.c[name] for name in names)))

    def _removal(self, where: sa.ColumnElement[bool]) -> sa.Update | sa.Delete:
        if self.marks_deleted:
            return self._change({"deleted_at": sa.func.now()}, self._visible, where)
        return sa.delete(self.table).where(self._visible, where)

    def _change(self, values: Mapping[str, Any], *where: sa.ColumnElement[bool]) -> sa.Update:
        return sa.update(self.table).where(*where).values({**values, **self._kept_by_us()})

    def _kept_by_us(self) -> dict[str, Any]:
        return {"version": self.table.c.version + 1, "updated_at": sa.func.now()}

    def _told(self, change: sa.Update | sa.Delete, ids: bool) -> sa.Executable:
        if ids:
            return change.returning(self.table.c.id)
        changed = change.returning(sa.literal_column("1")).cte("changed")
        return sa.select(sa.func.count()).select_from(changed)

    def _is_given(self, versioned: bool) -> sa.ColumnElement[bool]:
        names = ("id", "version") if versioned else ("id",)
        return sa.and_(*(self.table.c[name] == self._given(name, f"given_{name}") for name in names))

    def _values(self, names: Collection[str]) -> dict[str, sa.BindParameter[Any]]:
        return {name: self._given(name) for name in names}

    def _given(self, name: str, parameter: str | None = None) -> sa.BindParameter[Any]:
        return sa.bindparam(parameter or name, None, type_=unbounded(self.table.c[name].type))

    def _several(self, name: str, parameter: str) -> sa.BindParameter[Any]:
        type_ = unbounded(self.table.c[name].type)
        return sa.bindparam(parameter, None, type_=sa.ARRAY(type_, dimensions=1))

    def _unnested(self, names: Collection[str]) -> sa.Subquery:
        """Return rows made of the arrays that `arrays` makes."""
        given = (
            sa.func.unnest(
                *(
                    sa.bindparam(name, None, type_=sa.ARRAY(self._travelling(name), dimensions=1))
                    for name in names
                )
            )
            .table_valued(*(sa.column(name, self._travelling(name)) for name in names), name="given")
            .render_derived()
        )
        return sa.select(*(self._landed(name, given.c[name]) for name in names)).subquery("rows")

    def _travelling(self, name: str) -> TypeEngine[Any]:
        # Of arrays of arrays PostgreSQL would unnest the inner ones too.
        type_ = self.table.c[name].type
        if isinstance(type_, sa.ARRAY):
            return postgresql.JSONB(none_as_null=True)
        # None is SQL's NULL, also where JSON has a null of its own.
        return type(type_)(none_as_null=True) if isinstance(type_, sa.JSON) else unbounded(type_)

    def _landed(self, name: str, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        type_ = self.table.c[name].type
        if not isinstance(type_, sa.ARRAY):
            return value.label(name)
        item = sa.func.jsonb_array_elements_text(value).column_valued("item")
        array = sa.cast(sa.func.array(sa.select(item).scalar_subquery()), unbounded(type_))
        return sa.case((value.is_not(None), array)).label(name)

    def _once(self, key: object, build: Callable[[], Any]) -> Statement:
        statement = self._compiled.get(key)
        if statement is None:
            statement = Statement(build())
            with self._keeping:
                self._compiled[key] = statement
                if len(self._compiled) > _MOST:
                    del self._compiled[next(iter(self._compiled))]
        return statement
