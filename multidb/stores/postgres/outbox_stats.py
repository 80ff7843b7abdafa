"""How far the delivery of the outbox is, for the reports."""

import sqlalchemy as sa

from multidb.models.outbox import OutboxStats
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.postgres.statements import Statement

__all__ = ["outbox_stats"]

#: What is counted is few, or no more than so many.
_STATS = Statement(
    sa.text(
        """
        SELECT store, least(waiting + dead, 100000) AS depth, lag, failing, dead FROM (SELECT s.store,
          (SELECT count(*) FROM (SELECT FROM outbox o
            WHERE o.store = s.store AND o.dead_at IS NULL ORDER BY o.version LIMIT 100000) AS n) AS waiting,
          coalesce(clock_timestamp() - (SELECT o.created_at FROM outbox o
            WHERE o.store = s.store AND o.dead_at IS NULL ORDER BY o.version LIMIT 1), interval '0') AS lag,
          (SELECT count(*) FROM outbox o
            WHERE o.store = s.store AND o.attempts > 0 AND o.dead_at IS NULL) AS failing,
          (SELECT count(*) FROM outbox o
            WHERE o.store = s.store AND o.attempts > 0 AND o.dead_at IS NOT NULL) AS dead
        FROM (VALUES ('mongo'), ('redis')) AS s (store)) AS counted ORDER BY store
        """
    )
)


async def outbox_stats(postgres: PostgresStore) -> list[OutboxStats]:
    """Return what waits for each store."""
    rows = await postgres.fetch(_STATS, {}, operation="outbox.stats")
    return [OutboxStats.model_validate(dict(row)) for row in rows]
