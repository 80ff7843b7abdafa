"""Page cursors: where the last page ended, signed, and good for one query only."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

from multidb.errors import InvalidCursorError

__all__ = ["CursorCodec"]

_MAC_SIZE = 16


class CursorCodec:
    """Writes and reads cursors with one key.

    A cursor holds the last row's sort values, as JSON, and a tag over them and over the query
    they belong to. It is opaque but not secret: it shows its holder nothing but what the page
    itself showed.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, position: Sequence[Any], *, query: bytes) -> str:
        """Return the cursor of `position`, a list of JSON values, in `query`."""
        body = json.dumps(position, separators=(",", ":")).encode()
        return _spelled(self._tag(body, query) + body)

    def decode(self, cursor: str, *, query: bytes) -> list[Any]:
        """Return the position that `cursor` holds.

        Raises: InvalidCursorError if it was not made by `encode` with this key and query.
        """
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise InvalidCursorError("`after` is not a cursor that a page's `next` gave") from None
        tag, body = raw[:_MAC_SIZE], raw[_MAC_SIZE:]
        if cursor != _spelled(raw):
            raise InvalidCursorError("`after` is not a cursor that a page's `next` gave")
        if not hmac.compare_digest(tag, self._tag(body, query)):
            raise InvalidCursorError(
                "`after` was not made for this query: repeat the filters and order of the page it came from"
            )
        position: list[Any] = json.loads(body)
        return position

    def _tag(self, body: bytes, query: bytes) -> bytes:
        digest = hashlib.sha256(query).digest()
        return hmac.digest(self._key, digest + body, hashlib.sha256)[:_MAC_SIZE]


def _spelled(raw: bytes) -> str:
    """Return the one spelling of a cursor: base64 itself would read several as the same bytes."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
