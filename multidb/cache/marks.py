"""What the cache is told of commits: marks before them, taken back after them.

A mark that could not be set, or not be taken back, is owed: its entries are not read here, and are
invalidated as soon as Redis answers again. What is owed ends with the process. So what could not be marked
is part of the commit too, in the outbox: whatever becomes of the process, a relay has it invalidated.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta

from multidb.cache.entry import with_witnesses
from multidb.errors import MultiDBError, NotOpenError
from multidb.models.ids import uuid7
from multidb.stores.background import Background
from multidb.stores.pauses import Pauses
from multidb.stores.postgres.outbox import Told
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.commands import scripted
from multidb.stores.redis.outage import Outage

__all__ = ["Marks"]

_OPERATION = "cache.invalidate"
#: The most entries that may be owed; the oldest are forgotten then, and live until they expire.
_MOST_OWED = 10_000


class Marks:
    """Marks the entries of the cache around commits."""

    def __init__(
        self,
        redis: RedisStore,
        outage: Outage,
        *,
        lifetime: timedelta,
        told: Callable[[Collection[str]], None],
    ) -> None:
        """`lifetime` is longer than what stands between a mark and the end of its commit may take.

        `told` is called with the entries once Redis has been told of them, or could not be.
        """
        self._redis = redis
        self._outage = outage
        self._told = told
        self._lives = int(lifetime.total_seconds() * 1000)
        #: By entry, the marks of it that are to be taken back; '' stands for none.
        self.owed: dict[str, set[str]] = {}
        self._paying = Background(self._pay_all)

    def mark(self, keys: Collection[str]) -> "_Mark":
        """Return what is to stand around a commit. Raises: NotOpenError."""
        _ = self._redis.opened
        return _Mark(self, tuple(keys))

    async def put(self, keys: Collection[str], token: str) -> bool:
        """Mark entries; return whether Redis has heard of it."""
        commands = [
            scripted("cache_mark", with_witnesses(key), [token, self._lives], repeatable=True) for key in keys
        ]
        try:
            await self._redis.send(commands, operation=_OPERATION, insist=True)
        except MultiDBError as error:
            self._outage.began(error)
            return False
        finally:
            self._told(keys)
        self._outage.over()
        return True

    async def invalidate(self, keys: Collection[str]) -> None:
        """Invalidate entries. Raises: UnavailableError; nothing is owed then."""
        await self._unmark({key: {""} for key in keys})

    async def take_back(self, keys: Collection[str], token: str = "") -> None:
        """Take marks back, and invalidate the entries. What does not reach Redis is owed."""
        try:
            await self._unmark({key: {token} for key in keys})
        except MultiDBError as error:
            self._outage.began(error)
            for key in keys:
                self.owed.setdefault(key, set()).add(token)
            while len(self.owed) > _MOST_OWED:
                del self.owed[next(iter(self.owed))]
            self._paying.begin()

    def owes(self, keys: Collection[str]) -> bool:
        """Tell whether entries are owed; if so it is tried on, also if it was closed meanwhile."""
        owes = any(key in self.owed for key in keys)
        if owes:
            self._paying.begin()
        return owes

    async def close(self) -> None:
        """Try once more what is owed; what is still, is tried again once it is opened and read."""
        await self._paying.end(within=0)
        if self.owed:
            await self._pay()

    async def _unmark(self, marks: dict[str, set[str]]) -> None:
        commands = [
            scripted("cache_unmark", with_witnesses(key), [token], repeatable=True)
            for key, tokens in marks.items()
            for token in tokens
        ]
        try:
            await self._redis.send(commands, operation=_OPERATION, insist=True)
        finally:
            self._told(marks)
        self._outage.over()

    async def _pay_all(self) -> None:
        pauses = Pauses(0.02, 1.0)
        with suppress(NotOpenError):
            while self.owed:
                await asyncio.sleep(pauses.next())
                await self._pay()

    async def _pay(self) -> None:
        owed = {key: set(tokens) for key, tokens in self.owed.items()}
        try:
            await self._unmark(owed)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self._outage.began(error)
            return
        for key, tokens in owed.items():
            left = self.owed.get(key, set()) - tokens
            if left:
                self.owed[key] = left
            else:
                self.owed.pop(key, None)


class _Mark:
    """Stands around one commit, in the entries that it changes."""

    def __init__(self, marks: Marks, keys: tuple[str, ...]) -> None:
        self._marks = marks
        self._keys = keys
        self._token = secrets.token_hex(8)

    async def begin(self) -> Sequence[Told]:
        if await self._marks.put(self._keys, self._token):
            return ()
        payload = json.dumps({"keys": self._keys})
        return [Told(uuid7(), "redis", _OPERATION, payload, document=None, stream=None, tenant=None)]

    async def end(self) -> None:
        await self._marks.take_back(self._keys, self._token)
