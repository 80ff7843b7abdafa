"""Sessions: who is signed in, on which device. Redis `session:user:{user_id}` and one key a session."""

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID

from multidb.errors import StoreName
from multidb.models.ids import uuid7
from multidb.models.sessions import Session
from multidb.repositories.repository import Repository, Resources, validated, validated_json

__all__ = ["SessionRepository"]

_SECRET_SIZE = 32


class SessionRepository(Repository):
    """The calls on sessions.

    A token is the user's id and 256 random bits, as 64 URL-safe characters; the id tells where
    the session lies. Stored is only the token's keyed hash, so that who reads Redis cannot sign
    in. All methods raise UnavailableError if Redis cannot be reached.
    """

    store: ClassVar[StoreName] = "redis"
    #: The user's index. Each session has its own key under the same hash tag.
    key = "session:user:{user_id}"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._redis = resources.redis
        self._secret = resources.settings.derive_key("session")
        self._lifetime = resources.settings.session_lifetime
        self._index_key = self._redis.pattern(self.key)

    @classmethod
    def target(cls) -> str:
        return cls.key

    @classmethod
    def entity(cls) -> str:
        return "sessions"

    @classmethod
    def check(cls) -> None:
        """There is nothing to hold against each other."""

    async def create(self, user_id: UUID, *, device: str | None = None) -> tuple[str, Session]:
        """Start a session and return its token, which is shown this once, and the session.

        Atomic. `device` is what the user will know it by, up to 200 characters. The session ends
        after `Settings.session_lifetime`.

        Raises: DataError if `device` is too long.
        """
        operation = self._operation("create")
        now = datetime.now(UTC)
        session = validated(
            Session,
            {
                "id": uuid7(),
                "user_id": user_id,
                "device": device,
                "created_at": now,
                "expires_at": now + self._lifetime,
            },
            operation,
        )
        token = base64.urlsafe_b64encode(session.user_id.bytes + secrets.token_bytes(_SECRET_SIZE)).decode()
        digest = self._digest(token)
        index = self._index_key.key({"user_id": session.user_id})
        await self._redis.run(
            "session_create",
            [f"{index}:{digest}", index],
            [session.model_dump_json(), digest, _milliseconds(session.expires_at), _milliseconds(now)],
            operation=operation,
        )
        return token, session

    async def get(self, token: str) -> Session | None:
        """Return the live session that this token opens, or None for any other string.

        Raises: DataError if what is stored is not a session.
        """
        index = self._index_of(token)
        if index is None:
            return None
        operation = self._operation("get")
        stored = await self._redis.get(f"{index}:{self._digest(token)}", operation=operation)
        return validated_json(Session, stored, operation) if stored is not None else None

    async def revoke(self, token: str) -> bool:
        """End the session that this token opens; return whether there was one. Atomic, idempotent."""
        index = self._index_of(token)
        if index is None:
            return False
        digest = self._digest(token)
        ended = await self._redis.run(
            "session_revoke", [f"{index}:{digest}", index], [digest], operation=self._operation("revoke")
        )
        return bool(ended)

    def _index_of(self, token: str) -> str | None:
        """Return the index key of the token's user, or None if it has not the form of a token."""
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError, TypeError):
            return None
        if len(raw) != 16 + _SECRET_SIZE:
            return None
        return self._index_key.key({"user_id": UUID(bytes=raw[:16])})

    def _digest(self, token: str) -> str:
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
