"""Loading under leases. `LEASES.md` beside this file has the protocol, and why no old value survives it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from multidb.cache.entry import (
    Held,
    Value,
    is_lease,
    is_marked,
    known,
    new_generation,
    new_lease,
    now,
    with_witnesses,
)
from multidb.cache.family import Family
from multidb.cache.flights import Flight, Landed
from multidb.errors import DataError, MultiDBError, NotOpenError
from multidb.settings import Settings
from multidb.stores.completion import complete
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.commands import Command, scripted
from multidb.stores.redis.outage import Outage

__all__ = ["NOTHING", "Entry", "Leases", "Load", "LoadMany"]

#: Loads one value.
Load: TypeAlias = Callable[[], Awaitable[Any]]
#: Loads the values of several; one that it leaves out has none.
LoadMany: TypeAlias = Callable[[Sequence[Any]], Awaitable[Mapping[Any, Any]]]

#: In a value's place where there is none: None may be one.
NOTHING: Any = object()

_log = logging.getLogger("multidb.cache")


class Entry(NamedTuple):
    """An entry: where it is, how it is kept, and the keys of its tags."""

    key: str
    family: Family
    tags: tuple[str, ...] = ()


class Lease(NamedTuple):
    """A lease that was taken, and what is stored with what is loaded under it."""

    token: bytes
    incarnation: bytes
    #: None if a tag is being changed: then nothing is stored.
    generations: tuple[bytes, ...] | None
    #: What the entry held before, which may be served if the load fails.
    before: bytes | None = None


class Leases:
    """Looks into entries, and fills them."""

    def __init__(self, redis: RedisStore, outage: Outage, settings: Settings) -> None:
        self._redis = redis
        self._outage = outage
        self._lives = max(1, int(settings.cache_lease.total_seconds() * 1000))
        self._patience = settings.cache_wait.total_seconds()
        self._compress_above = settings.cache_compress_above
        self._unstorable: set[str] = set()

    async def look(self, entry: Entry) -> Held:
        """Return what it holds. Raises: as `RedisStore.get`."""
        operation = entry.family.operation
        if not entry.tags:
            seen = Held(await self._redis.get(entry.key, operation=operation))
        else:
            held, *tags = await self._redis.get_many([entry.key, *entry.tags], operation=operation)
            seen = Held(held, known(tags))
        self._outage.over()
        return seen

    def value(self, entry: Entry, seen: Held) -> Value | None:
        """Return the value that it holds, if that may be served."""
        value = None if seen.held is None else Value.read(seen.held)
        if (
            value is None
            or value.generations != seen.generations
            or value.incarnation != self._redis.incarnation(entry.key)[:8]
            or value.fresh_until <= now()
        ):
            return None
        return value

    def decoded(self, entry: Entry, value: Value | None) -> Any:
        """Return what the value stands for, or NOTHING: it is of an older schema, or damaged."""
        if value is None:
            return NOTHING
        try:
            return entry.family.decode(value.body)
        except ValueError:
            return NOTHING

    async def look_at_all(self, entries: Sequence[Entry]) -> list[Held]:
        """Return what entries hold, in one round trip. Raises: as `RedisStore.get`."""
        keys = [key for entry in entries for key in (entry.key, *entry.tags)]
        operation = entries[0].family.operation
        if self._redis.opened.kind == "cluster":
            held = await self._redis.get_many(keys, operation=operation)
        else:
            held = await self._redis.execute("MGET", *keys, operation=operation, repeatable=True)
        self._outage.over()
        replies = iter(held)
        return [
            Held(next(replies), known([next(replies) for _ in entry.tags]) if entry.tags else ())
            for entry in entries
        ]

    async def fly(self, flight: Flight, entry: Entry, load: Load, held: bytes | None) -> Landed:
        """Take the lease and load; or wait for who has it, and load without where that takes too long."""
        got: Lease | Landed | None = None
        try:
            got = await self._take_or_wait(flight, entry, held)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self._outage.began(error)
        if isinstance(got, Landed):
            return got
        flight.undetermined = False
        if got is None:
            return Landed(await self._loaded(entry.family, load), None)
        flight.lease, flight.generations = got.token, got.generations
        return await self._load_under(got, entry, load)

    async def refresh(self, entry: Entry, load: Load) -> Any:
        """Load whatever is there, and replace it. A load under way is not kept."""
        lease: Lease | None = None
        try:
            held = (await self.look(entry)).held
            while lease is None and self._may_fill(entry) and not is_marked(held):
                lease, held = await self._take(entry, held)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self._outage.began(error)
        if lease is None:
            return await self._loaded(entry.family, load)
        return (await self._load_under(lease, entry, load, old_may_do=False)).value

    async def refresh_early(self, entry: Entry, load: Load, seen: Held) -> Landed:
        """Load a value anew that is still served, and put the new one in its place if it still stands."""
        assert seen.held is not None
        lease = Lease(seen.held, self._redis.incarnation(entry.key), seen.generations)
        landed = await self._load_under(lease, entry, load)
        entry.family.metrics.refreshed_early += 1
        return landed

    async def load_many(
        self, missing: Mapping[Any, tuple[Entry, bytes | None]], load: LoadMany
    ) -> Mapping[Any, Any]:
        """Load several of one family at once, and store those whose lease could be taken."""
        family = next(iter(missing.values()))[0].family
        leases: dict[Any, Lease] = {}
        try:
            leases = await self._take_many(missing)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self._outage.began(error)
        began = time.perf_counter()
        fills = {each: Fill(missing[each][0].key, lease.token) for each, lease in leases.items()}
        try:
            loaded: Mapping[Any, Any] = await self._loaded(family, lambda: load(list(missing)))
            for each in leases.keys() & loaded.keys():
                body = self._body(family, loaded[each])
                fills[each] = self._filling(missing[each][0], leases[each], loaded[each], body, began)
        finally:
            if fills:
                await complete(self._fill(list(fills.values()), family))
        return loaded

    # --- leases

    async def _take_or_wait(self, flight: Flight, entry: Entry, held: bytes | None) -> Lease | Landed | None:
        """Return the lease, or what another has loaded; None if there is nothing to wait for any more."""
        until = asyncio.get_running_loop().time() + self._patience
        while not is_marked(held):
            if not is_lease(held):
                if not self._may_fill(entry):
                    return None
                lease, held = await self._take(entry, held)
                if lease is not None:
                    return lease
            if is_lease(held) and not await self._changed(entry, held or b"", until):
                return None
            # What is found now, who calls later must not be given.
            flight.undetermined = False
            seen = await self.look(entry)
            value = self.value(entry, seen)
            found = self.decoded(entry, value)
            if value is not None and found is not NOTHING:
                return Landed(found, value.body)
            flight.undetermined = True
            held = seen.held
        return None

    def _may_fill(self, entry: Entry) -> bool:
        """Tell whether what could not be marked before the server was there is committed by now."""
        return self._redis.is_settled(entry.key)

    async def _take(self, entry: Entry, held: bytes | None) -> tuple[Lease | None, bytes | None]:
        """Take the lease of an entry that holds this; else return what it holds by now."""
        # Before the lease is, so that it is never that of a later run than the lease.
        incarnation = self._redis.incarnation(entry.key)
        token = new_lease()
        family = entry.family
        try:
            by_now, *tags = await self._redis.send(
                self._taking(entry, token, held), operation=family.operation
            )
        except asyncio.CancelledError:
            await complete(self._fill([Fill(entry.key, token)], family))
            raise
        if by_now is not None:
            return None, by_now
        return Lease(token, incarnation, known(tags), held), None

    async def _take_many(self, missing: Mapping[Any, tuple[Entry, bytes | None]]) -> dict[Any, Lease]:
        """Take the leases of entries that nobody loads or changes just now."""
        leases: dict[Any, Lease] = {}
        commands: list[Command] = []
        for each, (entry, held) in missing.items():
            if self._may_fill(entry) and not (is_marked(held) or is_lease(held)):
                lease = leases[each] = Lease(new_lease(), self._redis.incarnation(entry.key), None)
                commands += self._taking(entry, lease.token, held)
        if not commands:
            return {}
        entry, _ = missing[next(iter(leases))]
        try:
            replies = iter(await self._redis.send(commands, operation=entry.family.operation))
        except asyncio.CancelledError:
            back = [Fill(missing[each][0].key, lease.token) for each, lease in leases.items()]
            await complete(self._fill(back, entry.family))
            raise
        taken: dict[Any, Lease] = {}
        for each, lease in leases.items():
            by_now, *tags = [next(replies) for _ in range(1 + len(missing[each][0].tags))]
            if by_now is None:
                taken[each] = lease._replace(generations=known(tags))
        return taken

    def _taking(self, entry: Entry, token: bytes, held: bytes | None) -> list[Command]:
        """Return what takes a lease, and then reads the generations of the tags."""
        return [
            scripted("cache_lease", with_witnesses(entry.key), [token, self._lives, held or b""]),
            *(
                scripted("cache_tag", with_witnesses(tag), [new_generation(), entry.family.longest])
                for tag in entry.tags
            ),
        ]

    async def _changed(self, entry: Entry, lease: bytes, until: float) -> bool:
        """Wait until an entry holds another thing than this lease; False if that takes too long."""
        loop = asyncio.get_running_loop()
        operation = entry.family.operation
        async with self._redis.listen(entry.key, operation=operation) as messages:
            stands = await self._redis.run(
                "cache_await", [entry.key], [b"L" + lease[1:]], operation=operation, repeatable=True
            )
            if stands == 0:
                return True
            # When it expires, nobody says so.
            ends = until if stands < 0 else min(until, loop.time() + stands / 1000 + 0.001)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(ends):
                    await anext(messages)
        return loop.time() < until

    # --- loading and storing

    async def _loaded(self, family: Family, load: Load) -> Any:
        began = time.perf_counter()
        try:
            return await load()
        except Exception:
            family.metrics.load_errors += 1
            raise
        finally:
            family.metrics.loaded(began)

    async def _load_under(self, lease: Lease, entry: Entry, load: Load, *, old_may_do: bool = True) -> Landed:
        began = time.perf_counter()
        fill: Fill | None = None
        if is_lease(lease.token):
            # After an error or a cancellation: with nothing to store, the lease is given back.
            fill = Fill(entry.key, lease.token)
        try:
            value = await self._loaded(entry.family, load)
            body = self._body(entry.family, value)
            fill = self._filling(entry, lease, value, body, began)
        except Exception as error:
            old = await self._old_back(entry, lease, error)
            if old is None or not old_may_do:
                raise
            entry.family.metrics.stale_served += 1
            return old
        finally:
            if fill is not None:
                await complete(self._fill([fill], entry.family))
        return Landed(value, body)

    async def _old_back(self, entry: Entry, lease: Lease, error: Exception) -> Landed | None:
        """Put the old value back and return it, if that may be served while its loader fails."""
        family = entry.family
        old = None if lease.before is None else Value.read(lease.before)
        # An answer such as NotFoundError is the truth by now.
        passes = getattr(error, "retryable", isinstance(error, OSError))
        if old is None or not passes or old.generations != lease.generations:
            return None
        left = old.fresh_until + family.kept_after - now()
        found = self.decoded(entry, old)
        if left <= 0 or found is NOTHING or old.incarnation != lease.incarnation[:8]:
            return None
        # If the lease is gone, something was invalidated, and the old value is wrong.
        back = Fill(entry.key, lease.token, lease.before or b"", left)
        if not await complete(self._fill([back], family)):
            return None
        return Landed(found, old.body)

    def _body(self, family: Family, value: Any) -> bytes | None:
        """Return the body of what is to be stored, or None."""
        try:
            return family.encode(value)
        except DataError as error:
            # The caller gets its value all the same: a cache must not make a call fail.
            if family.operation not in self._unstorable:
                self._unstorable.add(family.operation)
                _log.warning("%s: not cached: %s", family.operation, error)
            return None

    def _filling(self, entry: Entry, lease: Lease, value: Any, body: bytes | None, began: float) -> "Fill":
        family = entry.family
        if body is None or lease.generations is None:
            return Fill(entry.key, lease.token)
        lives = family.fresh_for(value)
        took = int((time.perf_counter() - began) * 1_000_000)
        stored = Value(now() + lives, took, lease.generations, lease.incarnation, body)
        written = stored.written(compress_above=self._compress_above)
        return Fill(entry.key, lease.token, written, lives + family.kept_after)

    async def _fill(self, fills: Sequence["Fill"], family: Family) -> bool:
        """Store what was loaded under leases; return whether all of them still stood."""
        commands = [scripted("cache_fill", [fill.key], [*fill[1:]]) for fill in fills]
        try:
            stood = await self._redis.send(commands, operation=family.operation)
        except MultiDBError as error:
            self._outage.began(error)
            return False
        family.metrics.fills_refused += sum(
            bool(fill.stored) and not still for fill, still in zip(fills, stood, strict=True)
        )
        return all(stood)


class Fill(NamedTuple):
    """What is put into an entry in its lease's place; nothing gives the lease back."""

    key: str
    token: bytes
    stored: bytes = b""
    lives: int = 1
