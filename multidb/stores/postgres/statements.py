"""SQLAlchemy expressions, compiled once to the text and arguments asyncpg takes."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy import ARRAY, ClauseElement, Dialect, Enum, Float, Numeric, String
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

__all__ = ["DIALECT", "Statement", "decodes", "encoder", "unbounded"]

DIALECT: Dialect = asyncpg_dialect()  # type: ignore[no-untyped-call]

Encoder: TypeAlias = Callable[[Any], Any]


def encoder(type_: TypeEngine[Any], name: str) -> Encoder | None:
    """Return how a value of this column type becomes what asyncpg takes; None for as it is.

    For a value that has no such form, as a date has none in JSON, it raises what asyncpg itself does.
    """
    process = type_.dialect_impl(DIALECT).bind_processor(DIALECT)
    if process is None:
        return None

    def encode(value: Any) -> Any:
        try:
            return process(value)
        except (TypeError, ValueError, RecursionError) as error:
            unencodable = asyncpg.DataError()
            unencodable.column_name = None if name.startswith("_") else name
            raise unencodable from error

    return encode


def decodes(type_: TypeEngine[Any]) -> bool:
    """Tell whether SQLAlchemy itself would turn what asyncpg gives into something else."""
    if isinstance(type_, ARRAY):
        # It would only make a list of the list.
        type_ = type_.item_type
    if isinstance(type_, Float):
        return type_.asdecimal
    if isinstance(type_, Numeric):
        # Which decoder it takes, SQLAlchemy asks of the type that a cursor tells.
        return not type_.asdecimal
    return type_.dialect_impl(DIALECT).result_processor(DIALECT, None) is not None


def unbounded(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return a column's type without its length or precision, for a parameter.

    SQLAlchemy casts each parameter to its type, and a cast to `VARCHAR(3)` cuts off in silence what
    the column itself would refuse.
    """
    if isinstance(type_, ARRAY):
        return ARRAY(unbounded(type_.item_type), dimensions=type_.dimensions)
    if isinstance(type_, String) and type_.length is not None and not isinstance(type_, Enum):
        return String(collation=type_.collation)
    if isinstance(type_, Numeric) and not isinstance(type_, Float):
        return Numeric() if type_.asdecimal else Numeric(asdecimal=False)
    return type_


class Statement:
    """One compiled statement: its SQL, and its arguments in the order of `$1`, `$2`, …

    Immutable, so one may serve every connection, task and event loop.
    """

    __slots__ = ("_arguments", "_defaults", "sql")

    def __init__(self, expression: ClauseElement) -> None:
        compiled = expression.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, SQLCompiler)
        self.sql = str(compiled)
        self._defaults: Mapping[str, Any] = compiled.construct_params()
        self._arguments = tuple(
            # What IN was expanded to has names of its own, and values that need no encoding.
            (name, encoder(compiled.binds[name].type, name) if name in compiled.binds else None)
            for name in compiled.positiontup or ()
        )

    def arguments(self, values: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the arguments: `values` by name, else what the expression itself holds."""
        given = self._defaults if values is None else {**self._defaults, **values}
        return [
            # None is SQL's NULL, also where JSON has a null of its own.
            given[name] if encode is None or given[name] is None else encode(given[name])
            for name, encode in self._arguments
        ]
