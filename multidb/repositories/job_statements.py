"""The statements of the queue, over `ai_processing_jobs`.

- `state` is a literal in each: as a parameter it would hide from the planner which partial index serves.
- What a claim picks is MATERIALIZED: otherwise a plan may update more rows than the LIMIT says.
- Of whoever holds a claim, every statement compares the lease. An id that does not come back has
  another lease by now, or is not running any more.
"""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from multidb.models.jobs import Job
from multidb.repositories.job_endings import LOST
from multidb.stores.postgres.statements import Statement

__all__ = [
    "AWAIT",
    "BEAT",
    "CANCEL",
    "CHANNEL",
    "DISCARD",
    "END",
    "EXPIRE_KEYS",
    "GONE",
    "HOLDER",
    "HOW",
    "LIMIT",
    "LIMITS",
    "LOCK_LIMITS",
    "NOW",
    "PROGRESS",
    "PRUNE",
    "RESCUE",
    "RETRY",
    "SETTLE",
    "SETTLED",
    "STATS",
    "UNLIMIT",
    "UNSETTLED",
    "claim",
]

#: What NOTIFY tells on.
CHANNEL = "multidb_jobs"

#: Of a job that is claimed these follow from the claim and `started_at`, and need not be read for each.
_FOLLOWING = frozenset({"queue", "state", "worker", "progress", "lease_until", "updated_at"})

_FIELDS = ", ".join(f"j.{name}" for name in Job.model_fields)
_CLAIMED = ", ".join(f"j.{name}" for name in Job.model_fields if name not in _FOLLOWING)
_NOW = "statement_timestamp()"
_KEPT = "version = j.version + 1, updated_at = now()"
_NOBODY = "'00000000-0000-0000-0000-000000000000'::uuid"

#: Whether a job that has ended still keeps others from having its key.
_STILL_HOLDS = f"coalesce(j.created_at + j.idempotency_window > {_NOW}, false)"

_TYPES: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("queue", "worker", "state", "key"), sa.Text()),
    **dict.fromkeys(("limit", "at_most", "at_most_per_key", "priority"), sa.BigInteger()),
    **dict.fromkeys(("id", "after", "company", "_tenant"), sa.Uuid()),
    **dict.fromkeys(("ids", "companies"), sa.ARRAY(sa.Uuid(), dimensions=1)),
    **dict.fromkeys(("errors", "keys", "outcomes", "payloads", "queues", "states"), sa.ARRAY(sa.Text())),
    **dict.fromkeys(("delays", "spans"), sa.ARRAY(sa.Interval())),
    "age": sa.Interval(),
    "floor": sa.DateTime(timezone=True),
    "lease_for": sa.Interval(),
    "leases": sa.ARRAY(sa.BigInteger()),
    "results": sa.ARRAY(JSONB(none_as_null=True)),
    "shares": sa.ARRAY(sa.Double()),
}


def _statement(sql: str) -> Statement:
    text = sa.text(sql)
    names = text._bindparams  # noqa: SLF001 - SQLAlchemy tells the names of a text's parameters nowhere else
    return Statement(text.bindparams(*(sa.bindparam(name, None, type_=_TYPES[name]) for name in names)))


# --- claiming

_READY = f"j.queue = :queue AND j.state = 'available' AND j.run_at <= {_NOW}"
#: Of less urgent ones some may be due for longer, and come first.
_AHEAD = " AND j.run_at >= :floor AND j.priority <= :priority"
_IN_ORDER = "ORDER BY j.priority, j.run_at, j.id"
#: Whoever sees that the queue has limits claims under them instead.
_UNLIMITED = "NOT EXISTS (SELECT FROM ai_processing_queues q WHERE q.queue = :queue)"


