"""`db.cached`: the cache-aside decorator."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, get_type_hints

from multidb.cache.aside import CacheAside
from multidb.cache.codec import Codec
from multidb.errors import ConfigurationError
from multidb.stores.redis.keys import KeyPattern

__all__ = ["CachedFunction"]

P = ParamSpec("P")
R = TypeVar("R")


class CachedFunction(Generic[P, R]):
    """An async function whose results are kept in Redis; called like the function itself.

    Decorate functions and static methods; to cache a method, decorate a function that it calls.
    """

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        *,
        cache: CacheAside,
        pattern: KeyPattern,
        ttl: timedelta,
    ) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        name = getattr(function, "__qualname__", repr(function))
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"cached: {name} must be an async function")
        if ttl <= timedelta(0):
            raise ConfigurationError(f"cached: the ttl of {name} must be more than zero")
        self._signature = inspect.signature(function)
        unknown = [field for field in pattern.fields if field not in self._signature.parameters]
        if unknown:
            raise ConfigurationError(
                f"cached: the key {pattern.pattern!r} names `{unknown[0]}`, which is not a parameter "
                f"of {name}; it has {', '.join(self._signature.parameters) or 'none'}"
            )
        self._codec = Codec(_return_type(function, name))
        self._cache = cache
        self._pattern = pattern
        self._ttl = ttl
        self._operation = f"cached {name}"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._call(*args, **kwargs)

    async def _call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = self._key(*args, **kwargs)

        async def load() -> R:
            return await self.__wrapped__(*args, **kwargs)

        return await self._cache.get(key, self._codec, load, ttl=self._ttl, operation=self._operation)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments: now, or after the commit of the ambient transaction.

        A call already loading is not stopped, but what it loads is not kept. While Redis is away
        this returns, and the old result may be served until its ttl ends.
        """
        await self._cache.invalidate([self._key(*args, **kwargs)], operation=self._operation)

    def _key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._pattern.key(bound.arguments)


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
