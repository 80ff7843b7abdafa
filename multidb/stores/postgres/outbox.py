"""What a transaction tells the outbox: kept in memory until its COMMIT, and written just before it.

All of it is one statement, so what a transaction tells costs it one round trip, however much it is. What is
told in one stream must be numbered in the order of the commits: the statement locks its streams before it
draws numbers, and the locks go with the transaction, a moment later. They are taken in one order for all, so
nobody waits in a circle; and there are so many of them, not one for each stream, so that a transaction may
tell of any number of streams. Two streams that share one wait for each other, and come to no harm.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from uuid import UUID
from zlib import crc32

if TYPE_CHECKING:
    from multidb.stores.postgres.ambient import Connection

__all__ = ["Target", "Told", "write"]

#: Where an effect is had.
Target: TypeAlias = Literal["mongo", "redis"]

#: What multidb's locks of streams begin with, and how many there are.
_SPACE = 0x6D644F78
_LOCKS = 1024

#: Rows a statement.
_CHUNK = 5000

_WRITE = f"""
    WITH locked AS MATERIALIZED (
      SELECT pg_advisory_xact_lock({_SPACE}, lock)
      FROM (SELECT DISTINCT lock FROM unnest($1::int[]) AS lock ORDER BY lock) AS sorted)
    INSERT INTO outbox (id, store, effect, payload, document, stream, tenant)
    SELECT t.id, t.store, t.effect, t.payload::jsonb, t.document, t.stream, t.tenant
    FROM (SELECT count(*) FROM locked) AS all_locked,
      unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[], $8::uuid[])
        WITH ORDINALITY AS t (id, store, effect, payload, document, stream, tenant, place)
    ORDER BY t.place
"""


class Told(NamedTuple):
    """An effect that is to follow the commit."""

    #: Known by it if it is told twice.
    id: UUID
    store: Target
    #: As in `system_logs.append`.
    effect: str
    #: JSON.
    payload: str
    document: bytes | None
    stream: str | None
    tenant: UUID | None


async def write(connection: "Connection", told: Sequence[Told]) -> None:
    """Write down what was told. Of one stream, in an order that no later commit comes before."""
    # All locks first, or two who tell much would wait for each other.
    locks = [
        crc32(f"{each.store} {each.stream}".encode()) % _LOCKS for each in told if each.stream is not None
    ]
    for start in range(0, len(told), _CHUNK):
        chunk = told[start : start + _CHUNK]
        await connection.fetch(_WRITE, locks if start == 0 else [], *zip(*chunk, strict=True))
