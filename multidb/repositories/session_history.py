"""The history of sessions, entered into PostgreSQL `user_sessions` behind the caller's back.

A login does not wait for it, and does not fail with it. What has been noted is written by one
task, in order, within milliseconds as a rule; while PostgreSQL is away it is kept, the latest
10,000, and closing writes what is left. So an entry is lost only with its process, or by an outage
longer than that many logins. A session that is used for longer than the touch interval is entered
a second time then, and so is in the history after all.

Every entry may be written twice, and the end of a session before its beginning.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias, cast
from uuid import UUID

from multidb.errors import AlreadyExistsError, MultiDBError, NotOpenError, UnavailableError
from multidb.models.sessions import Session
from multidb.models.user_sessions import NewUserSession, UserSessionChanges
from multidb.repositories.repository import Resources
from multidb.repositories.user_sessions import UserSessionRepository
from multidb.stores.background import Background
from multidb.stores.pauses import Pauses

__all__ = ["Ended", "Entry", "SessionHistory", "Started"]

_log = logging.getLogger("multidb.sessions")

_MAX_NOTED = 10_000
_BATCH = 500


class Started(NamedTuple):
    """A session that has begun. With `ended_at`, it has also ended."""

    session: Session
    ended_at: datetime | None = None
    reason: str | None = None


class Ended(NamedTuple):
    """Sessions of a user that have ended, of which only the id is known: this one, or all but some."""

    user_id: UUID
    ended_at: datetime
    reason: str
    id: UUID | None = None
    but: UUID | None = None


Entry: TypeAlias = Started | Ended


class SessionHistory:
    """Writes entries, one task for all of them."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._noted: deque[Entry] = deque()
        self._writing = Background(self._write_all)
        #: Entries that will never be written: there was no room, or no such user.
        self.lost = 0
        resources.before_closing.append(self._drain)
        resources.after_closing.append(self._give_up)

    def note(self, entries: Iterable[Entry]) -> None:
        """Have entries written."""
        self._noted.extend(entries)
        while len(self._noted) > _MAX_NOTED:
            self._noted.popleft()
            self._lose("PostgreSQL is away for too long, and the oldest are dropped")
        self._writing.begin()

    def noting(self) -> Callable[[Iterable[Entry]], None]:
        """Return what notes entries once the ambient transaction has committed; outside of one, at once.

        Before that a session may be about a user whom nobody else can see. Raises: TransactionError
        if the ambient transaction is another task's.
        """
        transaction = self._resources.postgres.transactions.current()
        if transaction is None:
            return self.note

        def later(entries: Iterable[Entry]) -> None:
            async def note() -> None:
                self.note(entries)

            transaction.after_commit.append(note)

        return later

    async def _write_all(self) -> None:
        pauses = Pauses(0.1, 5.0)
        while self._noted:
            batch = [self._noted.popleft() for _ in range(min(_BATCH, len(self._noted)))]
            try:
                await self._write(batch)
                pauses.restart()
            except (UnavailableError, NotOpenError):
                self._noted.extendleft(reversed(batch))
                if await self._writing.pause(pauses.next()):
                    pauses.restart()
            except BaseException:
                self._noted.extendleft(reversed(batch))
                raise

    async def _write(self, batch: Sequence[Entry]) -> None:
        """Write a batch: the beginnings share statements, then each end."""
        history = cast(UserSessionRepository, self._resources.repositories[UserSessionRepository])
        begun = [_row(entry) for entry in batch if isinstance(entry, Started) and entry.ended_at is None]
        answers = await asyncio.gather(*map(history.add, begun), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in errors:
            if isinstance(error, UnavailableError | NotOpenError) or not isinstance(error, MultiDBError):
                raise error
            if not isinstance(error, AlreadyExistsError):
                self._lose(str(error))
        for entry in batch:
            try:
                if isinstance(entry, Ended):
                    await self._end(history, entry)
                elif entry.ended_at is not None:
                    await history.upsert(_row(entry))
            except (UnavailableError, NotOpenError):
                raise
            except MultiDBError as error:
                self._lose(str(error))

    async def _end(self, history: UserSessionRepository, entry: Ended) -> None:
        changes = UserSessionChanges(ended_at=entry.ended_at, end_reason=entry.reason)
        if entry.id is not None:
            await history.update_many(id=entry.id, user_id=entry.user_id, ended_at=None, changes=changes)
            return
        before = history.c.started_at <= entry.ended_at
        if entry.but is not None:
            before &= history.c.id != entry.but
        await history.update_many(before, user_id=entry.user_id, ended_at=None, changes=changes)

    async def _drain(self) -> None:
        """Write what is left, within `Settings.close_timeout`."""
        self._writing.begin()
        self._writing.wake()  # the next try is made at once
        await self._writing.end(within=self._resources.settings.close_timeout.total_seconds())

    async def _give_up(self) -> None:
        """Write no more; what is left is lost."""
        await self._writing.end(within=0)
        while self._noted:
            self._noted.popleft()
            self._lose("closed before PostgreSQL took them")

    def _lose(self, why: str) -> None:
        self.lost += 1
        # Once for many: a user who is not there may sign in all day.
        if self.lost & (self.lost - 1) == 0:
            _log.warning("sessions that are missing from the history: %d; %s", self.lost, why)


def _row(entry: Started) -> NewUserSession:
    session = entry.session
    row = NewUserSession(
        id=session.id,
        user_id=session.user_id,
        device=session.device,
        ip=session.ip,
        user_agent=session.user_agent,
        started_at=session.created_at,
    )
    if entry.ended_at is not None:
        # Only what is given is changed of a row that is there.
        return row.model_copy(update={"ended_at": entry.ended_at, "end_reason": entry.reason})
    return row