@cache
def claim(*, fair: bool, limited: bool, company: bool, narrow: bool = False) -> Statement:
    """Claim up to `:limit` jobs of `:queue` for `:worker`, and return them, but for what follows from that.

    If fair, those of the companies that have the fewest running come first. If limited, no more than
    `:at_most` run then, and `:at_most_per_key`; whoever claims so must hold the row of the queue's
    limits, and not have looked at a job before. With `company`, of `:company` alone. If narrow, only
    jobs that are as urgent as `:priority`, and whose time was not before `:floor`.
    """
    if fair or limited:
        ours = f"{_READY}{' AND j.company_id = :company' if company else ''}"
        picked = _shared_out(ours, fair=fair, limited=limited)
    else:
        ours = f"{_READY}{_AHEAD if narrow else ''} AND {_UNLIMITED}"
        picked = f"""
            WITH picked AS MATERIALIZED (
              SELECT j.ctid AS place FROM ai_processing_jobs j
              WHERE {_of("company_id", ":company", ours) if company else f"{ours} {_IN_ORDER}"}
              LIMIT :limit FOR UPDATE SKIP LOCKED)"""
    return _statement(
        f"""{picked}
            UPDATE ai_processing_jobs j SET
              state = 'running', attempt = j.attempt + 1, lease = j.lease + 1, worker = :worker,
              started_at = {_NOW}, lease_until = {_NOW} + :lease_for, progress = NULL,
              version = j.version + 1, updated_at = {_NOW}
            FROM picked WHERE j.ctid = picked.place RETURNING {_CLAIMED}"""
    )


def _shared_out(ours: str, *, fair: bool, limited: bool) -> str:
    """Return what picks jobs of every company, or of every key: a few of each, found one after the other.

    A company's `turn` is how many it would have running then, so who has few goes first; of equals,
    chance decides. Two who claim at a time rank the same jobs, so twice as many are looked at as wanted.
    """
    by = "company_id" if fair else "concurrency_key"
    if fair and limited:
        # Else a company's jobs whose key has no room would hold up those behind them.
        ours += " AND (j.concurrency_key IN (SELECT key FROM full_keys)) IS NOT TRUE"
    there, in_turn = "j.queue = :queue AND j.state = 'available'", _by_groups(by)
    columns = (
        "j.id, j.priority, j.run_at, coalesce(j.company_id, {nobody}) AS company, j.concurrency_key AS key"
    )
    some = f"SELECT {columns.format(nobody=_NOBODY)} FROM ai_processing_jobs j WHERE {{whose}} LIMIT :limit"
    one, nobodys = some.format(whose=_of(by, "g.id", ours)), some.format(whose=_of(by, None, ours))
    turn = f"row_number() OVER (PARTITION BY c.company {_in_order('c')}) + coalesce(r.n, 0)" if fair else "0"
    chance = "random()" if fair else "extract(epoch FROM c.run_at)"
    left = "greatest(0, :at_most - (SELECT count(*) FROM running))"
    room = f"CASE WHEN :at_most IS NULL THEN :limit ELSE least(:limit, {left}) END" if limited else ":limit"
    per_key = ":at_most_per_key" if limited else "NULL"
    fits = "p.key IS NULL OR :at_most_per_key IS NULL OR p.place <= :at_most_per_key" if limited else "true"
    return f"""
        WITH RECURSIVE groups AS (
          (SELECT j.{by} AS id FROM ai_processing_jobs j
           WHERE {there} AND j.{by} IS NOT NULL {in_turn} LIMIT 1)
          UNION ALL
          SELECT (SELECT j.{by} FROM ai_processing_jobs j WHERE {there} AND j.{by} > g.id {in_turn} LIMIT 1)
          FROM groups g WHERE g.id IS NOT NULL),
        running AS MATERIALIZED (
          SELECT coalesce(j.company_id, {_NOBODY}) AS company, j.concurrency_key AS key
          FROM ai_processing_jobs j WHERE j.queue = :queue AND j.state = 'running'),
        full_keys AS MATERIALIZED (
          SELECT key FROM running GROUP BY key HAVING count(*) >= {per_key}),
        candidates AS MATERIALIZED (
          SELECT c.* FROM groups g CROSS JOIN LATERAL ({one}) c UNION ALL ({nobodys})),
        ranked AS MATERIALIZED (
          SELECT c.*, {turn} AS turn, {chance} AS chance
          FROM candidates c
          LEFT JOIN (SELECT company, count(*) AS n FROM running GROUP BY 1) r USING (company)),
        placed AS (
          SELECT c.*, row_number() OVER (PARTITION BY c.key ORDER BY c.turn, c.priority, c.chance, c.id)
            + coalesce(r.n, 0) AS place
          FROM ranked c LEFT JOIN (SELECT key, count(*) AS n FROM running GROUP BY 1) r USING (key)),
        first AS (
          SELECT p.id, p.turn, p.priority, p.chance FROM placed p WHERE {fits}
          ORDER BY p.turn, p.priority, p.chance, p.id LIMIT 2 * :limit),
        picked AS MATERIALIZED (
          SELECT j.ctid AS place FROM first f JOIN ai_processing_jobs j ON j.id = f.id
          WHERE j.state || '' = 'available' AND {"true" if limited else _UNLIMITED}
          ORDER BY f.turn, f.priority, f.chance, f.id LIMIT {room} FOR UPDATE OF j SKIP LOCKED)"""


