"""UUIDv7: ids that clients make and that sort by the time they were made."""

import os
import threading
import time
from uuid import UUID

__all__ = ["uuid7"]

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """Return a new UUIDv7, greater than every one this process made before.

    48 bits of Unix milliseconds, 12 bits of their fraction and 62 random bits
    (RFC 9562, section 6.2, method 3). When the clock stands still or steps back,
    the fraction counts on from the last id instead.
    """
    global _last  # noqa: PLW0603 - the one thing ids of a process share
    with _lock:
        now = time.time_ns() * 4096 // 1_000_000
        _last = now if now > _last else _last + 1
        stamp = _last
    random = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(
        int=(stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0x2 << 62 | random,
    )
