"""The statements a table's repository runs again and again, each compiled once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from multidb.stores.postgres.statements import Statement, encoder

__all__ = ["Crud"]


class Crud:
    """Statements over one table that read and return `fields`.

    A table with `deleted_at` is deleted from by marking: statements then see only the rows
    that are not marked, but for `restore`.
    """

    def __init__(self, table: sa.Table, fields: Iterable[str]) -> None:
        self.table = table
        self.columns = [table.c[name] for name in fields]
        self.marks_deleted = "deleted_at" in table.c
        self.living: sa.ColumnElement[bool] = (
            table.c.deleted_at.is_(None) if self.marks_deleted else sa.true()
        )
        self._compiled: dict[object, Statement] = {}

        #: The row with `:id`.
        self.get = Statement(self.select(table.c.id == self._given("id")))
        #: The rows with any of `:ids`.
        ids = sa.bindparam("ids", None, type_=sa.ARRAY(table.c.id.type))
        self.get_many = Statement(self.select(table.c.id == sa.any_(ids)))

    def select(self, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """Return a query of the living rows that match."""
        return sa.select(*self.columns).where(self.living, *where)

    def insert(self, names: Iterable[str]) -> Statement:
        """Add a row with the values `:name` of each name; returns it."""
        names = tuple(names)
        return self._once(
            ("insert", names),
            lambda: sa.insert(self.table).values(self._values(names)).returning(*self.columns),
        )

    def record(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return a row as COPY takes it, in the order of `values`."""
        return tuple(
            value if value is None or (encode := encoder(self.table.c[name].type)) is None else encode(value)
            for name, value in values.items()
        )

    def update(self, names: Iterable[str], *, versioned: bool) -> Statement:
        """Change the row with `:given_id`, and `:given_version` if versioned; returns it."""
        names = tuple(names)
        return self._once(
            ("update", names, versioned), lambda: self._change(self._values(names), self.living, versioned)
        )

    def delete(self, *, versioned: bool) -> Statement:
        """Delete or mark the row with `:given_id`, and `:given_version` if versioned; returns it."""

        def build() -> sa.UpdateBase:
            if self.marks_deleted:
                return self._change({"deleted_at": sa.func.now()}, self.living, versioned)
            return sa.delete(self.table).where(self._is_given(versioned)).returning(*self.columns)

        return self._once(("delete", versioned), build)

    def restore(self) -> Statement:
        """Take the mark off the row with `:given_id`; returns it."""
        marked = self.table.c.deleted_at.is_not(None)
        return self._once("restore", lambda: self._change({"deleted_at": None}, marked, versioned=False))

    def _change(
        self, values: Mapping[str, Any], where: sa.ColumnElement[bool], versioned: bool
    ) -> sa.UpdateBase:
        kept = {"version": self.table.c.version + 1, "updated_at": sa.func.now()}
        change = sa.update(self.table).where(self._is_given(versioned), where)
        return change.values({**values, **kept}).returning(*self.columns)

    def _is_given(self, versioned: bool) -> sa.ColumnElement[bool]:
        names = ("id", "version") if versioned else ("id",)
        return sa.and_(*(self.table.c[name] == self._given(name, f"given_{name}") for name in names))

    def _values(self, names: Iterable[str]) -> dict[str, sa.BindParameter[Any]]:
        return {name: self._given(name) for name in names}

    def _given(self, name: str, parameter: str | None = None) -> sa.BindParameter[Any]:
        return sa.bindparam(parameter or name, None, type_=self.table.c[name].type)

    def _once(self, key: object, build: Callable[[], sa.UpdateBase]) -> Statement:
        statement = self._compiled.get(key)
        if statement is None:
            statement = self._compiled[key] = Statement(build())
        return statement
