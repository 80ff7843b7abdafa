"""One lock, from asking for it to giving it back.

Redis holds a token for `ttl`, and this process trusts in it for no longer: `ttl` counted from before
the request was sent, so its trust ends first, whatever the answer took. Every third of that the
lock is extended. When it cannot be, because somebody else has it or no answer came in time, the
task that holds it is cancelled, and its block ends in LockLostError.

A process that stood still does not know that its trust has ended until it runs again, and by then
another may hold the lock. Hence the fence: a number that grows with every holder, and that what is
written to compares. It is the last one and one more, and no less than the server's clock in
microseconds. So it grows although the number was evicted, or lost in a failover together with the
lock: provided that the new server's clock is not behind the old one's by more than the time between
the two acquisitions. What a failover can lose is the lock: two may believe to hold it, and the
fence lets only the later one write.

Who gives up asking, cancelled or without an answer, does not know what became of the request; it
may reach the server even after what takes it back. So that leaves a note, and what comes after the
note takes nothing.
"""

import asyncio
import logging
import secrets
from contextlib import nullcontext, suppress
from contextvars import Context
from datetime import timedelta
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from multidb.errors import LockError, LockLostError, LockNotAcquiredError, MultiDBError
from multidb.stores.completion import complete
from multidb.stores.redis.client import RedisStore

__all__ = ["HeldLock", "Here"]

_log = logging.getLogger("multidb.locks")

#: How long a fence is kept after the last use of its lock, in milliseconds: longer than any lock lives.
_FENCE_KEPT = 2 * 86_400_000
#: How long a request that was given up may be under way, in milliseconds.
_UNDER_WAY = 120_000
#: How long who waits in order keeps its place without asking again, in seconds.
_PATIENCE = 3.0


class Here:
    """What the locks of one process share."""

    def __init__(self, redis: RedisStore) -> None:
        self.redis = redis
        #: Of the tasks that wait for one lock, one at a time asks Redis.
        self.turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.held: dict[str, HeldLock] = {}


