"""What a repository of rows or documents declares, held against itself before anything is wired."""

from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, get_origin
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from multidb.cache.policy import CachePolicy
from multidb.errors import ConfigurationError
from multidb.models.entity import Model
from multidb.models.fields import UNCHANGED
from multidb.models.ids import uuid7
from multidb.repositories.repository import misdeclared, plain_type
from multidb.stores.postgres.statements import decodes
from multidb.stores.redis.keys import KeyPattern

__all__ = [
    "KEPT",
    "changes_of",
    "check_cache",
    "check_columns",
    "check_constraints",
    "check_documents",
    "check_fields",
    "check_kept",
    "check_table",
    "new_of",
    "unique_index",
]

#: Python's own types that BSON has none for: a whole day is a moment to it, and a Decimal a class of its own.
_NOT_IN_BSON = {Decimal, date, frozenset, set, time, timedelta}

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
    try:
        policy.check("its cache")
    except ConfigurationError as error:
        raise misdeclared(owner, str(error)) from None
    if policy.negative_ttl is not None:
        raise misdeclared(owner, "its cache: an absent row is not kept, so there is no `negative_ttl`")


def check_documents(owner: type, model: type[BaseModel]) -> None:
    """Raise: ConfigurationError if MongoDB has no type for a field of the model."""
    for name, field in model.model_fields.items():
        kind, _ = plain_type(field.annotation, nullable=True)
        if isinstance(kind, type) and issubclass(kind, Enum) and not issubclass(kind, str | int):
            raise misdeclared(owner, f"field `{name}`: MongoDB holds an Enum whose members are str or int")
        if kind in _NOT_IN_BSON or get_origin(kind) in {set, frozenset}:
            name_of_kind = getattr(kind, "__name__", str(kind))
            raise misdeclared(owner, f"field `{name}`: MongoDB has no type for {name_of_kind}")


def check_kept(owner: type, model: type[BaseModel], new_model: type[BaseModel]) -> None:
    """Raise: ConfigurationError if a document of the model could not be made of what is added and kept."""
    if lacking := sorted(KEPT - model.model_fields.keys()):
        raise misdeclared(
            owner,
            f"{model.__name__} has no field {', '.join(lacking)}: derive it from VersionedDocument, or "
            "the repository from AppendOnlyRepository if its documents never change",
        )
    if "id" not in new_model.model_fields:
        raise misdeclared(owner, f"{new_model.__name__} has no field id")
    for name, field in model.model_fields.items():
        if field.is_required() and name not in {*KEPT, *new_model.model_fields}:
            raise misdeclared(owner, f"{new_model.__name__} lacks `{name}`, which {model.__name__} requires")


def new_of(model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of what is added where a repository declares none: all it does not keep itself."""
    fields: dict[str, Any] = {
        name: (field.rebuild_annotation(), ... if field.is_required() else _default(field))
        for name, field in model.model_fields.items()
        if name not in KEPT
    }
    fields["id"] = (UUID, Field(default_factory=uuid7))
    return create_model(f"New{model.__name__}", __base__=Model, **fields)


def _default(field: FieldInfo) -> Any:
    if field.default_factory is not None:
        return Field(default_factory=field.default_factory)
    return field.default


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
