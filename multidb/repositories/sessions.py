"""Sessions: who is signed in, on which device. Redis `session:user:{user_id}` and one key a session."""

import json
import logging
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID

from multidb.errors import DataError, NotFoundError, StoreName
from multidb.models.ids import uuid7
from multidb.models.sessions import Session
from multidb.repositories.key_effects import SessionEffects
from multidb.repositories.repository import Repository, Resources, checked_id
from multidb.repositories.session_history import Ended, SessionHistory, Started
from multidb.repositories.session_tokens import Token
from multidb.repositories.session_use import (
    SessionUse,
    expired_sessions,
    stored_session,
    to_milliseconds,
    to_moment,
    to_session,
    to_uuid,
)

__all__ = ["SessionRepository"]

#: How many tokens of one session may be in use at a time: those rotated anew within their grace. Of those
#: whose grace is over the oldest makes room.
_MAX_TOKENS = 16

_log = logging.getLogger("multidb.sessions")


class SessionRepository(Repository):
    """The calls on sessions. Each is one round trip to Redis, and atomic.

    A session ends `Settings.session_lifetime` after it was created, and before that once it has not
    been used for `Settings.session_idle_timeout`; the server's clock tells. What is not in its
    user's index is not live, so whatever Redis may lose, no session comes back. All methods raise
    UnavailableError if Redis cannot be reached.

    Beginning and end are noted in PostgreSQL `user_sessions`, behind the caller's back: no call
    waits for it or fails with it, and a process that is killed may take entries with it
    (`session_history.py`). The end of a session that expired is noted when another call about its
    user comes upon it. Inside a transaction the session itself begins or ends at once, and stays so
    if it rolls back; the history is told after the commit.
    """

    store: ClassVar[StoreName] = "redis"
    #: The user's index. Each session has its own key under the same hash tag.
    key = "session:user:{user_id}"
    effects = SessionEffects

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        settings = resources.settings
        self._redis = resources.redis
        self._history = SessionHistory(resources)
        self._index_key = self._redis.pattern(self.key)
        #: How a token is used, also by who does more in the same trip.
        self.use = SessionUse(resources, self._index_key, self._history)
        self._lifetime = to_milliseconds(settings.session_lifetime)
        self._idle = to_milliseconds(settings.session_idle_timeout)
        self._grace = to_milliseconds(settings.session_grace)
        self._limit = settings.session_limit

    @classmethod
    def target(cls) -> str:
        return cls.key

    @classmethod
    def entity(cls) -> str:
        return "sessions"

    @classmethod
    def check(cls) -> None:
        """There is nothing to hold against each other."""

    async def create(
        self,
        user_id: UUID,
        *,
        device: str | None = None,
        ip: str | None = None,
        user_agent: str | None = None,
    ) -> tuple[str, Session]:
        """Start a session and return its token, which is shown this once, and the session.

        `device` is what the user will know it by, up to 200 characters; `ip` an address without a
        port, `user_agent` up to 1,000 characters. Of more sessions than `Settings.session_limit`
        the one that would end first is ended. A user who does not exist may have one, but no history.

        Raises: DataError if something does not fit; TransactionError if the ambient transaction is
        another task's.
        """
        operation = self._operation("create")
        checked_id(user_id, operation, "user_id")
        note = self._history.noting()
        id = uuid7()
        told = {"device": device, "ip": ip, "user_agent": user_agent}
        # Checked before it is stored; the moments are the server's.
        began = datetime.now(UTC)
        checked = to_session(id, user_id, told, (began, began, began), operation)
        told = checked.model_dump(include=set(told))
        for name, text in told.items():
            if text is not None and "\0" in text:
                # Or the session would be live, and PostgreSQL could not keep its history.
                raise DataError(f"`{name}` of Session: it must have no NUL in it", operation=operation)
        text, token = self.use.tokens.issue(user_id, id)
        index, key = self.use.keys(user_id, id)
        now, displaced, expired = await self._redis.run(
            "session_create",
            [index, key],
            [str(id), token.digest, json.dumps(told), self._lifetime, self._idle, self._limit],
            operation=operation,
        )
        moments = to_moment(now), to_moment(now), to_moment(now + self._lifetime)
        session = to_session(id, user_id, told, moments, operation)
        ended = [Ended(user_id, to_moment(now), "displaced", id=to_uuid(each)) for each in displaced]
        note([Started(session), *ended, *expired_sessions(user_id, expired)])
        return text, session

    async def get(self, token: str) -> Session | None:
        """Return the live session that this token opens, or None for any other string.

        Using a session keeps it alive. That is written once in `Settings.session_touch_interval`;
        in between the call only reads. A token that was rotated opens its session for
        `Settings.session_grace` longer; used after that, it ends the session, for one of those who
        have it has stolen it.

        Raises: DataError if what is stored is not a session.
        """
        return await self._use(token, None, "get")

    async def rotate(self, token: str) -> tuple[str, Session]:
        """Replace a token by a new one and return that, which is shown this once, and the session.

        The session stays the same. The old token may be used, and rotated again, for
        `Settings.session_grace` more, lest an answer that is lost, or another request under way,
        sign the user out. Used after that, it ends the session and with it every token of it. Not
        idempotent: repeated, it gives another token, as good as the first.

        Raises: NotFoundError if the token opens no session; ConflictError if it was rotated too
        often within its grace.
        """
        operation = self._operation("rotate")
        known = self.use.read(token)
        if known is not None:
            text, new = self.use.tokens.issue(known.user_id, known.id)
            session = await self._use(token, new, "rotate")
            if session is not None:
                return text, session
        raise NotFoundError("the token opens no session", store="redis", operation=operation)

    async def find(self, user_id: UUID) -> list[Session]:
        """Return the user's live sessions, the one used last first; `Settings.session_limit` at most."""
        operation = self._operation("find")
        checked_id(user_id, operation, "user_id")
        index = self._index_key.key({"user_id": user_id})
        live, expired = await self._redis.run("session_find", [index], [], operation=operation)
        self._history.note(expired_sessions(user_id, expired))
        return [stored_session(to_uuid(each[0]), user_id, each[1:], operation) for each in live]

    async def revoke(self, token: str) -> bool:
        """End the session of this token, sign out; return whether it was live. Idempotent."""
        known = self.use.read(token)
        if known is None:
            return False
        return await self._end(known.user_id, known.id, "signed out", "revoke")

    async def revoke_one(self, session_id: UUID, *, user_id: UUID) -> bool:
        """End one session of a user, whose token is not at hand; return whether it was live. Idempotent."""
        for name, id in {"session_id": session_id, "user_id": user_id}.items():
            checked_id(id, self._operation("revoke_one"), name)
        return await self._end(user_id, session_id, "revoked", "revoke_one")

    async def revoke_all(self, user_id: UUID, *, except_: UUID | None = None) -> int:
        """End all sessions of a user, but for the one with the id `except_`; return how many. Idempotent.

        Takes the same time however many there are.
        """
        operation = self._operation("revoke_all")
        checked_id(user_id, operation, "user_id")
        if except_ is not None:
            checked_id(except_, operation, "except_")
        return await self._revoke_all(user_id, except_)

    async def _revoke_all(self, user_id: UUID, but: UUID | None, *, before: datetime | None = None) -> int:
        """End a user's sessions, or those that began up to a moment, and return how many."""
        index = self._index_key.key({"user_id": user_id})
        until = "" if before is None else int(before.timestamp() * 1000)
        count, now = await self._redis.run(
            "session_revoke_all", [index], [str(but or ""), until], operation=self._operation("revoke_all")
        )
        self._history.note([Ended(user_id, before or to_moment(now), "revoked", but=but)])
        return int(count)

    async def _use(self, token: str, new: Token | None, name: str) -> Session | None:
        known = self.use.read(token)
        if known is None:
            return None
        operation = self._operation(name)
        reply = await self._redis.run(
            "session_use",
            self.use.keys(known.user_id, known.id),
            [*self.use.asked(known), new.digest if new is not None else "", self._grace, _MAX_TOKENS],
            operation=operation,
        )
        return self.use.told(known, reply, operation)

    async def _end(self, user_id: UUID, id: UUID, reason: str, name: str) -> bool:
        operation = self._operation(name)
        held = await self._redis.run(
            "session_revoke", self.use.keys(user_id, id), [str(id)], operation=operation
        )
        if held is None:
            return False
        now, *stored = held
        self._history.note([Started(stored_session(id, user_id, stored, operation), to_moment(now), reason)])
        return True
