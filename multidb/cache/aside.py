"""The lease protocol: nothing loaded before an invalidation survives it.

An entry holds nothing, a value (`V…`) or a lease (`L…`). Who finds nothing takes a lease, a token
nobody else has, loads the value, and stores it only if the lease still stands. To invalidate is
to delete the entry, value or lease alike, after the change is committed.

So a fill that succeeds after an invalidation holds a lease taken after it, and loaded its value
after it too, from a database that had the change. A fill whose load began before finds its lease
gone. Losing an entry to eviction or expiry only costs a load. Who finds someone else's lease loads
for itself and stores nothing.

A deletion that does not reach Redis is remembered and made before the next read, so that this
process serves no old value.

What this form does not cover, and `ARCHITECTURE.md` names: a process that dies between COMMIT and
the deletion; a Redis that is away at that moment, for the other processes; a write that the server
commits after its connection was lost. Each leaves the old value until it expires.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

from multidb.cache.codec import Codec
from multidb.errors import DataError, MultiDBError, NotOpenError
from multidb.stores.completion import complete
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.keys import KeyPattern
from multidb.stores.redis.outage import Outage

__all__ = ["CacheAside", "uncached"]

T = TypeVar("T")

_VALUE = b"V"
_MAX_OWED = 10_000
_LEASE = "L"

_log = logging.getLogger("multidb.cache")

#: Set inside `db.uncached()`. It is one for all databases: who asks for the truth wants all of it.
_uncached: ContextVar[bool] = ContextVar("multidb_uncached", default=False)


class CacheAside:
    """Reads through Redis. A Redis that is away costs speed, never an answer.

    Inside `db.transaction()` reads go to the store, which alone knows what the transaction wrote,
    and fill nothing; invalidations wait for the commit.
    """

    def __init__(self, redis: RedisStore, postgres: PostgresStore, *, lease: timedelta) -> None:
        self._redis = redis
        self._postgres = postgres
        self._lease_ms = _milliseconds(lease)
        self._unstorable: set[str] = set()
        #: Entries that are to be deleted as soon as Redis answers, the oldest first.
        self._owed: dict[str, None] = {}
        self.outage = Outage(_log, "reads go to the store")

    @property
    def bypassed(self) -> bool:
        """Whether a read made here goes to the store: inside `uncached()` or a transaction."""
        return _uncached.get() or self._postgres.transactions.current() is not None

    def pattern(self, key: str) -> KeyPattern:
        """Return the key pattern of entries, with the prefix of the settings in front."""
        return self._redis.pattern(key)

    async def get(
        self, key: str, codec: Codec, load: Callable[[], Awaitable[T]], *, ttl: timedelta, operation: str
    ) -> T:
        """Return the value at `key`, else what `load` returns, which is then stored for `ttl`.

        None is returned but not stored, and so is what would not come back from its bytes as it
        is: that is logged. What `load` raises is raised, and nothing is stored.
        """
        if self.bypassed:
            return await load()
        try:
            if self._owed:
                await self._settle(operation)
            held = await self._redis.get(key, operation=operation)
            self.outage.over()
            if held is not None and held.startswith(_VALUE):
                try:
                    value: T = codec.decode(held[1:])
                except ValueError:
                    pass
                else:
                    return value
            lease = await self._take_lease(key, held, operation)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self.outage.began(error)
            return await load()
        if lease is None:
            return await load()
        return await self._load_under(lease, key, codec, load, ttl, operation)

    async def invalidate(self, keys: Sequence[str], *, operation: str) -> None:
        """Delete entries whose values have changed, once the change is committed.

        Outside a transaction that is now, so await this after the write. Raises: NotOpenError,
        and nothing else: what is committed must not fail any more.
        """
        _ = self._redis.opened

        async def delete() -> None:
            try:
                await self._redis.delete(keys, operation=operation)
                self.outage.over()
            except MultiDBError as error:
                self.outage.began(error)
                self._owed.update(dict.fromkeys(keys))
                while len(self._owed) > _MAX_OWED:
                    self._owed.pop(next(iter(self._owed)))

        await self._postgres.transactions.after_commit(delete)

    async def _settle(self, operation: str) -> None:
        """Delete the entries whose invalidation did not reach Redis; until then read none at all."""
        owed = list(self._owed)
        await self._redis.delete(owed, operation=operation)
        for key in owed:
            self._owed.pop(key, None)

    async def _take_lease(self, key: str, held: bytes | None, operation: str) -> str | None:
        if held is not None and not held.startswith(_VALUE):
            return None
        lease = _LEASE + secrets.token_hex(16)
        taken = await self._redis.run(
            "cache_lease", [key], [lease, self._lease_ms, held or b""], operation=operation
        )
        return lease if taken else None

    async def _load_under(
        self,
        lease: str,
        key: str,
        codec: Codec,
        load: Callable[[], Awaitable[T]],
        ttl: timedelta,
        operation: str,
    ) -> T:
        stored = b""
        try:
            value = await load()
            stored = self._encoded(value, codec, operation)
        finally:
            # Also after an error or a cancellation: with nothing to store, the lease is given back.
            await complete(self._fill(key, lease, stored, ttl, operation))
        return value

    def _encoded(self, value: Any, codec: Codec, operation: str) -> bytes:
        """Return what to store for `value`; nothing for None, and for what would come back changed."""
        if value is None:
            return b""
        try:
            return _VALUE + codec.encode(value)
        except DataError as error:
            # The caller gets its value all the same: a cache must not make a call fail.
            if operation not in self._unstorable:
                self._unstorable.add(operation)
                _log.warning("%s: not cached: %s", operation, error)
            return b""

    async def _fill(self, key: str, lease: str, stored: bytes, ttl: timedelta, operation: str) -> None:
        try:
            await self._redis.run(
                "cache_fill", [key], [lease, stored, _milliseconds(ttl)], operation=operation
            )
        except MultiDBError as error:
            self.outage.began(error)


@contextmanager
def uncached() -> Iterator[None]:
    """Make reads inside go to the store, and fill nothing."""
    token = _uncached.set(True)
    try:
        yield
    finally:
        # A generator may be closed in another context than it ran in: the block stays open there.
        with suppress(ValueError):
            _uncached.reset(token)


def _milliseconds(duration: timedelta) -> int:
    return max(1, int(duration.total_seconds() * 1000))
