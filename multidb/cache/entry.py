"""What an entry of the cache holds: by its first byte a value, a lease, or marks; nothing else is one.

    V…   a value, behind a head that says until when it is fresh, how long its load took, under
         which generations of its tags and in which run of the server it was stored
    L…   a lease, its token behind it; A… one that somebody waits for
    W…   marks of commits under way, `token:deadline`, which scripts alone read; its witnesses hold
         them too, keys beside it, each of which would have to be lost with it

Every head has a number of its own, so that no two values are alike, and one can be compared with.
"""

import secrets
import struct
import time
import zlib
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "Held",
    "Value",
    "is_lease",
    "is_marked",
    "known",
    "new_generation",
    "new_lease",
    "now",
    "with_witnesses",
]

_VALUE, _LEASE, _AWAITED, _MARKED, _GENERATION = b"VLAWG"

#: First byte, flags, how many tags, fresh until (Unix ms), load time (us), own number, run of the server.
_HEAD = struct.Struct(">sBBQI8s8s")
_COMPRESSED = 1
_TAG_SIZE = 17
_MOST_MICROSECONDS = 2**32 - 1
_WITNESSES = 2


class Value(NamedTuple):
    """A value as it is stored."""

    #: Until when it is fresh, in Unix milliseconds.
    fresh_until: int
    #: How long its load took, in microseconds.
    took: int
    #: The generations of its tags when it was loaded.
    generations: tuple[bytes, ...]
    #: Which run of the server it was stored in; what an earlier one has left may have missed writes.
    incarnation: bytes
    #: What the codec made of it.
    body: bytes

    @classmethod
    def read(cls, held: bytes) -> "Value | None":
        """Return what an entry holds, or None if it is no value, or of another form."""
        if len(held) < _HEAD.size or held[0] != _VALUE:
            return None
        _, flags, tags, fresh_until, took, _, incarnation = _HEAD.unpack_from(held)
        if not (tags or flags):  # as most are
            return cls(fresh_until, took, (), incarnation, held[_HEAD.size :])
        place = _HEAD.size + tags * _TAG_SIZE
        generations = tuple(held[at : at + _TAG_SIZE] for at in range(_HEAD.size, place, _TAG_SIZE))
        body = held[place:]
        if flags & _COMPRESSED:
            try:
                body = zlib.decompress(body)
            except zlib.error:
                return None
        return cls(fresh_until, took, generations, incarnation, body)

    def written(self, *, compress_above: int) -> bytes:
        """Return it as an entry."""
        flags, body = 0, self.body
        if len(body) > compress_above:
            smaller = zlib.compress(body, 1)
            if len(smaller) < len(body):
                flags, body = _COMPRESSED, smaller
        head = _HEAD.pack(
            b"V",
            flags,
            len(self.generations),
            self.fresh_until,
            min(self.took, _MOST_MICROSECONDS),
            secrets.token_bytes(8),
            self.incarnation[:8],
        )
        return b"".join((head, *self.generations, body))


class Held(NamedTuple):
    """What an entry was seen to hold, and the generations of its tags; None if one is not known."""

    held: bytes | None
    generations: tuple[bytes, ...] | None = ()


def with_witnesses(key: str) -> list[str]:
    """Return the key of an entry and those of its witnesses, which lie in its slot: its braces are theirs."""
    return [key, *(f"{key}#{number}" for number in range(_WITNESSES))]


def is_marked(held: bytes | None) -> bool:
    """Tell whether what belongs there is being changed."""
    return bool(held) and held[0] == _MARKED  # type: ignore[index]  # empty it has none


def is_lease(held: bytes | None) -> bool:
    """Tell whether somebody loads what belongs there."""
    return bool(held) and held[0] in (_LEASE, _AWAITED)  # type: ignore[index]  # empty it has none


def new_lease() -> bytes:
    """Return a lease that nobody else has."""
    return b"L" + secrets.token_hex(16).encode()


def new_generation() -> bytes:
    """Return a generation of a tag that never was."""
    return b"G" + secrets.token_bytes(_TAG_SIZE - 1)


def known(generations: Sequence[bytes | None]) -> tuple[bytes, ...] | None:
    """Return generations read from tags, or None if one has none, or is being changed."""
    if all(each is not None and len(each) == _TAG_SIZE and each[0] == _GENERATION for each in generations):
        return tuple(each for each in generations if each is not None)
    return None


def now() -> int:
    """Return the present moment, in Unix milliseconds."""
    return time.time_ns() // 1_000_000
