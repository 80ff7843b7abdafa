"""Reads through Redis, and what changes them. `LEASES.md` beside this file has the protocol."""

import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from multidb.cache.codec import Codec
from multidb.cache.entry import Held
from multidb.cache.family import CacheMetrics, Family
from multidb.cache.flights import Flights
from multidb.cache.leases import NOTHING, Entry, Leases
from multidb.cache.local import LocalTier
from multidb.cache.marks import Marks
from multidb.cache.policy import CachePolicy
from multidb.errors import MultiDBError, NotOpenError
from multidb.settings import Settings
from multidb.stores.completion import complete
from multidb.stores.mongo.ambient import AMBIENT as MONGO
from multidb.stores.postgres.ambient import AMBIENT as POSTGRES
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.keys import KeyPattern
from multidb.stores.redis.outage import Outage

__all__ = ["CacheAside", "uncached"]

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_log = logging.getLogger("multidb.cache")

#: Set inside `db.uncached()`. It is one for all databases: who asks for the truth wants all of it.
_uncached: ContextVar[bool] = ContextVar("multidb_uncached", default=False)


class CacheAside:
    """Reads through Redis. A Redis that is away costs speed, never an answer.

    Inside a transaction reads go to the store, which alone knows what the transaction wrote, and
    fill nothing; what it changes is marked around its commit.
    """

    def __init__(self, redis: RedisStore, postgres: PostgresStore, settings: Settings) -> None:
        self._redis = redis
        self._postgres = postgres
        self._settings = settings
        #: What is cached, by what declares it.
        self._families: dict[object, Family] = {}
        self._flights = Flights()
        self.outage = Outage(_log, "reads go to the store")
        self._local = LocalTier(redis, settings)
        self._leases = Leases(redis, self.outage, settings)
        self._marks = Marks(
            redis,
            self.outage,
            # A write may wait for a connection and then for its answer, after its mark was waited for.
            lifetime=2 * settings.postgres_timeout + settings.redis_timeout,
            told=self._local.drop,
        )

    @property
    def bypassed(self) -> bool:
        """Whether a read made here goes to the store: inside `uncached()` or a transaction."""
        return _uncached.get() or POSTGRES.is_on or MONGO.is_on

    def pattern(self, key: str) -> KeyPattern:
        """Return the key pattern of entries, with the prefix of the settings in front."""
        return self._redis.pattern(key)

    def family(
        self, declared: object, policy: CachePolicy, codec: Codec, operation: str, tags: Sequence[str] = ()
    ) -> Family:
        """Return the family of what is declared: one, however often it is asked for.

        Raises: ConfigurationError for a policy that these servers do not allow.
        """
        if declared not in self._families:
            if policy.local:
                self._local.admit([self.pattern(each) for each in (policy.key, *tags)], operation)
            self._families[declared] = Family(policy, codec, operation)
        return self._families[declared]

    @property
    def metrics(self) -> dict[str, CacheMetrics]:
        """What has become of the calls here, by key pattern; of several of one pattern, the last's."""
        return {family.policy.key: family.metrics for family in self._families.values()}

    # --- reading

    async def get(self, entry: Entry, load: Callable[[], Awaitable[T]], *, scope: Hashable = None) -> T:
        """Return the value of an entry, else what `load` returns, which is then stored.

        Calls that meet share one load, also those of other processes; only those of one `scope`,
        where it decides what is loaded. What would not come back from its bytes as it is, is
        returned and not stored: that is logged. What `load` raises is raised, and nothing is stored.
        """
        family = entry.family
        places = None
        if family.policy.local:
            kept: T = self._kept(entry)
            if kept is not NOTHING:
                family.metrics.hits += 1
                family.metrics.local_hits += 1
                return kept
            places = self._local.reserve(entry)
        seen = await self._look(entry)
        if seen is None:
            return await load()
        value = self._leases.value(entry, seen)
        found: T = self._leases.decoded(entry, value)
        if value is not None and found is not NOTHING:
            family.metrics.hits += 1
            if places is not None:
                self._local.fill(places, entry, value, found)
            if family.is_due(value):
                slot = ("early", entry.key, family, scope)
                self._flights.begin(slot, lambda _: self._leases.refresh_early(entry, load, seen))
            return found
        family.metrics.misses += 1
        shared: T = await self._flights.share(
            (entry.key, family, scope),
            seen,
            lambda flight: self._leases.fly(flight, entry, load, seen.held),
            family.decode,
        )
        return shared

    async def get_many(
        self, entries: Mapping[K, Entry], load: Callable[[Sequence[K]], Awaitable[Mapping[K, T]]]
    ) -> dict[K, T]:
        """Return the values of entries, all of one family, by what stands for each.

        One look at all of them, and one load of those that are not there. What `load` leaves out has
        no value. No load under way is waited for.
        """
        if not entries:
            return {}
        found: Mapping[K, T]
        if self.bypassed:
            found = await load(list(entries))
        else:
            found = await self._get_kept(entries, load)
        return {each: found[each] for each in entries if each in found}

    async def peek(self, entry: Entry) -> object:
        """Return the value of an entry if it is there, else None. Nothing is loaded or stored."""
        found = self._kept(entry)
        if found is NOTHING and (seen := await self._look(entry)) is not None:
            found = self._leases.decoded(entry, self._leases.value(entry, seen))
        return None if found is NOTHING else found

    async def refresh(self, entry: Entry, load: Callable[[], Awaitable[T]]) -> T:
        """Load the value of an entry whatever it holds, store it, and return it."""
        if self._goes_to_the_store(entry):
            return await load()
        try:
            refreshed: T = await self._leases.refresh(entry, load)
        finally:
            self._local.drop([entry.key])
        return refreshed

    # --- what has changed

    async def invalidate(self, keys: Collection[str]) -> None:
        """Forget entries whose values have changed: now, or inside a transaction around its commit.

        Inside one of MongoDB now and after its commit.
        Outside a transaction await it after the write. Raises: NotOpenError, and nothing else: what
        is committed must not fail any more.
        """
        _ = self._redis.opened
        transaction = self._postgres.transactions.current()
        if (documents := MONGO.under_way()) is not None:
            # And once more after its commit: what is loaded before that is what was before it.
            documents.after_commit.append(partial(self._marks.take_back, keys))
        if transaction is not None:
            transaction.change(self._marks, keys)
        else:
            with self._postgres.under_way:
                await complete(self._marks.take_back(keys))

    async def invalidate_tag(self, tag: str, /, **values: Any) -> None:
        """Forget all results that bear this tag: now, or by the commit of the ambient transaction.

        `await db.cache.invalidate_tag("cache:company:{company_id}", company_id=id)`.
        """
        await self.invalidate([self.pattern(tag).key(values)])

    async def invalidate_surely(self, keys: Collection[str]) -> None:
        """Forget entries now, as the outbox has it done. Raises: UnavailableError."""
        await self._marks.invalidate(keys)

    def changing(self, keys: Collection[str]) -> AbstractAsyncContextManager[None]:
        """Return what is to stand around a statement that changes the values of these entries."""
        return self._postgres.transactions.changing(self._marks, keys)

    # --- how

    async def close(self) -> None:
        """Finish the loads under way, and try once more what is owed to Redis."""
        await self._flights.close(self._settings.close_timeout.total_seconds())
        await self._marks.close()

    def _kept(self, entry: Entry) -> Any:
        """Return what the local tier has of an entry, or NOTHING."""
        if not entry.family.policy.local or self._goes_to_the_store(entry):
            return NOTHING
        return self._local.find(entry)

    async def _get_kept(
        self, entries: Mapping[K, Entry], load: Callable[[Sequence[K]], Awaitable[Mapping[K, T]]]
    ) -> Mapping[K, T]:
        """Return the values of entries: those that are kept here, and else by one look and one load."""
        family = next(iter(entries.values())).family
        kept = {each: self._kept(entry) for each, entry in entries.items()} if family.policy.local else {}
        found: dict[K, T] = {each: value for each, value in kept.items() if value is not NOTHING}
        family.metrics.hits += len(found)
        family.metrics.local_hits += len(found)
        if len(found) < len(entries):
            asked = {each: entry for each, entry in entries.items() if each not in found}
            found.update(await self._get_asked(asked, load))
        return found

    async def _get_asked(
        self, entries: Mapping[K, Entry], load: Callable[[Sequence[K]], Awaitable[Mapping[K, T]]]
    ) -> Mapping[K, T]:
        """Return the values of entries by one look at Redis, and one load."""
        places = [self._local.reserve(entry) for entry in entries.values()]
        seen = await self._look_at_all(list(entries.values()))
        if seen is None:
            return await load(list(entries))
        found: dict[K, T] = {}
        missing: dict[K, tuple[Entry, bytes | None]] = {}
        for (each, entry), place, held in zip(entries.items(), places, seen, strict=True):
            value = self._leases.value(entry, held)
            copy = self._leases.decoded(entry, value)
            if value is None or copy is NOTHING or self._is_owed(entry):
                missing[each] = entry, held.held
            else:
                found[each] = copy
                if place is not None:
                    self._local.fill(place, entry, value, copy)
        metrics = next(iter(entries.values())).family.metrics
        metrics.hits += len(found)
        metrics.misses += len(missing)
        if missing:
            found.update(await self._leases.load_many(missing, load))
        return found

    def _goes_to_the_store(self, entry: Entry) -> bool:
        return self.bypassed or self._is_owed(entry)

    def _is_owed(self, entry: Entry) -> bool:
        return bool(self._marks.owed) and self._marks.owes((entry.key, *entry.tags))

    async def _look(self, entry: Entry) -> Held | None:
        """Return what an entry holds, or None if the cache is not to be asked, or cannot be."""
        if self._goes_to_the_store(entry):
            return None
        try:
            return await self._leases.look(entry)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self.outage.began(error)
            return None

    async def _look_at_all(self, entries: Sequence[Entry]) -> list[Held] | None:
        try:
            return await self._leases.look_at_all(entries)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self.outage.began(error)
            return None


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
