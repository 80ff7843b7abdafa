"""Alembic's environment: the database of MULTIDB_POSTGRES_URL, the tables of multidb."""

import asyncio
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from multidb.ops.migrations import migration_engine
from multidb.settings import PostgresSettings
from multidb.stores.postgres.tables import in_metadata, metadata


def migrate(connection: Connection | None = None) -> None:
    """Run the migrations on `connection`, or print them where there is none."""
    context.configure(
        connection=connection,
        dialect_name="postgresql",
        # Else a per cent sign is printed twice.
        dialect_opts={"paramstyle": "named"},
        target_metadata=metadata,
        include_name=in_metadata,
        literal_binds=connection is None,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_online(settings: PostgresSettings) -> None:
    engine = migration_engine(settings)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


settings = context.config.attributes.get("settings")
if settings is None and context.config.config_file_name is not None:
    # Called as `alembic`; a program that calls multidb.ops keeps its own logging.
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    migrate()
else:
    asyncio.run(migrate_online(settings or PostgresSettings()))
