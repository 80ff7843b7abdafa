"""Servers of one's own, brought up to date: what `MultiDB.embedded` opens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from multidb.ops import migrations, partitions, schemas
from multidb.settings import Settings
from multidb.stack import Progress, running
from multidb.stores.completion import complete

__all__ = ["initialise", "provisioned"]


async def initialise(settings: Settings) -> list[str]:
    """Migrate PostgreSQL, make its partitions, apply MongoDB's schemas; return the changes to the latter.

    Idempotent.
    """
    await asyncio.to_thread(migrations.upgrade, settings)
    await partitions.ensure(settings)
    return await schemas.apply(settings)


@asynccontextmanager
async def provisioned(
    directory: Path,
    *,
    migration_paths: Sequence[Path] = (),
    schema_paths: Sequence[Path] = (),
    progress: Progress | None = None,
) -> AsyncIterator[Settings]:
    """Run the directory's servers, their schemas up to date, for as long as the body takes."""
    servers = running(directory, progress=progress)
    # In a thread, for starting takes seconds; to its end even if cancelled, for what has been
    # started must be stopped.
    stack = await complete(asyncio.to_thread(servers.__enter__))
    try:
        own = {"migration_paths": tuple(migration_paths), "schema_paths": tuple(schema_paths)}
        settings = stack.settings()
        settings = settings.model_copy(update={name: paths for name, paths in own.items() if paths})
        await initialise(settings)
        yield settings
    finally:
        await complete(asyncio.to_thread(servers.__exit__, None, None, None))
