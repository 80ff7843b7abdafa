"""What a race must find: a naive cache, and ours with one guard taken out."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from multidb import MultiDB
from multidb.cache import leases, marks
from multidb.cache.entry import Held
from multidb.cache.family import Family
from multidb.cache.flights import Flight
from multidb.cache.leases import Entry, Fill
from multidb.settings import Settings
from multidb.testing.race_subjects import Between, Users, dawdle, users


class Naive:
    """What everybody writes first: get, else load and set; and delete after the commit."""

    def __init__(self, db: MultiDB, redis: Redis, between: Between) -> None:
        self._db, self._redis, self._between = db, redis, between

    async def read(self, id: UUID) -> int:
        held = await self._redis.get(f"naive:{id}")
        if held is not None:
            return int(held)
        number = (await self._db.users.fetch(id)).version
        await dawdle()
        await self._redis.set(f"naive:{id}", number, ex=300)
        return number

    async def write(self, id: UUID) -> None:
        number = (await self._db.users.update(id, name="new")).version
        await self._between(id, number)
        await self._redis.delete(f"naive:{id}")


@asynccontextmanager
async def naive(settings: Settings, between: Between) -> AsyncIterator[Naive]:
    url = settings.redis_url.get_secret_value()
    async with MultiDB(settings) as db, Redis.from_url(url) as redis:
        with db.uncached():
            yield Naive(db, redis, between)


@asynccontextmanager
async def without_leases(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """What was loaded is stored whatever the entry holds by now, unless that is a mark."""
    async with users(settings, between) as subject:
        redis = subject.db.redis

        async def fill(fills: Collection[Fill], family: Family) -> bool:
            for each in fills:
                held = await redis.get(each.key, operation="race")
                if each.stored and not (held or b"").startswith(b"W"):
                    await redis.execute("SET", each.key, each.stored, "PX", each.lives, operation="race")
            return True

        subject.db.cache._leases._fill = fill  # type: ignore[method-assign]
        yield subject


@asynccontextmanager
async def without_marks(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """Entries are invalidated after the commit alone."""
    async with users(settings, between) as subject:

        async def put(keys: Collection[str], token: str) -> bool:
            return True

        subject.db.cache._marks.put = put  # type: ignore[method-assign]
        yield subject


@asynccontextmanager
async def dying_after_long_commits(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """Marks stand for long before their commit, and many are never taken back: evictions meet them."""
    async with users(settings, between) as subject:
        told_of = subject.db.cache._marks
        put, unmark = told_of.put, told_of._unmark

        async def put_long_before(keys: Collection[str], token: str) -> bool:
            heard = await put(keys, token)
            await asyncio.sleep(0.03)  # the time in which it may be evicted
            return heard

        async def unmark_or_die(marks: dict[str, set[str]]) -> None:
            if random.random() < 0.3:
                told_of._told(marks)
            else:
                await unmark(marks)

        told_of.put = put_long_before  # type: ignore[method-assign]
        told_of._unmark = unmark_or_die  # type: ignore[method-assign]
        yield subject


@asynccontextmanager
async def without_witnesses(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """A mark stands in its entry alone."""
    for module in (marks, leases):
        vars(module)["with_witnesses"] = lambda key: [key]
    async with dying_after_long_commits(settings, between) as subject:
        yield subject


@asynccontextmanager
async def joining_blindly(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """Whoever finds a load under way shares it."""
    gives_right: Any = Flight.gives_right
    Flight.gives_right = lambda self, seen: True  # type: ignore[method-assign]
    try:
        async with users(settings, between) as subject:
            yield subject
    finally:
        Flight.gives_right = gives_right  # type: ignore[method-assign]


@asynccontextmanager
async def without_places(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """What Redis has answered is kept in the process, whatever has changed meanwhile."""
    async with users(settings, between) as subject:
        leases, local = subject.db.cache._leases, subject.db.cache._local
        look, fill = leases.look, local.fill

        async def look_slowly(entry: Entry) -> Held:
            seen = await look(entry)
            await dawdle()
            return seen

        def fill_blindly(_: Any, entry: Entry, value: Any, found: Any) -> None:
            if (places := local.reserve(entry)) is not None:
                fill(places, entry, value, found)

        leases.look = look_slowly  # type: ignore[method-assign]
        local.fill = fill_blindly  # type: ignore[method-assign, assignment]
        yield subject


@asynccontextmanager
async def without_own_writes(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """What the process itself writes it hears of from Redis alone, and that late."""
    async with users(settings, between) as subject:
        cache = subject.db.cache
        cache._marks._told = lambda keys: None
        hear = cache._local._hear

        def hear_later(keys: Any) -> None:
            asyncio.get_running_loop().call_later(0.05, hear, keys)

        cache._local._hear = hear_later  # type: ignore[method-assign]
        yield subject


@asynccontextmanager
async def without_flushing(settings: Settings, between: Between) -> AsyncIterator[Users]:
    """What may have been missed while nothing was heard is not forgotten, nor that Redis began anew."""
    async with users(settings, between) as subject:
        local = subject.db.cache._local
        hear, find = local._hear, local.find

        def hear_what_is_told(keys: Any) -> None:
            if keys is not None:
                hear(keys)

        def find_old(entry: Entry) -> Any:
            place = local._places.get(entry.key)
            if place is not None and place.until:
                place.incarnation = subject.db.redis.incarnation(entry.key)
            return find(entry)

        local._hear = hear_what_is_told  # type: ignore[method-assign]
        local.find = find_old  # type: ignore[method-assign]
        yield subject
