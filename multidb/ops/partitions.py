"""The months of `audit_logs`: a partition for each, made ahead, detached once nobody needs it.

Months are UTC's. A row of a month that has no partition lands in the default one, so an insert
never fails for lack of one; when its month is made, it moves there in the same transaction.

- A month is made while nobody can write to the default partition. An insert that had found its way
  there and waited would fail: PostgreSQL does not look for the way again. So where rows of the
  month may come at any time, for it has begun or some are there, writers are stopped at the
  table itself, before they look for one. Months made ahead stop nobody.
- Detaching a month stops readers and writers.
- For these locks is waited only briefly, then the others are let through and it is tried again
  (`exclusive.py`). How long they are held depends on how many rows move: none, as a rule.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from multidb.errors import ConfigurationError, ConflictError
from multidb.ops.exclusive import Connection, alone, insisting
from multidb.settings import PostgresSettings
from multidb.stores.postgres.engine import connect
from multidb.stores.postgres.errors import translating

__all__ = ["Partition", "detach", "ensure", "find"]

T = TypeVar("T")

_TABLE = "audit_logs"

#: What an application's tenants may do is decided at the table itself. On a partition of its own,
#: row level security would not hold them.
_TENANTS = "multidb_tenant"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. It holds what is from `first` on and before `end`; None means without bound."""

    name: str
    #: Whether it takes what no other one does; it has no bounds then.
    default: bool
    first: datetime | None
    end: datetime | None
    #: As PostgreSQL estimated when it last looked; None if it has not yet.
    rows: int | None
    #: In bytes, with its indexes.
    size: int

    def overlaps(self, month: "_Month") -> bool:
        """Tell whether it takes rows of `month`, if it is not the default one."""
        begins_before = self.first is None or self.first < month.end
        ends_after = self.end is None or self.end > month.first
        return not self.default and begins_before and ends_after


