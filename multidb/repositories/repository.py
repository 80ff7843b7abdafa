"""What every repository is, whatever its store."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError

from multidb.cache.aside import CacheAside
from multidb.errors import ConfigurationError, ConflictError, DataError, StoreName
from multidb.repositories.effects import Effects
from multidb.repositories.redaction import Redact, Redactor
from multidb.settings import Settings
from multidb.stores.cursor import CursorCodec
from multidb.stores.mongo.client import MongoStore
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.keys import KeyPattern
from multidb.stores.scope import current_scope

__all__ = [
    "MAX_PAGE",
    "Repository",
    "Resources",
    "changed_values",
    "check_expected",
    "check_fence",
    "check_version",
    "checked_class",
    "checked_id",
    "known_fields",
    "known_value",
    "known_values",
    "misdeclared",
    "model_arguments",
    "overtaken",
    "page_size",
    "plain_type",
    "validated",
    "validated_json",
]

#: The most items one page may have.
MAX_PAGE = 1000

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Resources:
    """What `MultiDB` hands every repository when it wires it."""

    settings: Settings
    postgres: PostgresStore
    mongo: MongoStore
    redis: RedisStore
    cache: CacheAside
    cursors: CursorCodec
    #: What may be stored of a log entry.
    redact: Redact = field(default_factory=Redactor)
    #: What is to be done before the stores close; each ends by itself, and raises nothing.
    before_closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    #: What is to be ended once they are closed; each at once.
    after_closing: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    #: Every repository, by its class; complete once all are wired.
    repositories: Mapping[type["Repository"], "Repository"] = field(default_factory=dict)

    def repository(self, entity: str) -> "Repository":
        """Return the repository of an entity. Raises: ConfigurationError if there is none."""
        for repository in self.repositories.values():
            if repository.entity() == entity:
                return repository
        raise ConfigurationError(f"a relation is about `{entity}`, which no repository is wired for")

    def tenant(self, operation: str) -> UUID | None:
        """Return the company of `db.tenant(...)`, or None for everybody's rows.

        Raises: DataError if the settings want every call to say which.
        """
        scope = current_scope()
        if isinstance(scope, UUID):
            return scope
        if scope is None and self.settings.tenant_required:
            raise DataError(
                "whose rows? call it inside `db.tenant(company_id)` or `db.unscoped()`", operation=operation
            )
        return None


class Repository(ABC):
    """One entity's calls on one store. Subclasses declare; `MultiDB` wires."""

    store: ClassVar[StoreName]
    #: What of it a transaction on PostgreSQL offers, to be done after the commit; None for nothing.
    effects: ClassVar[type[Effects[Any]] | None] = None

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    @property
    def cache_aside(self) -> CacheAside:
        """The cache that `@cached` on a method uses."""
        return self._resources.cache

    @classmethod
    @abstractmethod
    def target(cls) -> str:
        """Return the table, collection or key pattern the entity lives in."""

    @classmethod
    def entity(cls) -> str:
        """Return what the entity is called in routes and errors; as a rule, where it lives."""
        return cls.target()

    @classmethod
    def claims(cls) -> list[str]:
        """Return what no other repository may have."""
        place = KeyPattern(cls.target()).shape if cls.store == "redis" else cls.target()
        return [f"entity `{cls.entity()}`", f"{cls.store} `{place}`"]

    @classmethod
    @abstractmethod
    def check(cls) -> None:
        """Hold the declarations against each other and against what the store can do.

        Raises: ConfigurationError that names the class and what is wrong.
        """

    @classmethod
    def _operation(cls, name: str) -> str:
        return f"{cls.entity()}.{name}"


def model_arguments(cls: type, base: type) -> tuple[Any, ...]:
    """Return the models in `class cls(base[User, NewUser])`, also through generic classes between them."""
    for declared in getattr(cls, "__orig_bases__", ()):
        origin = get_origin(declared)
        if origin is base:
            return get_args(declared)
        if isinstance(origin, type) and issubclass(origin, base):
            given = dict(zip(getattr(origin, "__parameters__", ()), get_args(declared), strict=False))
            return tuple(given.get(each, each) for each in model_arguments(origin, base))
    return ()


