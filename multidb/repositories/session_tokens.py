"""Session tokens: what is handed out, and what is kept of it.

A token is 96 URL-safe characters: the user's id and the session's, which tell where the session
lies; 192 random bits; and 128 bits of a keyed hash over those, the tag. By the tag, compared in
constant time, a token that was never issued, or with another secret, is told without asking Redis,
whatever its length or form. So one that was issued and is not current is one that was rotated.

Kept is another keyed hash of it, so that who reads Redis cannot sign in.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import NamedTuple
from uuid import UUID

from multidb.settings import Settings

__all__ = ["SessionTokens", "Token"]

_LENGTH = 96
_TAGGED = 56
_TAG = 16


class Token(NamedTuple):
    """A token that was issued: whose, for which session, and what is kept of it."""

    user_id: UUID
    id: UUID
    digest: str


class SessionTokens:
    """Issues and reads tokens, by the secret of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._tag_key = settings.derive_key("session token")
        self._digest_key = settings.derive_key("session")

    def issue(self, user_id: UUID, id: UUID) -> tuple[str, Token]:
        """Return a new token of a session, as its holder gets it and as it is kept."""
        tagged = user_id.bytes + id.bytes + secrets.token_bytes(_TAGGED - 32)
        raw = tagged + self._tag(tagged)
        return base64.urlsafe_b64encode(raw).decode(), Token(user_id, id, self._digest(raw))

    def read(self, text: str) -> Token | None:
        """Return what a token says, or None if it was not issued with this secret."""
        try:
            if len(text) != _LENGTH:
                return None
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError, TypeError):
            return None
        tagged, tag = raw[:_TAGGED], raw[_TAGGED:]
        if not hmac.compare_digest(tag, self._tag(tagged)):
            return None
        return Token(UUID(bytes=raw[:16]), UUID(bytes=raw[16:32]), self._digest(raw))

    def _tag(self, tagged: bytes) -> bytes:
        return hmac.digest(self._tag_key, tagged, hashlib.sha256)[:_TAG]

    def _digest(self, raw: bytes) -> str:
        return hmac.digest(self._digest_key, raw, hashlib.sha256).hex()
