"""What a `PostgresRepository` declares, held against itself before anything is wired."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, create_model

from multidb.cache.policy import CachePolicy
from multidb.errors import ConfigurationError
from multidb.models.entity import Model
from multidb.models.fields import UNCHANGED
from multidb.repositories.repository import misdeclared
from multidb.stores.postgres.statements import decodes
from multidb.stores.redis.keys import KeyPattern

__all__ = [
    "KEPT",
    "changes_of",
    "check_cache",
    "check_columns",
    "check_constraints",
    "check_fields",
    "check_table",
    "unique_index",
]

#: The columns that a table which is written to has besides those of its model.
KEPT = frozenset({"id", "created_at", "updated_at", "version"})


def check_table(owner: type, table: sa.Table, model: type[BaseModel]) -> None:
    """Raise: ConfigurationError if the table cannot be read as `model`."""
    check_columns(owner, table, model.model_fields)
    for name in model.model_fields:
        if decodes(table.c[name].type):
            raise misdeclared(
                owner,
                f"column `{name}` has a type that SQLAlchemy decodes in Python; use one the server knows",
            )


def check_columns(owner: type, table: sa.Table, names: Iterable[str]) -> None:
    """Raise: ConfigurationError if the table lacks one of `names`."""
    if missing := sorted(set(names) - set(table.c.keys())):
        raise misdeclared(owner, f"table `{table.name}` has no column {', '.join(missing)}")


def check_constraints(owner: type, table: sa.Table, constraints: Iterable[str]) -> None:
    """Raise: ConfigurationError if the table has no constraint or index of one of these names."""
    # A primary key without a name gets this one from PostgreSQL.
    named = {f"{table.name}_pkey", *(str(index.name) for index in table.indexes)}
    named |= {str(constraint.name) for constraint in table.constraints}
    if unknown := sorted(set(constraints) - named):
        raise misdeclared(owner, f"table `{table.name}` has no constraint or index {', '.join(unknown)}")


def check_fields(owner: type, model: type[BaseModel], about: Mapping[str, Iterable[str]]) -> None:
    """Raise: ConfigurationError if a declaration is about a field that the model does not have."""
    for name, fields in about.items():
        if strangers := sorted(set(fields) - set(model.model_fields)):
            raise misdeclared(
                owner, f"`{name}` is about {', '.join(strangers)}, which {model.__name__} does not have"
            )


def check_cache(owner: type, policy: CachePolicy) -> None:
    """Raise: ConfigurationError if what `get` returns cannot be cached so."""
    try:
        fields = KeyPattern(policy.key).fields
    except ConfigurationError as error:
        raise misdeclared(owner, str(error)) from None
    if len(fields) != 1:
        raise misdeclared(owner, f"the key {policy.key!r} must name the id in braces, and nothing else")
    if policy.ttl <= timedelta(0):
        raise misdeclared(owner, "the ttl of its cache must be more than zero")


def changes_of(new_model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of changes where a repository declares none: what can be given, can be changed."""
    fields: dict[str, Any] = {
        name: (field.rebuild_annotation(), UNCHANGED)
        for name, field in new_model.model_fields.items()
        if name != "id"
    }
    return create_model(f"{new_model.__name__}Changes", __base__=Model, **fields)


def unique_index(table: sa.Table, name: str) -> tuple[list[str], Any] | None:
    """Return the columns and the predicate of a unique index or constraint; None if it is not unique."""
    for index in table.indexes:
        if index.name == name and index.unique:
            return [column.name for column in index.columns], index.dialect_options["postgresql"]["where"]
    for constraint in table.constraints:
        if isinstance(constraint, sa.PrimaryKeyConstraint) and name in {
            constraint.name,
            f"{table.name}_pkey",
        }:
            return [column.name for column in constraint.columns], None
        if isinstance(constraint, sa.UniqueConstraint) and constraint.name == name:
            return [column.name for column in constraint.columns], None
    return None
