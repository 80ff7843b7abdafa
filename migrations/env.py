"""Alembic's environment: the database of MULTIDB_POSTGRES_URL, the tables of multidb."""

import asyncio
from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from multidb.errors import MultiDBError
from multidb.ops.environment import run_on, run_online
from multidb.settings import PostgresSettings
from multidb.stores.postgres.errors import translating
from multidb.stores.postgres.tables import in_metadata, metadata


def configure(connection: Connection | None = None, **options: Any) -> None:
    context.configure(
        connection=connection,
        dialect_name="postgresql",
        # Else a per cent sign is printed twice.
        dialect_opts={"paramstyle": "named"},
        target_metadata=metadata,
        include_name=in_metadata,
        compare_type=True,
        compare_server_default=True,
        **options,
    )


def migrate_as_alembic() -> None:
    """Run for the command `alembic`, which tells errors of its own kind in one line."""
    try:
        with translating("migrate"):
            asyncio.run(run_online(PostgresSettings(), configure))
    except MultiDBError as error:
        raise CommandError(str(error)) from error


config = context.config
settings = config.attributes.get("settings")
if settings is None and config.config_file_name is not None:
    # Called as `alembic`; a program that calls multidb.ops keeps its own logging.
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    configure(literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif "connection" in config.attributes:
    run_on(config.attributes["connection"], configure)
elif settings is not None:
    asyncio.run(run_online(settings, configure))
else:
    migrate_as_alembic()