def _of(by: str, one: str | None, ours: str) -> str:
    """Return the condition and the order of those of `ours` that are of one company or key, or of none.

    By an equation the column would no longer count in the order, and a plan might follow the order of
    the whole queue, past the jobs of all others.
    """
    if one is None:
        return f"{ours} AND j.{by} IS NULL {_IN_ORDER}"
    return f"{ours} AND j.{by} BETWEEN {one} AND {one} {_by_groups(by)}"


def _by_groups(by: str) -> str:
    return _IN_ORDER.replace("BY ", f"BY j.{by}, ")


def _in_order(row: str) -> str:
    return _IN_ORDER.replace("j.", f"{row}.")


LIMITS = _statement("SELECT at_most, at_most_per_key FROM ai_processing_queues WHERE queue = :queue")
LOCK_LIMITS = _statement(
    """SELECT at_most, at_most_per_key, current_setting('transaction_isolation') AS isolation
       FROM ai_processing_queues WHERE queue = :queue FOR UPDATE"""
)
LIMIT = _statement(
    """INSERT INTO ai_processing_queues (queue, at_most, at_most_per_key)
       VALUES (:queue, :at_most, :at_most_per_key)
       ON CONFLICT (queue) DO UPDATE SET
         at_most = excluded.at_most, at_most_per_key = excluded.at_most_per_key"""
)
UNLIMIT = _statement("DELETE FROM ai_processing_queues WHERE queue = :queue")

# --- under a claim

#: By its id alone: an index of what is running would be read from end to end, what has ended included.
_HELD = "j.id = e.id AND j.lease = e.lease AND j.state || '' = 'running'"

BEAT = _statement(
    f"""UPDATE ai_processing_jobs j SET lease_until = {_NOW} + e.span, {_KEPT}
        FROM unnest(:ids, :leases, :spans) AS e (id, lease, span)
        WHERE {_HELD} RETURNING j.id, j.cancel_requested_at IS NOT NULL AS cancelled"""
)
PROGRESS = _statement(
    f"""UPDATE ai_processing_jobs j SET progress = e.share, {_KEPT}
        FROM unnest(:ids, :leases, :shares) AS e (id, lease, share) WHERE {_HELD} RETURNING j.id"""
)

NOW = _statement("SELECT state, lease FROM ai_processing_jobs WHERE id = :id")

_USED_UP = "e.outcome = 'retried' AND j.attempt >= j.max_attempts"
_AGAIN = f"(e.outcome IN ('retried', 'put back') AND j.cancel_requested_at IS NULL AND NOT ({_USED_UP}))"

END = _statement(
    f"""UPDATE ai_processing_jobs j SET
          state = CASE
            WHEN e.outcome = 'completed' THEN 'completed'
            WHEN e.outcome = 'cancelled' OR j.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN e.outcome = 'failed' THEN 'failed'
            WHEN {_USED_UP} THEN 'dead'
            ELSE 'available' END,
          attempt = j.attempt - CASE e.outcome WHEN 'put back' THEN 1 ELSE 0 END,
          run_at = CASE WHEN {_AGAIN} THEN coalesce({_NOW} + e.delay, j.run_at) ELSE j.run_at END,
          error = CASE e.outcome WHEN 'put back' THEN j.error ELSE e.error END,
          result = e.result,
          lease_until = NULL,
          finished_at = CASE WHEN {_AGAIN} THEN NULL ELSE {_NOW} END,
          holds_key = {_AGAIN} OR {_STILL_HOLDS},
          {_KEPT}
        FROM unnest(:ids, :leases, :outcomes, :errors, :results, :delays)
          AS e (id, lease, outcome, error, result, delay)
        WHERE {_HELD} RETURNING j.id, j.queue, j.state, j.run_at <= {_NOW} AS due, j.awaited"""
)