@dataclass(frozen=True, slots=True)
class _Month:
    #: Months since the year 0, so that they can be counted with.
    number: int

    @classmethod
    def of(cls, moment: datetime) -> "_Month":
        moment = moment.astimezone(UTC)
        return cls(moment.year * 12 + moment.month - 1)

    @property
    def first(self) -> datetime:
        return datetime(self.number // 12, self.number % 12 + 1, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        return _Month(self.number + 1).first

    @property
    def name(self) -> str:
        return f"{_TABLE}_{self.first:%Y_%m}"


async def find(settings: PostgresSettings) -> list[Partition]:
    """Return the partitions there are, the oldest first, the default one last.

    Raises: UnavailableError; ConfigurationError if there is no such table yet.
    """
    with translating("partitions.find"):
        connection = await connect(settings)
        try:
            return await _partitions(connection)
        finally:
            await connection.close()


async def ensure(settings: PostgresSettings, *, ahead: int = 3, now: datetime | None = None) -> list[str]:
    """Make this month's partition and those of the `ahead` next ones; return the names of the new.

    Each is made in a transaction, together with the move of its rows out of the default partition.
    Idempotent, and harmless to do at once in several processes. A month that another partition
    covers, if only in part, is left as it is.

    Raises: ValueError if `ahead` is negative; UnavailableError; ConfigurationError if there is no
    such table yet; ConflictError, retryable, if others were in the way until `migration_timeout`
    was over, and final if a table that is no partition has a month's name.
    """
    if ahead < 0:
        raise ValueError("ahead must be a number of months, 0 or more")
    now = now or datetime.now(UTC)
    this = _Month.of(now)
    months = [_Month(this.number + further) for further in range(ahead + 1)]

    def missing(there: Sequence[Partition]) -> list[_Month]:
        return [month for month in months if not any(each.overlaps(month) for each in there)]

    return await _each(settings, "partitions.ensure", missing, partial(_make, now=now))


async def detach(
    settings: PostgresSettings, *, keep: int, drop: bool = False, now: datetime | None = None
) -> list[str]:
    """Detach what is wholly older than this month and the `keep` before it; return the names.

    The tables stay, with their rows, for the owner alone; `drop` drops them too, in the same
    transaction. Idempotent. What lies in the default partition stays, however old.

    Raises: ValueError if `keep` is negative; else as `ensure`.
    """
    if keep < 0:
        raise ValueError("keep must be a number of months, 0 or more")
    oldest = _Month(_Month.of(now or datetime.now(UTC)).number - keep).first

    def old(there: Sequence[Partition]) -> list[Partition]:
        return [each for each in there if each.end is not None and each.end <= oldest]

    return await _each(settings, "partitions.detach", old, partial(_take_off, drop=drop))


async def _each(
    settings: PostgresSettings,
    operation: str,
    due: Callable[[Sequence[Partition]], Sequence[T]],
    change: Callable[[Connection, T], Awaitable[str]],
) -> list[str]:
    """Change what is due, each in a transaction of its own; return the names `change` gave."""
    with translating(operation):
        connection = await connect(settings)
        try:
            # As a rule nothing is, and then nobody need wait for a migration to end.
            if not due(await _partitions(connection)):
                return []
            names: list[str] = []
            async with alone(connection, settings, operation) as patience:
                for each in due(await _partitions(connection)):

                    async def attempt(each: T = each) -> str:
                        async with connection.transaction():
                            return await change(connection, each)

                    names.append(await insisting(attempt, patience, operation))
                    patience.renew()
            return names
        finally:
            await connection.close()


_PARTITIONS = r"""
    SELECT c.relname, c.oid = p.partdefid,
           nullif(bounds[1]::timestamptz, '-infinity'), nullif(bounds[2]::timestamptz, 'infinity'),
           nullif(c.reltuples, -1)::bigint, pg_total_relation_size(c.oid)
    FROM pg_partitioned_table p
    JOIN pg_inherits i ON i.inhparent = p.partrelid JOIN pg_class c ON c.oid = i.inhrelid,
    LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid)) AS e (bound),
    LATERAL (SELECT ARRAY[substring(bound FROM 'FROM \(''([^'']+)''\)'),
                          substring(bound FROM 'TO \(''([^'']+)''\)')]) AS b (bounds)
    WHERE p.partrelid = to_regclass($1)
    ORDER BY 2, 3 NULLS FIRST
"""


async def _partitions(connection: Connection) -> list[Partition]:
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", _TABLE):
        raise ConfigurationError(
            f"there is no table {_TABLE}; has `multidb migrate` run?", operation="partitions"
        )
    return [Partition(*row) for row in await connection.fetch(_PARTITIONS, _TABLE)]


async def _make(connection: Connection, month: _Month, *, now: datetime) -> str:
    schema = await _schema(connection)
    new = f"{schema}.{month.name}"
    default = next((each.name for each in await _partitions(connection) if each.default), None)
    if default is not None:
        default = f"{schema}.{_quoted(default)}"
        if month.first <= now or await _has_rows(connection, month, default):
            await connection.execute(f"LOCK TABLE ONLY {schema}.{_TABLE} IN SHARE ROW EXCLUSIVE MODE")
    if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", new):
        raise ConflictError(
            f"there is a table {month.name} that is no partition of {_TABLE}: rename it, or attach it",
            store="postgres",
            operation="partitions.ensure",
        )
    await connection.execute(f"CREATE TABLE {new} (LIKE {schema}.{_TABLE} INCLUDING ALL)")
    await _keep_to_the_owner(connection, new)
    if default is not None:
        await _move(connection, month, default, new)
    await connection.execute(
        f"ALTER TABLE {schema}.{_TABLE} ATTACH PARTITION {new}"
        f" FOR VALUES FROM ('{month.first.isoformat()}') TO ('{month.end.isoformat()}')"
    )
    return month.name


async def _has_rows(connection: Connection, month: _Month, table: str) -> bool:
    rows = f"SELECT EXISTS (SELECT FROM {table} WHERE ts >= $1 AND ts < $2)"  # noqa: S608 - quoted
    return bool(await connection.fetchval(rows, month.first, month.end))


async def _move(connection: Connection, month: _Month, default: str, new: str) -> None:
    # What attaching takes anyway; before the rows are moved, for none may come after them.
    await connection.execute(f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE")
    columns = await connection.fetchval(
        # By name: a default partition that was attached may have them in another order.
        "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        new,
    )
    await connection.execute(
        f"WITH moved AS (DELETE FROM {default} WHERE ts >= $1 AND ts < $2 RETURNING {columns})"  # noqa: S608 - quoted
        f" INSERT INTO {new} ({columns}) SELECT {columns} FROM moved",
        month.first,
        month.end,
    )


async def _take_off(connection: Connection, old: Partition, *, drop: bool) -> str:
    schema = await _schema(connection)
    table = f"{schema}.{_quoted(old.name)}"
    # Not CONCURRENTLY, which a default partition forbids.
    await connection.execute(f"ALTER TABLE {schema}.{_TABLE} DETACH PARTITION {table}")
    if drop:
        await connection.execute(f"DROP TABLE {table}")
    else:
        await _keep_to_the_owner(connection, table)
    return old.name


async def _keep_to_the_owner(connection: Connection, table: str) -> None:
    """Take from everybody, and from the tenants, what default privileges may have given them."""
    roles = ["PUBLIC"]
    if await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", _TENANTS):
        roles.append(_TENANTS)
    await connection.execute(f"REVOKE ALL ON TABLE {table} FROM {', '.join(roles)}")


async def _schema(connection: Connection) -> str:
    return str(
        await connection.fetchval(
            "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass($1)", _TABLE
        )
    )


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