class HeldLock:
    """A lock that this task holds while its block runs."""

    def __init__(
        self, here: Here, key: str, ttl: timedelta, wait: timedelta, operation: str, *, fair: bool
    ) -> None:
        self._here = here
        self._key = key
        self._ttl = ttl.total_seconds()
        self._wait = wait.total_seconds()
        self._fair = fair
        self._operation = operation
        self._token = secrets.token_hex(16)
        #: The number to give to writes, `db.documents.update(..., fence=lock.fence)`.
        self.fence = 0
        #: Until when this process trusts in it, by the event loop's clock.
        self._deadline = 0.0
        self._lost = False
        self._ended = False
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None
        self._extending: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether this process may still trust in it, by its own clock."""
        return not self._ended and asyncio.get_running_loop().time() < self._deadline

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        if self._task is not None:
            raise LockError("a lock is entered once: ask for another one", operation=self._operation)
        holder = self._here.held.get(self._key)
        if holder is not None and holder._task is task:  # noqa: SLF001 - one of our own
            raise LockError(
                "this task holds the lock of the document already, and would wait for itself: pass the "
                "lock on to what needs it",
                operation=self._operation,
            )
        self._task, self._cancelling = task, task.cancelling()
        await self._acquire()
        self._here.held[self._key] = self
        self._extend_later()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        if self._here.held.get(self._key) is self:
            del self._here.held[self._key]
        assert self._task is not None
        # Whoever else has cancelled the task meant it to end so.
        ours = self._lost and self._task.uncancel() <= self._cancelling
        kept = await self._end()
        if (kind is None and (self._lost or not kept)) or (ours and kind is asyncio.CancelledError):
            raise LockLostError(
                "the lock of the document ended before its holder was done",
                store="redis",
                operation=self._operation,
            ) from error

    # --- taking it

    async def _acquire(self) -> None:
        """Take it. Whatever ends this, nothing of it is left in Redis."""
        turn = self._here.turns.get(self._key)
        # Who would have to wait for others here need not ask.
        asks = self._fair or turn is None or not turn.locked() or not self._wait
        if asks and not await self._take():
            return
        if self._wait:
            deadline = asyncio.get_running_loop().time() + self._wait
            turn = self._here.turns.setdefault(self._key, asyncio.Lock())
            taken = False
            try:
                async with asyncio.timeout_at(deadline), nullcontext() if self._fair else turn:
                    await self._wait_for_it()
                    taken = True
            except TimeoutError:
                pass
            finally:
                if not taken:
                    await complete(self._withdraw())
            if taken:
                return
        raise LockNotAcquiredError(
            "somebody else holds the lock of the document", store="redis", operation=self._operation
        )

    async def _wait_for_it(self) -> None:
        """Ask again whenever it may be free: somebody says so, or the holder's time is over."""
        calls = {b"", self._token.encode()}
        async with self._here.redis.listen(self._key, operation=self._operation) as messages:
            while pause := await self._take():
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, _PATIENCE / 3) if self._fair else pause):
                        async for message in messages:
                            if message is None or message.data in calls:
                                break

    async def _take(self) -> float:
        """Ask once. Return 0 if it is ours now, else the seconds after which it may be free."""
        started = asyncio.get_running_loop().time()
        key = self._key
        try:
            self.fence, pause = await self._here.redis.run(
                "lock_acquire",
                [key, f"{key}:fence", f"{key}:queue", f"{key}:waiting", f"{key}:{self._token}"],
                [
                    *(self._token, int(self._ttl * 1000), _FENCE_KEPT),
                    int(_PATIENCE * 1000) if self._fair and self._wait else 0,
                ],
                operation=self._operation,
                repeatable=True,
            )
        except (asyncio.CancelledError, MultiDBError):
            await complete(self._withdraw())
            raise
        if self.fence:
            self._deadline = started + self._ttl
            return 0
        # A holder whose last millisecond has begun is asked after in the next one.
        return max(int(pause), 1) / 1000

    async def _withdraw(self) -> None:
        """Take back what was asked, whatever became of it."""
        with suppress(MultiDBError):  # where Redis is away, its time will be over
            await self._give_back(_UNDER_WAY)

    async def _give_back(self, note: int = 0) -> bool:
        key = self._key
        return bool(
            await self._here.redis.run(
                "lock_release",
                [key, f"{key}:queue", f"{key}:waiting", f"{key}:{self._token}"],
                [self._token, note],
                operation=self._operation,
            )
        )

    # --- keeping it

    async def _end(self) -> bool:
        """Stop extending it and give it back; return False if it was seen to be no longer held."""
        if self._timer is not None:
            self._timer.cancel()
        if self._extending is not None:
            self._extending.cancel()
        try:
            if self._extending is not None:
                await asyncio.wait([self._extending])
            return await self._give_back()
        except asyncio.CancelledError:
            # Once more, for whether it was done is not known; and this time to the end.
            with suppress(MultiDBError):
                await complete(self._give_back())
            raise
        except MultiDBError as error:
            _log.warning("a lock could not be given back, and ends by itself: %s", error)
            return True

    def _extend_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._deadline - self._ttl * 2 / 3, self._extend_now)

    def _extend_now(self) -> None:
        # In an empty context, for it is part of nobody's transaction.
        self._extending = asyncio.get_running_loop().create_task(self._extend(), context=Context())

    async def _extend(self) -> None:
        loop = asyncio.get_running_loop()
        while (started := loop.time()) < self._deadline:
            try:
                async with asyncio.timeout_at(self._deadline):
                    kept = await self._here.redis.run(
                        "lock_extend",
                        [self._key],
                        [self._token, int(self._ttl * 1000)],
                        operation=self._operation,
                        repeatable=True,
                    )
            except TimeoutError:
                break
            except MultiDBError:
                # Redis may be back before the time is over.
                await asyncio.sleep(min(self._ttl / 10, max(0.0, self._deadline - loop.time())))
                continue
            if not kept:
                break
            self._deadline = started + self._ttl
            self._extend_later()
            return
        if not self._ended:
            self._lost = True
            self._deadline = 0.0
            assert self._task is not None
            self._task.cancel()