def validated(model: type[ModelT], values: Mapping[str, Any], operation: str) -> ModelT:
    """Return `values` as a model.

    Raises: DataError that names the first field that does not fit, and why; never its value.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _first_misfit(model, error, operation) from error


def validated_json(model: type[ModelT], stored: bytes, operation: str) -> ModelT:
    """Return stored JSON as a model. Raises: DataError, as `validated` does."""
    try:
        return model.model_validate_json(stored)
    except ValidationError as error:
        raise _first_misfit(model, error, operation) from error


def _first_misfit(model: type[BaseModel], error: ValidationError, operation: str) -> DataError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "value"
    if first["type"] == "extra_forbidden":
        problem = f"`{field}` is not a field of {model.__name__}; it has {', '.join(model.model_fields)}"
    else:
        problem = f"`{field}` of {model.__name__}: {first['msg']}"
    return DataError(problem, operation=operation)


def page_size(limit: int, operation: str) -> int:
    """Return `limit` if a page may have that many items. Raises: DataError."""
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise DataError(f"`limit` must be a whole number from 1 to {MAX_PAGE}", operation=operation)
    return limit


def known_fields(names: Iterable[str], model: type[BaseModel], operation: str) -> None:
    """Raise: DataError for the first name that is not a field of `model`."""
    for name in names:
        if name not in model.model_fields:
            raise DataError(
                f"`{name}` is not a field of {model.__name__}; it has {', '.join(model.model_fields)}",
                operation=operation,
            )


def known_values(model: type[BaseModel], values: Mapping[str, Any], operation: str) -> dict[str, Any]:
    """Return values to compare fields with, each as the field's own type; None is of every type.

    Raises: DataError that names the field which does not exist, or whose type the value has not.
    A value that the field's bounds would refuse is just one that nothing has.
    """
    known_fields(values, model, operation)
    return {name: known_value(model, name, value, operation) for name, value in values.items()}


def known_value(model: type[BaseModel], name: str, value: Any, operation: str) -> Any:
    """Return one value to compare a field with, as `known_values` does."""
    try:
        reader = _reader(model, name)
    except KeyError:
        known_fields([name], model, operation)
        raise
    try:
        return None if value is None else reader.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise DataError(f"`{name}` of {model.__name__}: {first['msg']}", operation=operation) from error


@cache
def _reader(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    kind, _ = plain_type(model.model_fields[name].annotation, nullable=True)
    return TypeAdapter(kind)


def checked_id(id: Any, operation: str, name: str = "id") -> None:
    """Raise: DataError if `id`, which the call names `name`, is not a UUID.

    Another spelling of an id would be another cache entry, which no write invalidates, and in a
    batch it would be taken for another row.
    """
    if not isinstance(id, UUID):
        raise DataError(f"`{name}` must be a UUID, not {type(id).__name__}", operation=operation)


def checked_ids(ids: Iterable[Any], operation: str, name: str = "ids") -> list[UUID]:
    """Return ids, each once, in the order given. Raises: DataError if they are not UUIDs."""
    if not isinstance(ids, Iterable):
        raise DataError(f"`{name}` must be a list of UUIDs, not {type(ids).__name__}", operation=operation)
    given = list(ids)
    for id in given:
        if not isinstance(id, UUID):
            raise DataError(f"`{name}` must be UUIDs, not {type(id).__name__}", operation=operation)
    return list(dict.fromkeys(given))


def overtaken(
    model: type[BaseModel],
    id: UUID,
    *,
    version: int,
    wanted: int | None,
    fence: int | None,
    store: StoreName,
    operation: str,
) -> ConflictError:
    """Return the error of a change that met another version than was wanted, or a later fence."""
    if wanted not in (None, version):
        message = f"{model.__name__} {id} has version {version}, not {wanted}: read it again"
    elif fence is not None:
        message = f"{model.__name__} {id}: the holder of a later lock has written"
    else:
        message = f"{model.__name__} {id} was restored or written at this moment"
    return ConflictError(
        message,
        version=version,
        store=store,
        operation=operation,
        retryable=fence is None and wanted in (None, version),
    )


def changed_values(
    model: type[BaseModel], changes: BaseModel | None, fields: Mapping[str, Any], operation: str
) -> dict[str, Any]:
    """Return what was given to change, by field: as one object of `model`, or by name.

    Raises: DataError if it was given both ways, is of another class, or does not fit.
    """
    if changes is not None and fields:
        raise DataError("give the changes as one object or by name, not both", operation=operation)
    if changes is None:
        changes = validated(model, fields, operation)
    else:
        checked_class(model, changes, operation)
    return changes.model_dump(exclude_unset=True)


def check_fence(fence: int | None, operation: str) -> None:
    """Raise: DataError if `fence` is no number that a lock gives."""
    if fence is not None and (type(fence) is not int or fence < 0):
        raise DataError("`fence` must be the whole number that a lock gave", operation=operation)


def check_version(version: int, operation: str) -> None:
    """Raise: DataError if `version` is no number that a document can be put at."""
    if type(version) is not int or not 1 <= version < 2**63:
        raise DataError("`version` must be a whole number from 1", operation=operation)


def check_expected(version: int | None, operation: str) -> None:
    """Raise: DataError if `version` is no number that what is stored may have; None is whatever it has."""
    if version is not None and (type(version) is not int or not 0 <= version < 2**63):
        raise DataError("`version` must be a whole number from 0", operation=operation)


def checked_class(model: type[BaseModel], value: object, operation: str) -> None:
    """Raise: DataError if `value` is not of the class that the call takes."""
    if not isinstance(value, model):
        raise DataError(f"give a {model.__name__}, not {type(value).__name__}", operation=operation)


def plain_type(annotation: Any, *, nullable: bool) -> tuple[Any, tuple[Any, ...]]:
    """Return the one type that `X | None` or `Annotated[X, ...]` is about, and what annotates it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, metadata = plain_type(arguments[0], nullable=nullable)
        return kind, (*metadata, *arguments[1:])
    if nullable and origin in {Union, UnionType}:
        kinds = [each for each in arguments if each is not NoneType]
        if len(kinds) == 1:
            return plain_type(kinds[0], nullable=False)
    return annotation, ()


def misdeclared(cls: type, problem: str) -> ConfigurationError:
    """Return the error of a repository class whose declarations do not fit."""
    return ConfigurationError(f"{cls.__name__}: {problem}")