#: Those whose worker is gone. Nobody knows when it was, so they run again at once.
RESCUE = _statement(
    f"""WITH lost AS MATERIALIZED (
          SELECT j.id FROM ai_processing_jobs j WHERE j.state = 'running' AND j.lease_until < {_NOW}
          LIMIT :limit FOR UPDATE SKIP LOCKED)
        UPDATE ai_processing_jobs j SET
          state = CASE
            WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN j.attempt >= j.max_attempts THEN 'dead'
            ELSE 'available' END,
          run_at = {_NOW},
          error = '{LOST}',
          lease_until = NULL,
          finished_at = CASE
            WHEN j.cancel_requested_at IS NULL AND j.attempt < j.max_attempts THEN NULL ELSE {_NOW} END,
          holds_key = (j.cancel_requested_at IS NULL AND j.attempt < j.max_attempts) OR {_STILL_HOLDS},
          {_KEPT}
        FROM lost WHERE j.id = lost.id RETURNING j.id, j.queue, j.state, true AS due, j.awaited"""
)

# --- dependencies

#: Marks jobs as awaited; whoever finishes one of them will see it, or has finished before.
AWAIT = _statement(
    """WITH needed AS MATERIALIZED (
         SELECT id FROM ai_processing_jobs
         WHERE id = ANY (:ids) AND (:_tenant IS NULL OR company_id = :_tenant) ORDER BY id FOR UPDATE)
       UPDATE ai_processing_jobs j SET awaited = true FROM needed WHERE j.id = needed.id RETURNING j.id"""
)
#: Those that waited for any of these jobs, and need wait no more: all they depend on has completed, or
#: some of it never will.
SETTLE = _statement(
    f"""WITH settled AS MATERIALIZED (
          SELECT w.id, bool_or(coalesce(d.state, 'cancelled') = 'cancelled') AS in_vain
          FROM ai_processing_jobs w
          CROSS JOIN LATERAL unnest(w.depends_on) AS needed (id)
          LEFT JOIN ai_processing_jobs d ON d.id = needed.id
          WHERE w.state = 'waiting' AND w.depends_on && :ids
          GROUP BY w.id
          HAVING bool_and(d.state IS NOT DISTINCT FROM 'completed')
            OR bool_or(coalesce(d.state, 'cancelled') = 'cancelled'))
        UPDATE ai_processing_jobs j SET
          state = CASE WHEN s.in_vain THEN 'cancelled' ELSE 'available' END,
          run_at = greatest(j.run_at, {_NOW}),
          error = CASE WHEN s.in_vain THEN 'a job that it depends on was cancelled, or is gone' END,
          finished_at = CASE WHEN s.in_vain THEN {_NOW} END,
          holds_key = NOT s.in_vain OR {_STILL_HOLDS},
          {_KEPT}
        FROM settled s WHERE j.id = s.id AND j.state = 'waiting'
        RETURNING j.id, j.queue, j.state, j.run_at <= {_NOW} AS due, j.awaited"""
)
SETTLED = _statement(
    """UPDATE ai_processing_jobs SET awaited = false
       WHERE id = ANY (:ids) AND awaited AND state IN ('completed', 'cancelled')"""
)
UNSETTLED = _statement(
    """SELECT id FROM ai_processing_jobs
       WHERE awaited AND state IN ('completed', 'cancelled') ORDER BY finished_at LIMIT :limit"""
)
#: Of so many that wait, what they depend on and is gone: deleted by hand, or with its company.
GONE = _statement(
    """SELECT w.id, ARRAY (SELECT needed.id FROM unnest(w.depends_on) AS needed (id)
                           WHERE NOT EXISTS (SELECT FROM ai_processing_jobs d WHERE d.id = needed.id)) AS gone
       FROM ai_processing_jobs w WHERE w.state = 'waiting' AND w.id > :after ORDER BY w.id LIMIT :limit"""
)

# --- keys

#: Keys of jobs that have ended, and whose window is over, are free again.
EXPIRE_KEYS = _statement(
    f"""UPDATE ai_processing_jobs j SET holds_key = false
        FROM unnest(:queues, :keys, :companies) AS e (queue, key, company)
        WHERE j.queue = e.queue AND j.idempotency_key = e.key AND j.company_id IS NOT DISTINCT FROM e.company
          AND j.holds_key AND j.finished_at IS NOT NULL AND NOT {_STILL_HOLDS}
        RETURNING j.id"""
)
HOLDER = _statement(
    f"""SELECT {_FIELDS} FROM ai_processing_jobs j
        WHERE j.queue = :queue AND j.idempotency_key = :key AND j.company_id IS NOT DISTINCT FROM :company
          AND j.holds_key AND j.idempotency_key IS NOT NULL"""
)

