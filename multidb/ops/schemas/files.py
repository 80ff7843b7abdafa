"""The files in `mongo_schemas/`, and an application's own: each says what one collection is like."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from multidb.errors import ConfigurationError
from multidb.models.entity import Model
from multidb.ops.files import shipped
from multidb.settings import Age, MongoSettings

__all__ = ["FOREVER", "RETENTION", "CollectionOptions", "CollectionSchema", "IndexSchema", "load"]

#: The name of the index by which a collection's retention is kept.
RETENTION = "retention"

#: The longest that MongoDB counts: 68 years. A time to live cannot be taken off an index in place.
FOREVER = 2**31 - 1

_Seconds = Annotated[int, Field(ge=0, le=FOREVER)]


class IndexSchema(Model):
    """One index, in the words of `createIndexes`. `key` maps fields to 1, -1 or a kind, in order."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
    key: Annotated[dict[str, int | str], Field(min_length=1)]
    unique: bool = False
    sparse: bool = False
    hidden: bool = False
    expireAfterSeconds: _Seconds | None = None
    partialFilterExpression: dict[str, Any] | None = None
    collation: dict[str, Any] | None = None
    weights: dict[str, int] | None = None
    default_language: str | None = None
    language_override: str | None = None
    wildcardProjection: dict[str, Any] | None = None

    def specification(self) -> dict[str, Any]:
        """Return it as `createIndexes` takes it."""
        return self.model_dump(exclude_defaults=True)

    def listed(self) -> dict[str, Any]:
        """Return it as `listIndexes` gives it back."""
        listed = self.specification()
        texts = [field for field, kind in self.key.items() if kind == "text"]
        if texts:
            listed["key"] = {}
            for field, kind in self.key.items():
                listed["key"] |= {"_fts": "text", "_ftsx": 1} if kind == "text" else {field: kind}
            listed["weights"] = dict.fromkeys(texts, 1) | (self.weights or {})
            listed.setdefault("default_language", "english")
            listed.setdefault("language_override", "language")
        return listed


class CollectionOptions(Model):
    """How a collection keeps its documents, in the words of `create`."""

    clusteredIndex: dict[str, Any] | None = None
    timeseries: dict[str, Any] | None = None
    capped: bool = False
    #: In bytes; the server rounds it up to a multiple of 256.
    size: Annotated[int, Field(gt=0, multiple_of=256)] | None = None
    max: Annotated[int, Field(gt=0)] | None = None
    collation: dict[str, Any] | None = None
    changeStreamPreAndPostImages: dict[str, bool] | None = None

    def specification(self) -> dict[str, Any]:
        """Return them as `create` takes them."""
        return self.model_dump(exclude_defaults=True)


class Retention(Model):
    """How long documents are kept, counted from the moment in `field`."""

    field: str
    #: Where MULTIDB_RETENTION does not say otherwise; None for ever.
    default: Age = None


class CollectionSchema(Model):
    """One file: what a collection is like. It bears the collection's name."""

    collection: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
    #: One more with each change of the file. A server that a newer one was applied to is left alone.
    version: Annotated[int, Field(ge=1)]
    options: CollectionOptions = CollectionOptions()
    validator: dict[str, Any] = {}
    validationLevel: Literal["strict", "moderate", "off"] = "strict"
    validationAction: Literal["error", "warn"] = "error"
    indexes: tuple[IndexSchema, ...] = ()
    retention: Retention | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [index.name for index in self.indexes]
        if len(set(names)) < len(names):
            raise ValueError("two indexes have the same name")
        if self.retention is not None and RETENTION in names:
            raise ValueError(f"the index `{RETENTION}` is made from `retention`, and not listed")
        if self.retention is not None and self.options.capped:
            raise ValueError("a capped collection has its size, and no `retention`")
        if (series := self.options.timeseries) is not None:
            if self.validator:
                raise ValueError("a time series takes no validator")
            if self.retention is not None and self.retention.field != series.get("timeField"):
                raise ValueError("the retention of a time series counts from its `timeField`")
        return self

    def validation(self, **changed: str) -> dict[str, Any]:
        """Return what `create` and `collMod` take and `listCollections` gives back."""
        if self.options.timeseries is not None:
            return {}
        return {
            # The version lies in what it is the version of, so that both change at once.
            "validator": {"$comment": f"version {self.version}", **self.validator},
            "validationLevel": self.validationLevel,
            "validationAction": self.validationAction,
            **changed,
        }

    def kept_for(self, settings: MongoSettings) -> timedelta | None:
        """Return how long documents are kept: as the settings say, else as this file does; None for ever."""
        if self.retention is None:
            return None
        return settings.retention.get(self.collection, self.retention.default)


def load(settings: MongoSettings) -> list[CollectionSchema]:
    """Return what multidb's files say, and those in `settings.schema_paths`, by name of collection.

    Raises: ConfigurationError that names a file which is not a schema, or two of one collection,
    or what MULTIDB_RETENTION says of a collection that no file gives a retention.
    """
    schemas: dict[str, CollectionSchema] = {}
    for path in _paths(settings):
        schema = _read(path)
        if schema.collection in schemas:
            raise ConfigurationError(f"{path}: the collection {schema.collection} has a schema already")
        schemas[schema.collection] = schema
    kept = {name for name, schema in schemas.items() if schema.retention is not None}
    if unknown := sorted(settings.retention.keys() - kept):
        raise ConfigurationError(
            f"MULTIDB_RETENTION: `{unknown[0]}` is no collection whose schema has a retention;"
            f" these are {', '.join(sorted(kept))}"
        )
    return [schemas[name] for name in sorted(schemas)]


def _paths(settings: MongoSettings) -> Iterator[Path]:
    for folder in (shipped("mongo_schemas"), *settings.schema_paths):
        yield from sorted(folder.glob("*.json"))


def _read(path: Path) -> CollectionSchema:
    try:
        schema = CollectionSchema.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{path} is not a schema: {place}{': ' * bool(place)}{problem}") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is not a schema: {error}") from error
    if path.stem != schema.collection:
        raise ConfigurationError(f"{path} must bear the name of its collection, {schema.collection}.json")
    return schema
