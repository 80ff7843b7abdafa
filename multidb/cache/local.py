"""The local tier: copies, in this process, of what entries in Redis hold. `LEASES.md` has its proof.

A copy stands in a place. A place is made before Redis is asked what the entry holds, and is gone as
soon as the entry changes: the server tells every process of it, and what this process changes it
knows. So if the place still stands once the answer is there, the answer may be put into it.
"""

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from multidb.cache.entry import Value, now
from multidb.cache.family import Family
from multidb.cache.immutable import immutable_size
from multidb.cache.leases import NOTHING, Entry
from multidb.errors import ConfigurationError
from multidb.settings import Settings
from multidb.stores.redis.address import read_url
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.keys import KeyPattern

__all__ = ["LocalTier", "Place"]

#: About how many bytes an empty place takes, the letters of its key apart.
_EMPTY = 350


class Place:
    """Where a copy is, or may be put. That of a tag stays empty: it tells that the tag has not changed."""

    __slots__ = ("family", "incarnation", "is_body", "key", "size", "tags", "until", "value")

    def __init__(self, key: str) -> None:
        self.key = key
        self.size = _EMPTY + len(key)
        #: Until when the copy is served, in Unix milliseconds.
        self.until = 0
        self.family: Family
        self.incarnation = b""
        self.tags: tuple[Place, ...] = ()
        self.value: Any = None
        #: Whether the copy is bytes, of which each caller makes its own.
        self.is_body = False


class LocalTier:
    """The copies of this process, `Settings.cache_local_bytes` of them; those not used lately make room."""

    def __init__(self, redis: RedisStore, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._limit = settings.cache_local_bytes
        self._staleness = settings.cache_local_staleness.total_seconds()
        self._prefixes: frozenset[str] = frozenset()
        #: By key, those used last at the end.
        self._places: OrderedDict[str, Place] = OrderedDict()
        #: About how many bytes they take.
        self.size = 0

    def admit(self, patterns: Collection[KeyPattern], operation: str) -> None:
        """Keep copies of entries with such keys, and tags. Raises: ConfigurationError on a cluster."""
        if read_url(self._settings).kind == "cluster":
            raise ConfigurationError(
                f"{operation}: `local` needs one Redis server, with Sentinels or without, and "
                "MULTIDB_REDIS_URL names a cluster",
                store="redis",
            )
        self._prefixes |= {pattern.prefix for pattern in patterns}

    def find(self, entry: Entry) -> Any:
        """Return a copy of an entry's value, or NOTHING. Raises: NotOpenError."""
        place = self._places.get(entry.key)
        if place is None or place.until <= now() or place.family is not entry.family:
            return NOTHING
        servers = self._redis.opened
        tracker = servers.tracker
        if (
            tracker is None
            or time.monotonic() - tracker.told_until > self._staleness
            or place.incarnation != servers.incarnation(entry.key)
        ):
            return NOTHING
        for tag in place.tags:
            if self._places.get(tag.key) is not tag:
                return NOTHING
            self._places.move_to_end(tag.key)
        self._places.move_to_end(entry.key)
        return entry.family.decode(place.value) if place.is_body else place.value

    def reserve(self, entry: Entry) -> tuple[Place, ...] | None:
        """Return places for an entry and its tags, or None if no copies of it are kept now."""
        if not (entry.family.policy.local and self._limit):
            return None
        tracker = self._redis.opened.tracker
        if tracker is None:
            return None
        tracker.follow(self._prefixes, self._hear)
        if not tracker.is_on or tracker.incarnation != self._redis.incarnation(entry.key):
            return None
        return tuple(self._places.get(key) or self._made(key) for key in (entry.key, *entry.tags))

    def fill(self, places: tuple[Place, ...], entry: Entry, value: Value, found: Any) -> None:
        """Keep a copy of what was asked for after these were reserved, if they still stand."""
        servers = self._redis.opened
        incarnation = servers.incarnation(entry.key)
        if (
            servers.tracker is None
            or servers.tracker.incarnation != incarnation
            or any(self._places.get(place.key) is not place for place in places)
        ):
            return
        place, *tags = places
        size = immutable_size(found)
        place.is_body = size is None
        place.value = value.body if size is None else found
        place.family = entry.family
        place.incarnation = incarnation
        place.tags = tuple(tags)
        # From then on callers ask Redis, where one of them loads it anew before its time is over.
        place.until = entry.family.hardly_due_until(value)
        self._resize(place, _EMPTY + len(place.key) + (len(value.body) if size is None else size))

    def drop(self, keys: Collection[str]) -> None:
        """Forget the copies of entries that have changed, and of those that bear these tags."""
        for key in keys:
            place = self._places.pop(key, None)
            if place is not None:
                self.size -= place.size

    def _hear(self, keys: Sequence[bytes] | None) -> None:
        if keys is None:
            self._places.clear()
            self.size = 0
        else:
            self.drop([key.decode(errors="replace") for key in keys])

    def _made(self, key: str) -> Place:
        place = self._places[key] = Place(key)
        self.size += place.size
        self._make_room()
        return place

    def _resize(self, place: Place, size: int) -> None:
        self.size += size - place.size
        place.size = size
        if size > self._limit:
            self.drop([place.key])  # lest it drive out all others, and then itself
        else:
            self._places.move_to_end(place.key)
            self._make_room()

    def _make_room(self) -> None:
        while self.size > self._limit:
            _, place = self._places.popitem(last=False)
            self.size -= place.size