# --- looking after them

_OURS = "(:_tenant IS NULL OR j.company_id = :_tenant)"

CANCEL = _statement(
    f"""UPDATE ai_processing_jobs j SET
          state = CASE j.state WHEN 'running' THEN 'running' ELSE 'cancelled' END,
          cancel_requested_at = coalesce(j.cancel_requested_at, {_NOW}),
          finished_at = CASE j.state WHEN 'running' THEN NULL ELSE {_NOW} END,
          holds_key = j.state = 'running' OR {_STILL_HOLDS},
          {_KEPT}
        WHERE j.id = :id AND j.state IN ('waiting', 'available', 'running') AND {_OURS}
        RETURNING {_FIELDS}, true AS due, j.awaited"""
)
#: It no longer depends on what was cancelled, or is gone.
RETRY = _statement(
    f"""UPDATE ai_processing_jobs j SET
          state = CASE WHEN EXISTS (
              SELECT FROM ai_processing_jobs d
              WHERE d.id = ANY (j.depends_on) AND d.state NOT IN ('completed', 'cancelled'))
            THEN 'waiting' ELSE 'available' END,
          depends_on = ARRAY (
              SELECT d.id FROM ai_processing_jobs d
              WHERE d.id = ANY (j.depends_on) AND d.state <> 'cancelled'
              ORDER BY array_position(j.depends_on, d.id)),
          attempt = 0, run_at = {_NOW}, cancel_requested_at = NULL, finished_at = NULL, holds_key = true,
          {_KEPT}
        WHERE j.id = :id AND j.state IN ('failed', 'dead', 'cancelled') AND {_OURS}
        RETURNING {_FIELDS}, true AS due, j.awaited"""
)
DISCARD = _statement(
    f"""UPDATE ai_processing_jobs j SET state = 'cancelled', holds_key = {_STILL_HOLDS}, {_KEPT}
        WHERE j.id = :id AND j.state IN ('failed', 'dead') AND {_OURS}
        RETURNING {_FIELDS}, true AS due, j.awaited"""
)
PRUNE = _statement(
    f"""WITH old AS MATERIALIZED (
          SELECT j.id FROM ai_processing_jobs j
          WHERE j.finished_at < {_NOW} - :age AND j.state = ANY (:states) AND {_OURS}
            AND NOT (j.holds_key AND j.idempotency_key IS NOT NULL AND {_STILL_HOLDS})
            AND NOT EXISTS (SELECT FROM ai_processing_jobs w
                            WHERE w.state = 'waiting' AND w.depends_on @> ARRAY[j.id])
          ORDER BY j.finished_at, j.id LIMIT :limit FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM ai_processing_jobs j USING old WHERE j.id = old.id RETURNING 1)
        SELECT count(*) FROM gone"""
)
STATS = _statement(
    f"""WITH counted AS (
          SELECT j.queue, CASE WHEN j.run_at <= {_NOW} THEN 'ready' ELSE 'scheduled' END AS what,
                 count(*) AS n, min(j.run_at) AS since
          FROM ai_processing_jobs j WHERE j.state = 'available' AND {_OURS} GROUP BY 1, 2
          UNION ALL
          SELECT j.queue, j.state, count(*), NULL FROM ai_processing_jobs j
          WHERE j.state IN ('waiting', 'running') AND {_OURS} GROUP BY 1, 2
          UNION ALL
          SELECT j.queue, j.state, count(*), NULL FROM ai_processing_jobs j
          WHERE j.finished_at > {_NOW} - interval '1 hour' AND {_OURS} GROUP BY 1, 2
          UNION ALL
          SELECT q.queue, 'limits', 0, NULL FROM ai_processing_queues q)
        SELECT c.queue, coalesce(jsonb_object_agg(c.what, c.n), '{{}}') AS counts,
               coalesce({_NOW} - min(c.since) FILTER (WHERE c.what = 'ready'), interval '0') AS lag,
               q.at_most, q.at_most_per_key
        FROM counted c LEFT JOIN ai_processing_queues q USING (queue)
        GROUP BY c.queue, q.at_most, q.at_most_per_key ORDER BY c.queue"""
)

#: Whether COPY may be used, which PostgreSQL refuses where row level security holds for the login; and
#: the time, by the clock that says what is due.
HOW = _statement(f"SELECT NOT row_security_active('ai_processing_jobs') AS copies, {_NOW} AS now")
