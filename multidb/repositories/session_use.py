"""The use of a session by its token: what a script is asked, and what its answer says."""

import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from multidb.errors import ConflictError, DataError
from multidb.models.sessions import Session
from multidb.repositories.repository import Resources, validated
from multidb.repositories.session_history import Ended, Entry, SessionHistory, Started
from multidb.repositories.session_tokens import SessionTokens, Token
from multidb.stores.redis.commands import Argument
from multidb.stores.redis.keys import KeyPattern

__all__ = [
    "SessionUse",
    "expired_sessions",
    "stored_session",
    "to_milliseconds",
    "to_moment",
    "to_session",
    "to_uuid",
]

_log = logging.getLogger("multidb.sessions")


class SessionUse:
    """Reads tokens, and speaks for them with the scripts that use sessions."""

    def __init__(self, resources: Resources, index: KeyPattern, history: SessionHistory) -> None:
        settings = resources.settings
        self.tokens = SessionTokens(settings)
        self._index = index
        self._history = history
        self._idle = to_milliseconds(settings.session_idle_timeout)
        self._touch = min(to_milliseconds(settings.session_touch_interval), self._idle // 2)

    def read(self, token: str) -> Token | None:
        """Return what a token says, or None if it was not issued with this secret."""
        return self.tokens.read(token)

    def keys(self, user_id: UUID, id: UUID) -> tuple[str, str]:
        """Return the keys of the user's index and of the session."""
        index = self._index.key({"user_id": user_id})
        return index, f"{index}:{id}"

    def asked(self, known: Token) -> tuple[Argument, ...]:
        """Return what scripts take first: session, token, and two times."""
        return str(known.id), known.digest, self._idle, self._touch

    def told(self, known: Token, reply: Any, operation: str) -> Session | None:
        """Return the session that `session_use` tells of, and note what is for the history.

        Raises: ConflictError if it may have no new token; DataError if what is stored is no session.
        """
        if reply is None:
            return None
        word, now, *stored, first, expired = reply
        session = stored_session(known.id, known.user_id, stored, operation)
        if word == b"crowded":
            raise ConflictError("rotated too often at a time", store="redis", operation=operation)
        if word == b"reused":
            _log.warning("session %s: a token was used after it had been rotated; ended", session.id)
            self._history.note([Started(session, to_moment(now), "token reused")])
            return None
        if first or expired:
            begun = [Started(session)] if first else []
            self._history.note([*begun, *expired_sessions(known.user_id, expired)])
        return session


def stored_session(id: UUID, user_id: UUID, held: Sequence[Any], operation: str) -> Session:
    """Return a session of what a script tells: what is told of it, and three moments."""
    try:
        told = json.loads(held[0])
        created, seen, ends = (to_moment(each) for each in held[1:])
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError("what is stored is not a Session", store="redis", operation=operation) from error
    if not isinstance(told, dict):
        raise DataError("what is stored is not a Session", store="redis", operation=operation)
    return to_session(id, user_id, told, (created, seen, ends), operation)


def to_session(
    id: UUID,
    user_id: UUID,
    told: dict[str, Any],
    moments: tuple[datetime, datetime, datetime],
    operation: str,
) -> Session:
    created, seen, ends = moments
    kept = {"id": id, "user_id": user_id, "created_at": created, "last_seen_at": seen, "expires_at": ends}
    return validated(Session, {**told, **kept}, operation)


def expired_sessions(user_id: UUID, found: Sequence[bytes]) -> Iterable[Entry]:
    """Return the ends of sessions that a script tells as id, moment, id, moment."""
    for id, moment in zip(found[::2], found[1::2], strict=True):
        yield Ended(user_id, to_moment(float(moment)), "expired", id=to_uuid(id))


def to_uuid(text: bytes) -> UUID:
    return UUID(text.decode())


def to_moment(milliseconds: bytes | float) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


def to_milliseconds(duration: timedelta) -> int:
    return max(1, int(duration.total_seconds() * 1000))
