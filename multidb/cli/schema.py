"""init and migrate: bringing the stores to the form the library expects."""

import asyncio
from typing import Annotated

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, Directory, settings_for
from multidb.cli.output import progress
from multidb.settings import PostgresSettings, Settings

__all__ = ["init", "migrate"]


def init(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Migrate PostgreSQL, make its partitions, apply MongoDB's schemas. Starts nothing; may be repeated."""
    from multidb.ops import migrations, partitions, schemas

    settings = settings_for(directory, Settings)
    with progress("Initialising") as say:
        say("PostgreSQL: migrating")
        migrations.upgrade(settings)
        asyncio.run(partitions.ensure(settings))
        say("MongoDB: applying the schemas")
        changes = asyncio.run(schemas.apply(settings))
    typer.echo(f"PostgreSQL is at revision {migrations.current(settings)}.")
    for change in changes:
        typer.echo(f"MongoDB {change}")
    if not changes:
        typer.echo("MongoDB is as its schemas say.")


def migrate(
    revision: Annotated[
        str, typer.Argument(help="Where to: a revision, `+1`, `heads`; `base` is before all.")
    ] = "",
    directory: Directory = DEFAULT_DIRECTORY,
    down: Annotated[bool, typer.Option("--down", help="Go back to REVISION, which must be given.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Change nothing; print the statements.")] = False,
    current: Annotated[bool, typer.Option("--current", help="Print the revision PostgreSQL is at.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Print how PostgreSQL differs from what the revisions make; exit code 1 if so."
        ),
    ] = False,
) -> None:
    """Bring PostgreSQL to a revision: the newest, unless one is given."""
    from multidb.ops import migrations

    if sum((down, current, check)) > 1:
        raise typer.BadParameter("--down, --current and --check exclude each other")
    if (current or check) and (revision or sql):
        raise typer.BadParameter("--current and --check take no revision and no --sql")
    if down and not revision:
        raise typer.BadParameter("--down needs the revision to go back to; `base` is before all")
    settings = settings_for(directory, PostgresSettings)
    if current:
        typer.echo(migrations.current(settings) or "none")
    elif check:
        differences = migrations.check(settings)
        typer.echo("\n".join(differences) or "PostgreSQL is as the revisions make it.")
        raise typer.Exit(1 if differences else 0)
    else:
        change = migrations.downgrade if down else migrations.upgrade
        with progress("Migrating"):
            statements = change(settings, revision or "heads", sql=sql)
        typer.echo(
            statements.rstrip()
            if sql
            else f"PostgreSQL is at revision {migrations.current(settings) or 'none'}."
        )
