"""Alembic's surroundings: its configuration, its connection, and how a run goes when others are about."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TextIO, TypeAlias

from alembic import context
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from multidb.errors import ConflictError
from multidb.ops.exclusive import Patience, alone, insisting
from multidb.ops.files import shipped
from multidb.settings import PostgresSettings
from multidb.stores.postgres.engine import connect

__all__ = ["Configure", "alembic_config", "migration_engine", "only_run", "run_on", "run_online"]

#: Calls `context.configure` with a connection and the options given here.
Configure: TypeAlias = Callable[..., None]

_Steps: TypeAlias = Callable[[Any, MigrationContext], Iterable[Any]]

_alembic = threading.Lock()


def alembic_config(settings: PostgresSettings, output: TextIO | None = None) -> Config:
    """Return the configuration for Alembic's commands, which print SQL to `output`.

    It knows multidb's revisions and the application's.
    """
    config = Config(shipped("alembic.ini"), output_buffer=output)
    if settings.migration_paths:
        ours = f"{config.get_main_option('script_location')}/versions"
        every = os.pathsep.join([ours, *map(str, settings.migration_paths)])
        config.set_main_option("version_locations", every.replace("%", "%%"))
    config.attributes["settings"] = settings
    return config


@contextmanager
def only_run(settings: PostgresSettings) -> Iterator[None]:
    """Keep other threads of this process out of Alembic, which has one context for all of them.

    Raises: ConflictError, retryable, if one is in there until `migration_timeout` is over.
    """
    if not _alembic.acquire(timeout=settings.migration_timeout.total_seconds()):
        raise ConflictError(
            "another thread is migrating, and was not done within MULTIDB_MIGRATION_TIMEOUT",
            operation="migrate",
            retryable=True,
        )
    try:
        yield
    finally:
        _alembic.release()


def migration_engine(settings: PostgresSettings) -> AsyncEngine:
    """Return an engine for migrations: one connection, opened when needed and kept by nobody."""
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda *_, **__: connect(settings), poolclass=NullPool
    )


async def run_online(settings: PostgresSettings, configure: Configure) -> None:
    """Do what Alembic was called for; what changes the database, alone and with patience.

    Each revision is a transaction of its own, so one that has to give way to others' locks is
    repeated by itself, and those before it stay.

    Raises: ConflictError, retryable, if others were in the way until `migration_timeout` was over.
    """
    engine = migration_engine(settings)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(configure)
            if "destination_rev" not in context.get_context().opts:  # it only looks
                await connection.run_sync(partial(_run, configure, {}))
                return
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            async with alone(raw, settings, "migrate") as patience:
                options = {"fn": _in_parts(context.get_context().opts["fn"], patience)}

                async def attempt() -> None:
                    try:
                        await connection.run_sync(partial(_run, configure, options))
                    finally:
                        await connection.rollback()

                await insisting(attempt, patience, "migrate")
    finally:
        await engine.dispose()


def run_on(connection: Connection, configure: Configure) -> None:
    """Do what Alembic was called for inside the transaction that `connection` is in, committing nothing."""
    # Its own version table, not the one of another schema of the search_path.
    configure(connection, version_table_schema=connection.scalar(text("SELECT current_schema()")))
    # Nothing can be committed here, and nobody else sees the tables that a lock would spare.
    context.get_context().autocommit_block = nullcontext  # type: ignore[method-assign,assignment]
    context.run_migrations()


def _run(configure: Configure, options: dict[str, Any], connection: Connection) -> None:
    configure(connection, transaction_per_migration=True, **options)
    context.run_migrations()


def _in_parts(steps: _Steps, patience: Patience) -> _Steps:
    """Return `steps` so that each call goes on where the one before it failed.

    Resolved once: `+2`, counted again after the first of the two, would be three.
    """
    left: deque[Any] | None = None

    def remaining(heads: Any, migration: MigrationContext) -> Iterator[Any]:
        nonlocal left
        if left is None:
            left = deque(steps(heads, migration))
        while left:
            yield left[0]
            # Alembic comes back for the next once this one is committed.
            left.popleft()
            patience.renew()

    return remaining
