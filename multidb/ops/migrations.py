"""PostgreSQL's schema: Alembic, driven with multidb's settings. Every call here blocks.

What changes the database may be called by any number of processes at once: one does the work, the
others wait for it (`exclusive.py`).
"""

import asyncio
import io

from alembic import command
from alembic.migration import MigrationContext
from alembic.util import CommandError

from multidb.errors import ConfigurationError
from multidb.ops import drift
from multidb.ops.environment import alembic_config, migration_engine, only_run
from multidb.settings import PostgresSettings
from multidb.stores.postgres.errors import translating

__all__ = ["check", "current", "downgrade", "upgrade"]


def upgrade(settings: PostgresSettings, revision: str = "heads", *, sql: bool = False) -> str:
    """Bring the database up to `revision`; with `sql`, change nothing and return the statements.

    `heads` are multidb's newest revision and those of the application, in
    `settings.migration_paths`. Idempotent, and each revision is a transaction of its own: where
    one fails, those before it stay.

    Raises: UnavailableError; ConfigurationError for an unknown revision, also if the database is
    at one; ConflictError, retryable, if another migration or others' locks were in the way until
    `migration_timeout` was over.
    """
    return _run(settings, "upgrade", revision, sql)


def downgrade(settings: PostgresSettings, revision: str, *, sql: bool = False) -> str:
    """Take the database back to `revision`, `base` for none; with `sql`, return the statements.

    Raises: as `upgrade`.
    """
    return _run(settings, "downgrade", revision, sql)


def current(settings: PostgresSettings) -> str | None:
    """Return the revision the database is at, those of several branches, or None before the first."""
    return asyncio.run(_current(settings))


def check(settings: PostgresSettings) -> list[str]:
    """Return how the database differs from what the revisions make, a line each; none if it does not.

    Changes nothing, and holds no lock on any table of the database. Raises: as `drift.differences`.
    """
    return drift.differences(settings)


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


async def _current(settings: PostgresSettings) -> str | None:
    engine = migration_engine(settings)
    try:
        with translating("migrate"):
            async with engine.connect() as connection:
                heads = await connection.run_sync(
                    lambda sync: MigrationContext.configure(sync).get_current_heads()
                )
                return ", ".join(sorted(heads)) or None
    finally:
        await engine.dispose()
