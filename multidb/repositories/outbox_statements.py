"""The statements of the outbox's delivery, and of who looks after it.

A relay holds what it delivers by row locks, in a transaction that stays open until it knows what became of
it: when the relay dies, its locks go with its connection, and another one takes over at once. Of a stream it
locks the first effect, and with that has the stream: nobody takes the second while the first is there.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from multidb.stores.postgres.statements import Statement

__all__ = ["CHANNEL", "DELETE", "FAIL", "FIND", "FOLLOWERS", "HEADS", "LOOK", "RETRY", "SKIP", "UNKNOWN"]

#: What NOTIFY tells on.
CHANNEL = "multidb_outbox"

_NOW = "clock_timestamp()"
_TYPES: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("limit", "window", "floor", "bytes", "after"), sa.BigInteger()),
    **dict.fromkeys(("id",), sa.Uuid()),
    **dict.fromkeys(("ids",), sa.ARRAY(sa.Uuid(), dimensions=1)),
    "heads": sa.ARRAY(sa.BigInteger()),
    **dict.fromkeys(("errors", "known", "streams"), sa.ARRAY(sa.Text())),
    "counts": sa.ARRAY(sa.Integer()),
    "delays": sa.ARRAY(sa.Interval()),
    "deaths": sa.ARRAY(sa.Boolean()),
    "patience": sa.Interval(),
    "dead": sa.Boolean(),
    "store": sa.Text(),
}


def _statement(sql: str) -> Statement:
    text = sa.text(sql)
    names = text._bindparams  # noqa: SLF001 - SQLAlchemy tells the names of a text's parameters nowhere else
    return Statement(text.bindparams(*(sa.bindparam(name, None, type_=_TYPES[name]) for name in names)))


# --- delivery

_FIELDS = "o.id, o.version, o.effect, o.payload, o.document, o.stream, o.tenant, o.created_at, o.attempts"
_LOOKED_AT = """
    SELECT version FROM outbox
    WHERE store = :store AND dead_at IS NULL AND version > :floor ORDER BY version LIMIT :window
"""

#: Those of them whose documents have no more than so many bytes together, or one.
_FITTING = """
    SELECT * FROM (
      SELECT *, sum(coalesce(octet_length(document), 0)) OVER (ORDER BY version)
        - coalesce(octet_length(document), 0) AS before FROM chosen) AS sized
    WHERE before < :bytes ORDER BY version
"""

#: The first effects of as many streams, of those that are looked at, and as many that are in no stream:
#: what waits behind others must not be read with each claim.
HEADS = _statement(
    f"""
    WITH chosen AS MATERIALIZED (
      SELECT {_FIELDS} FROM outbox o
      WHERE o.store = :store AND o.dead_at IS NULL AND o.version > :floor
        AND o.version <= (SELECT max(version) FROM ({_LOOKED_AT}) AS looked)
        AND o.due_at <= {_NOW} AND o.effect = ANY (:known)
        AND (o.stream IS NULL OR NOT EXISTS (
          SELECT FROM outbox p WHERE p.store = :store AND p.stream = o.stream AND p.version < o.version))
      ORDER BY o.version LIMIT :limit FOR UPDATE OF o SKIP LOCKED)
    {_FITTING}
    """
)
#: What follows them in their streams. A later statement than that: it must see what was committed since.
FOLLOWERS = _statement(
    f"""
    WITH chosen AS MATERIALIZED (
      SELECT {_FIELDS}, o.dead_at IS NULL AND o.due_at <= {_NOW} AND o.effect = ANY (:known) AS due
      FROM unnest(:streams, :heads) AS s (stream, head) CROSS JOIN LATERAL (
        SELECT * FROM outbox p WHERE p.store = :store AND p.stream = s.stream AND p.version > s.head
        ORDER BY p.version LIMIT :window) o
      ORDER BY o.version LIMIT :limit)
    {_FITTING}
    """
)
#: Where those end that are looked at, if there are as many.
LOOK = _statement(f"SELECT max(version) AS last, count(*) AS n FROM ({_LOOKED_AT}) AS looked")
#: Of these, what no relay has known for so long.
UNKNOWN = _statement(
    f"""
    UPDATE outbox SET attempts = attempts + 1, error = 'no relay has known this effect', dead_at = {_NOW}
    WHERE id IN (
      SELECT o.id FROM outbox o
      WHERE o.store = :store AND o.dead_at IS NULL AND o.version > :floor
        AND o.version <= (SELECT max(version) FROM ({_LOOKED_AT}) AS looked)
        AND o.due_at <= {_NOW} - :patience AND o.effect <> ALL (:known)
      FOR UPDATE SKIP LOCKED)
    RETURNING id, effect
    """
)
DELETE = _statement("DELETE FROM outbox WHERE id = ANY (:ids)")
FAIL = _statement(
    f"""
    UPDATE outbox o SET attempts = o.attempts + e.count, error = e.error,
      due_at = {_NOW} + e.delay, dead_at = CASE WHEN e.dead THEN {_NOW} END
    FROM unnest(:ids, :errors, :counts, :delays, :deaths) AS e (id, error, count, delay, dead)
    WHERE o.id = e.id
    """
)

# --- looking after it

_DEAD = "attempts > 0 AND dead_at IS NOT NULL"
#: Of each store the first that wait, and the first that are dead: each is in the order of an index.
FIND = _statement(
    f"""
    SELECT id, version, store, effect, payload, octet_length(document) AS document_size, stream, tenant,
      created_at, due_at, attempts, error, dead_at
    FROM (
      SELECT waiting.* FROM (VALUES ('mongo'), ('redis')) AS s (store) CROSS JOIN LATERAL (
        SELECT * FROM outbox o WHERE o.store = s.store AND o.dead_at IS NULL AND o.version > :after
        ORDER BY o.version LIMIT :limit) AS waiting
      WHERE NOT :dead
      UNION ALL
      (SELECT * FROM outbox WHERE {_DEAD} AND version > :after ORDER BY version LIMIT :limit)) AS found
    ORDER BY version LIMIT :limit
    """
)
_CHOSEN = f"(id = :id OR :id IS NULL AND {_DEAD})"
RETRY = _statement(
    f"""
    UPDATE outbox SET attempts = 0, due_at = {_NOW}, dead_at = NULL WHERE {_CHOSEN} RETURNING store
    """
)
SKIP = _statement("DELETE FROM outbox WHERE id = :id RETURNING store")
