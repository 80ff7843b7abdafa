"""PostgreSQL's schema: Alembic, driven with multidb's settings. Every call here blocks.

What changes the database may be called by any number of processes at once: one does the work, the
others wait for it (`exclusive.py`).
"""

import asyncio
import io
from collections.abc import Callable
from typing import Any, TypeVar

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection

from multidb.errors import ConfigurationError
from multidb.ops.environment import alembic_config, migration_engine, only_run
from multidb.settings import PostgresSettings
from multidb.stores.postgres.errors import translating
from multidb.stores.postgres.tables import in_metadata, metadata

__all__ = ["check", "current", "downgrade", "upgrade"]

T = TypeVar("T")


def upgrade(settings: PostgresSettings, revision: str = "head", *, sql: bool = False) -> str:
    """Bring the database up to `revision`; with `sql`, change nothing and return the statements.

    Idempotent, and each revision is a transaction of its own: where one fails, those before it stay.

    Raises: UnavailableError; ConfigurationError for an unknown revision; ConflictError, retryable,
    if another migration or others' locks were in the way until `migration_timeout` was over.
    """
    return _run(settings, "upgrade", revision, sql)


def downgrade(settings: PostgresSettings, revision: str, *, sql: bool = False) -> str:
    """Take the database back to `revision`, `base` for none; with `sql`, return the statements.

    Raises: as `upgrade`.
    """
    return _run(settings, "downgrade", revision, sql)


def current(settings: PostgresSettings) -> str | None:
    """Return the revision the database is at, or None before the first."""
    return asyncio.run(_inspect(settings, lambda context: context.get_current_revision()))


def check(settings: PostgresSettings) -> list[str]:
    """Return how the database differs from the tables multidb knows, a line each; none if it does not.

    Sees what Alembic's autogenerate sees.
    """
    return asyncio.run(
        _inspect(settings, lambda context: [_described(each) for each in compare_metadata(context, metadata)])
    )


def _run(settings: PostgresSettings, direction: str, revision: str, sql: bool) -> str:
    output = io.StringIO()
    config = alembic_config(settings, output)
    try:
        with only_run(settings), translating("migrate"):
            getattr(command, direction)(config, revision, sql=sql)
    except CommandError as error:
        raise ConfigurationError(
            f"cannot {direction} to {revision!r}: {error}", operation="migrate"
        ) from error
    return output.getvalue()


async def _inspect(settings: PostgresSettings, look: Callable[[MigrationContext], T]) -> T:
    engine = migration_engine(settings)
    try:
        with translating("migrate"):
            async with engine.connect() as connection:
                return await connection.run_sync(lambda sync: look(_context(sync)))
    finally:
        await engine.dispose()


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "target_metadata": metadata,
            "include_name": in_metadata,
        },
    )


def _described(difference: Any) -> str:
    """Return Alembic's tuple, such as `("add_column", None, "users", Column(…))`, as a line."""
    if isinstance(difference, list):
        return "; ".join(_described(each) for each in difference)
    kind, *what = difference
    names = [str(getattr(each, "name", each)) for each in what if each is not None]
    return f"{kind.replace('_', ' ')}: {' '.join(names)}"
