"""Presence: which users are there, on any device. Redis `realtime:user:{user_id}:presence`.

A device is there for `Settings.presence_timeout` after each beat. The user's key holds its devices and
lives as long as the last of them, so it exists while the user is there, and no event of Redis is
needed for what expires.

Who comes and goes is told by registers, 16 of them, each with a stream of events in one hash slot
with it; a user belongs to one. A beat enters the user, and what enters one that was not there tells of
it. Taking out is up to the sweepers, one a process: they read the register's entries whose time has
come, then ask whether the user's key is there, then settle: take the user out and tell it, if the
entry is still what it was. A beat in between has changed it. So of all sweepers one settles, a process
that dies leaves nothing untold, and what a register holds is what was told.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from random import getrandbits
from typing import Any, ClassVar
from uuid import UUID

from multidb.errors import DataError, MultiDBError, NotOpenError, StoreName
from multidb.models.ids import uuid7
from multidb.models.presence import PresenceEvent
from multidb.repositories.repository import Repository, Resources, checked_id, checked_ids, validated
from multidb.stores.background import Background
from multidb.stores.redis.commands import Command, scripted
from multidb.stores.redis.outage import Outage

__all__ = ["MAX_DEVICES", "PresenceRepository"]

_REGISTERS = 16
#: How many devices a user may have.
MAX_DEVICES = 100
_MAX_DEVICE = 200
#: Events a register keeps, about.
_KEPT = 10_000
#: How many users of a register are looked after at a time, and events read.
_BATCH = 1000

_log = logging.getLogger("multidb.presence")


class PresenceRepository(Repository):
    """The calls on presence. It does without Redis: while that is away, nobody is seen to be there.

    Joins and leaves are told by `watch`. A leave is told when the last device leaves or, where its
    process died, up to a quarter of `Settings.presence_timeout` after that is over, as long as any
    process uses presence. Whoever runs a beat, or watches, sweeps for all.
    """

    store: ClassVar[StoreName] = "redis"
    key = "realtime:user:{user_id}:presence"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._redis = resources.redis
        self._timeout = resources.settings.presence_timeout.total_seconds()
        self._outage = Outage(_log, "nobody is seen to be there")
        sample = uuid7()
        self._head, self._tail = self._redis.pattern(self.key).key({"user_id": sample}).split(str(sample))
        register = self._redis.pattern("realtime:presence:{register}")
        self._registers = [register.key({"register": number}) for number in range(_REGISTERS)]
        #: By the key of its events, on which their ids are told, the number of a register.
        self._told = {f"{each}:events": number for number, each in enumerate(self._registers)}
        self._sweeping = Background(self._sweep_on)
        #: How often somebody has left here, and how often by the beginning of the last sweep.
        self._leaves = self._swept = 0
        #: Users who are there, and are to be entered.
        self._arrivals: set[UUID] = set()
        resources.before_closing.append(self._stop)
        resources.after_closing.append(partial(self._sweeping.end, within=0))

    @classmethod
    def target(cls) -> str:
        return cls.key

    @classmethod
    def entity(cls) -> str:
        return "presence"

    @classmethod
    def check(cls) -> None:
        """There is nothing to hold against each other."""

    async def beat(self, user_id: UUID, *, device: str) -> None:
        """Say that a user is there on a device, for `Settings.presence_timeout`. One round trip.

        Of more than 100 devices of a user, those heard of the longest ago are forgotten. Raises:
        DataError unless `device` is a text of 1 to 200 characters.
        """
        operation = self._operation("beat")
        commands = self._beat(user_id, device, operation)
        await self._try(commands, operation)
        self._sweeping.begin()

    async def leave(self, user_id: UUID, *, device: str) -> None:
        """Say that a user is gone from a device. One round trip; idempotent. Raises: as `beat`."""
        operation = self._operation("leave")
        checked_id(user_id, operation, "user_id")
        register = self._register(user_id)
        commands = [
            scripted("presence_leave", [self._key(user_id)], [_checked(device, operation)], repeatable=True),
            # To be looked at now: others may have it on other devices. Never the same twice, lest a
            # sweeper that looked before this leave take the entry for the one it saw.
            Command("ZADD", f"{register}:due", "XX", -1 - getrandbits(52), str(user_id), repeatable=True),
        ]
        await self._try(commands, operation)
        self._leaves += 1
        self._sweeping.begin()
        self._sweeping.wake()

    async def online(self, user_ids: Iterable[UUID]) -> set[UUID]:
        """Return those of the users who are there. One round trip, for 10,000 users as for one."""
        operation = self._operation("online")
        ids = checked_ids(user_ids, operation, "user_ids")
        commands = [Command("EXISTS", self._key(id), repeatable=True) for id in ids]
        replies = await self._try(commands, operation) if ids else []
        return {id for id, there in zip(ids, replies, strict=False) if there}

    async def count(self) -> int:
        """Return how many users are there. One round trip, whatever the number."""
        operation = self._operation("count")
        commands = [
            scripted("presence_count", [f"{each}:due"], [], repeatable=True) for each in self._registers
        ]
        return sum(await self._try(commands, operation))

    async def watch(self, *, after: str | None = None) -> AsyncGenerator[PresenceEvent, None]:
        """Yield who comes and goes, from now on or after the event that has the cursor `after`.

        Events of one user come in their order, each once; those of a cursor follow as long as they
        are kept: about 10,000 for each sixteenth of the users.

        Raises: UnavailableError if Redis cannot be reached: resume with the last event's cursor.
        InvalidCursorError.
        """
        operation = self._operation("watch")
        places = None if after is None else self._resources.cursors.decode(after, query=b"presence.watch")
        async with self._redis.listen(*self._told, operation=operation) as messages:
            self._sweeping.begin()
            if places is None:
                places = await self._ends(operation)
            behind: Iterable[int] = range(_REGISTERS)
            while True:
                for number in behind:
                    async for event in self._events(number, places, operation):
                        yield event
                message = await anext(messages)
                if message is None:
                    behind = range(_REGISTERS)
                else:
                    told = self._told[message.channel]
                    behind = [told] if _place(message.data.decode()) > _place(places[told]) else []

    async def sweep(self) -> int:
        """Tell of the users whose time is over; return how many have left. Runs by itself all the time.

        Raises: UnavailableError if Redis cannot be reached.
        """
        operation = self._operation("sweep")
        left = 0
        while True:
            due = await self._redis.send(
                [
                    scripted("presence_due", [f"{each}:due"], [_BATCH], repeatable=True)
                    for each in self._registers
                ],
                operation=operation,
            )
            seen = [
                (UUID(user.decode()), int(score))
                for each in due
                for user, score in zip(each[::2], each[1::2], strict=True)
            ]
            if not seen:
                return left
            # In this order, and not in one trip: what has changed since the entry was read shows.
            rest = await self._redis.send(
                [Command("PTTL", self._key(user)) for user, _ in seen], operation=operation
            )
            settled = [
                self._settle(user, score, max(0, ms)) for (user, score), ms in zip(seen, rest, strict=True)
            ]
            left += sum(map(int, await self._redis.send(settled, operation=operation)))
            if all(len(each) < 2 * _BATCH for each in due):
                return left

    # --- how

    def _key(self, user_id: UUID) -> str:
        return f"{self._head}{user_id}{self._tail}"

    def _register(self, user_id: UUID) -> str:
        return self._registers[user_id.int % _REGISTERS]

    def _beat(self, user_id: UUID, device: str, operation: str) -> list[Command]:
        checked_id(user_id, operation, "user_id")
        beaten = _checked(device, operation), int(self._timeout * 1000), MAX_DEVICES
        return [
            scripted("presence_beat", [self._key(user_id)], beaten, repeatable=True),
            self._note(user_id),
        ]

    def _note(self, user_id: UUID) -> Command:
        register = self._register(user_id)
        return scripted(
            "presence_note",
            [f"{register}:due", f"{register}:events"],
            [str(user_id), int(self._timeout * 1000), _KEPT],
            repeatable=True,
        )

    def _arrived(self, user_id: UUID) -> None:
        """Have a user entered, soon, of whom a device was noted already."""
        self._arrivals.add(user_id)
        self._sweeping.begin()
        self._sweeping.wake()

    async def _enter(self) -> None:
        """Enter those who have arrived. Whom it is cancelled or fails for, stays to be entered."""
        while self._arrivals:
            some = list(islice(self._arrivals, _BATCH))
            await self._redis.send([self._note(each) for each in some], operation=self._operation("beat"))
            self._arrivals.difference_update(some)

    def _settle(self, user_id: UUID, seen: int, rest: int) -> Command:
        register = self._register(user_id)
        return scripted(
            "presence_settle",
            [f"{register}:due", f"{register}:events"],
            [str(user_id), seen, rest, _KEPT],
            repeatable=True,
        )

    async def _try(self, commands: Sequence[Command], operation: str) -> list[Any]:
        """Return the replies, or nothing where Redis is away."""
        try:
            replies = await self._redis.send(commands, operation=operation)
        except NotOpenError:
            raise
        except MultiDBError as error:
            self._outage.began(error)
            return []
        self._outage.over()
        return replies

    async def _ends(self, operation: str) -> list[str]:
        """Return where each register's events end."""
        commands = [Command("XREVRANGE", f"{each}:events", "+", "-", "COUNT", 1) for each in self._registers]
        ends = await self._redis.send(commands, operation=operation)
        return [each[0][0].decode() if each else "0-0" for each in ends]

    async def _events(self, number: int, places: list[str], operation: str) -> AsyncIterator[PresenceEvent]:
        """Yield what a register has told after its place, and move that along."""
        key = f"{self._registers[number]}:events"
        while True:
            found = await self._redis.execute(
                "XRANGE",
                key,
                f"({places[number]}",
                "+",
                "COUNT",
                _BATCH,
                operation=operation,
                repeatable=True,
            )
            for id, fields in found:
                places[number] = id.decode()
                told = dict(zip(fields[::2], fields[1::2], strict=True))
                yield validated(
                    PresenceEvent,
                    {
                        "kind": told[b"kind"].decode(),
                        "user_id": told[b"user"].decode(),
                        "at": datetime.fromtimestamp(int(told[b"at"]) / 1000, UTC),
                        "cursor": self._resources.cursors.encode(places, query=b"presence.watch"),
                    },
                    operation,
                )
            if len(found) < _BATCH:
                return

    async def _sweep_on(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._timeout / 4
        while True:
            await self._sweeping.pause(due - loop.time())
            try:
                await self._enter()
                if (leaves := self._leaves) != self._swept or loop.time() >= due:
                    due = loop.time() + self._timeout / 4
                    await self.sweep()
                    self._swept = leaves
                self._outage.over()
            except MultiDBError as error:
                self._outage.began(error)
                due = loop.time() + self._timeout / 4  # or it would try without a pause

    async def _stop(self) -> None:
        """Stop sweeping; who came or left just now is told of first."""
        if await self._sweeping.end(within=0):
            with suppress(MultiDBError):  # others will
                await self._enter()
                if self._leaves != self._swept:
                    await self.sweep()
        self._swept = self._leaves
        self._arrivals.clear()


def _checked(device: object, operation: str) -> str:
    if isinstance(device, str) and 1 <= len(device) <= _MAX_DEVICE:
        with suppress(UnicodeEncodeError):
            device.encode()
            return device
    raise DataError(f"`device` must be a text of 1 to {_MAX_DEVICE} characters", operation=operation)


def _place(id: str) -> tuple[int, int]:
    ms, _, sequence = id.partition("-")
    return int(ms), int(sequence)
