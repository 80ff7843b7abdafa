"""`db.cached` and `cached`: the cache-aside decorators."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, get_type_hints, overload

from multidb.cache.aside import CacheAside
from multidb.cache.codec import Codec
from multidb.errors import ConfigurationError
from multidb.stores.redis.keys import KeyPattern

__all__ = ["CachedFunction", "CachedMethod", "Declaration", "cached"]

P = ParamSpec("P")
R = TypeVar("R")
OwnerT = TypeVar("OwnerT", bound="Caching")


class Declaration:
    """What was said when decorating, held against the function at once.

    Raises: ConfigurationError for a key, a ttl or an annotation that does not fit.
    """

    def __init__(
        self, function: Callable[..., Any], key: str, ttl: timedelta, *, method: bool = False
    ) -> None:
        name = getattr(function, "__qualname__", repr(function))
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"cached: {name} must be an async function")
        if ttl <= timedelta(0):
            raise ConfigurationError(f"cached: the ttl of {name} must be more than zero")
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1 if method else 0 :]
        self.signature = signature.replace(parameters=parameters)
        for field in KeyPattern(key).fields:
            if field not in self.signature.parameters:
                raise ConfigurationError(
                    f"cached: the key {key!r} names `{field}`, which is not a parameter of {name}; "
                    f"it has {', '.join(self.signature.parameters) or 'none'}"
                )
        self.function = function
        self.key = key
        self.ttl = ttl
        self.codec = Codec(_return_type(function, name))
        self.operation = f"cached {name}"


class CachedFunction(Generic[P, R]):
    """An async function whose results are kept in Redis; called like the function itself."""

    def __init__(
        self, declaration: Declaration, function: Callable[P, Awaitable[R]], cache: CacheAside
    ) -> None:
        functools.update_wrapper(self, declaration.function)
        self.__wrapped__ = function
        self._declaration = declaration
        self._cache = cache
        self._pattern = cache.pattern(declaration.key)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._call(*args, **kwargs)

    async def _call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        declared = self._declaration

        async def load() -> R:
            return await self.__wrapped__(*args, **kwargs)

        return await self._cache.get(
            self._key(*args, **kwargs), declared.codec, load, ttl=declared.ttl, operation=declared.operation
        )

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments: now, or after the commit of the ambient transaction.

        A call already loading is not stopped, but what it loads is not kept. While Redis is away
        this returns, and the old result may be served until its ttl ends.
        """
        await self._cache.invalidate([self._key(*args, **kwargs)], operation=self._declaration.operation)

    def _key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        bound = self._declaration.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._pattern.key(bound.arguments)


class Caching(Protocol):
    """What has methods to cache: a repository."""

    @property
    def cache_aside(self) -> CacheAside:
        """The cache of the database it is wired to."""
        ...


class CachedMethod(Generic[OwnerT, P, R]):
    """A repository's method whose results are kept in Redis. On an instance, a `CachedFunction`."""

    def __init__(self, declaration: Declaration) -> None:
        self.__doc__ = declaration.function.__doc__
        self._declaration = declaration

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: OwnerT, owner: type) -> CachedFunction[P, R]: ...

    def __get__(self, instance: OwnerT | None, owner: type) -> Self | CachedFunction[P, R]:
        if instance is None:
            return self
        bound = self._declaration.function.__get__(instance, owner)
        return CachedFunction(self._declaration, bound, instance.cache_aside)


def cached(
    key: str, *, ttl: timedelta
) -> Callable[[Callable[Concatenate[OwnerT, P], Awaitable[R]]], CachedMethod[OwnerT, P, R]]:
    """Cache a method of an application's own repository, as `db.cached` does a function.

    ::

        class InvoiceRepository(PostgresRepository[Invoice, NewInvoice]):
            @cached("cache:invoice:total:{company_id}", ttl=timedelta(minutes=5))
            async def total(self, company_id: UUID) -> Decimal: ...

        await db[InvoiceRepository].total(company_id)
        await db[InvoiceRepository].total.invalidate(company_id)

    Raises: ConfigurationError, as `db.cached` does.
    """

    def decorate(method: Callable[Concatenate[OwnerT, P], Awaitable[R]]) -> CachedMethod[OwnerT, P, R]:
        return CachedMethod(Declaration(method, key, ttl, method=True))

    return decorate


def _return_type(function: Callable[..., Any], name: str) -> Any:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"cached: the annotations of {name} name {error.name!r}, which is not defined where {name} is"
        ) from error
    if "return" not in hints:
        raise ConfigurationError(f"cached: {name} must say what it returns, as in `-> User | None`")
    return hints["return"]
