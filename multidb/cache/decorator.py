"""`db.cached` and `cached`: the cache-aside decorators."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_type_hints,
    overload,
)

from typing_extensions import Unpack

from multidb.cache.aside import CacheAside
from multidb.cache.codec import Codec
from multidb.cache.family import CacheMetrics
from multidb.cache.leases import Entry
from multidb.cache.policy import CacheOptions, CachePolicy
from multidb.errors import ConfigurationError
from multidb.stores.redis.keys import KeyPattern

__all__ = ["CachedFunction", "CachedMethod", "Declaration", "cached"]

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
OwnerT = TypeVar("OwnerT", bound="Caching")

#: Loads the results for several first arguments, by these; what it leaves out has none.
Bulk = Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]


class Declaration:
    """What was said when decorating, held against the function at once.

    Raises: ConfigurationError for a key, an option or an annotation that does not fit.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        policy: CachePolicy,
        tags: Sequence[str] = (),
        *,
        method: bool = False,
    ) -> None:
        called = _called(function)
        name = getattr(called, "__qualname__", repr(called))
        if not inspect.iscoroutinefunction(called):
            raise ConfigurationError(f"cached: {name} must be an async function")
        policy.check(f"cached: {name}")
        if not _are_texts(tags):
            raise ConfigurationError(f"cached: {name}: `tags` must be a list of strings, not {tags!r}")
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1 if method else 0 :]
        self.signature = signature.replace(parameters=parameters)
        for pattern in (policy.key, *tags):
            self._check_fields(pattern, name)
        self.function = function
        self.method = method
        self.policy = policy
        self.tags = tuple(tags)
        self.codec = Codec(_return_type(called, name))
        self.operation = f"cached {name}"
        #: Loads several at once, if there is such a function.
        self.bulk: Callable[..., Awaitable[Mapping[Any, Any]]] | None = None
        #: The names of arguments given by position alone, where that is all they may be told by.
        self._positional = [
            each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]
        self._plain = len(self._positional) == len(parameters)

    def _check_fields(self, pattern: str, name: str) -> None:
        for field in KeyPattern(pattern).fields:
            if field not in self.signature.parameters:
                raise ConfigurationError(
                    f"cached: the key {pattern!r} names `{field}`, which is not a parameter of {name}; "
                    f"it has {', '.join(self.signature.parameters) or 'none'}"
                )

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a call by name, defaults included. Raises: TypeError, as the call would."""
        if self._plain and not kwargs and len(args) == len(self._positional):
            return dict(zip(self._positional, args, strict=True))
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


class CachedFunction(Generic[P, R]):
    """An async function whose results are kept in Redis; called like the function itself."""

    def __init__(
        self, declaration: Declaration, function: Callable[P, Awaitable[R]], cache: CacheAside
    ) -> None:
        functools.update_wrapper(self, declaration.function)
        self.__wrapped__ = function
        self._declaration = declaration
        self._cache = cache
        self._family = cache.family(
            declaration, declaration.policy, declaration.codec, declaration.operation, declaration.tags
        )
        self._pattern = cache.pattern(declaration.policy.key)
        self._tags = [cache.pattern(tag) for tag in declaration.tags]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        entry = self._entry(args, kwargs)
        return self._cache.get(entry, functools.partial(self.__wrapped__, *args, **kwargs))

    @property
    def metrics(self) -> CacheMetrics:
        """What has become of its calls in this process."""
        return self._family.metrics

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments: now, or around the commit of the ambient transaction.

        A call already loading is not stopped, but what it loads is not kept. If Redis is away this
        returns, and is made up for once Redis is back; until then other processes may serve the old
        result.
        """
        await self._cache.invalidate([self._entry(args, kwargs).key])

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, whatever is kept; keep what it returns, and return it."""
        load = functools.partial(self.__wrapped__, *args, **kwargs)
        return await self._cache.refresh(self._entry(args, kwargs), load)

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the result for these arguments if it is kept, else None. The function is not called."""
        return cast(R | None, await self._cache.peek(self._entry(args, kwargs)))

    async def many(self: "CachedFunction[P, V | None]", ids: Iterable[K]) -> dict[K, V]:
        """Return the results for each of these as first argument, by it, in the order asked, None left out.

        One round trip to Redis for all. What is not kept the function of `bulk` loads in one call,
        else the function itself, called for all of them at once. Raises: what that raises.
        """
        entries = {each: self._entry((each,), {}) for each in dict.fromkeys(ids)}
        found = await self._cache.get_many(entries, self._load_many)
        return {each: value for each, value in found.items() if value is not None}

    def bulk(self, function: Bulk[K, Any]) -> Bulk[K, Any]:
        """Have `many` load what is missing by one call of this async function, `@load_user.bulk`.

        It is given the first arguments, and returns the results by these.
        """
        self._declaration.bulk = function
        return function

    async def _load_many(self, ids: Sequence[Any]) -> Mapping[Any, Any]:
        if self._declaration.bulk is not None:
            owner = (cast(Any, self.__wrapped__).__self__,) if self._declaration.method else ()
            return await self._declaration.bulk(*owner, ids)
        one: Callable[..., Awaitable[Any]] = self.__wrapped__
        loading = [asyncio.ensure_future(one(each)) for each in ids]
        try:
            return dict(zip(ids, await asyncio.gather(*loading), strict=True))
        finally:
            for each in loading:
                each.cancel()
            await asyncio.gather(*loading, return_exceptions=True)

    def _entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        arguments = self._declaration.arguments(args, kwargs)
        if not self._tags:
            return Entry(self._pattern.key(arguments), self._family)
        tags = tuple(tag.key(arguments) for tag in self._tags)
        return Entry(self._pattern.key(arguments), self._family, tags)


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

    def bulk(
        self, method: Callable[[OwnerT, Sequence[K]], Awaitable[Mapping[K, Any]]]
    ) -> Callable[[OwnerT, Sequence[K]], Awaitable[Mapping[K, Any]]]:
        """Have `many` load what is missing by one call of this method, `@load_user.bulk`."""
        self._declaration.bulk = method
        return method


def cached(
    key: str, *, ttl: timedelta, tags: Sequence[str] = (), **options: Unpack[CacheOptions]
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
    policy = CachePolicy(key, ttl, **options)

    def decorate(method: Callable[Concatenate[OwnerT, P], Awaitable[R]]) -> CachedMethod[OwnerT, P, R]:
        return CachedMethod(Declaration(method, policy, tags, method=True))

    return decorate


def _are_texts(value: object) -> bool:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return several and all(isinstance(each, str) for each in cast(Sequence[object], value))


def _called(function: Any) -> Any:
    """Return the function that runs: of an object its `__call__`, of a partial what that completes."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or not callable(function):
        return function
    return type(function).__call__


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
