"""schemas: MongoDB's collections, as their files say."""

import asyncio
import json
from typing import Annotated

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, AsJSON, Directory, settings_for
from multidb.cli.output import progress
from multidb.settings import MongoSettings

__all__ = ["schemas"]

schemas = typer.Typer(
    name="schemas", help="MongoDB's collections: how they differ from their files, and make them so."
)

_AS_THEY_SAY = "MongoDB is as its schemas say."


@schemas.command()
def plan(directory: Directory = DEFAULT_DIRECTORY, as_json: AsJSON = False) -> None:
    """Print what `apply` would do, and which documents are in its way. Changes nothing."""
    from multidb.ops.schemas import plan

    with progress("Comparing"):
        differences = asyncio.run(plan(settings_for(directory, MongoSettings)))
    if as_json:
        typer.echo(json.dumps([each.described() for each in differences], indent=2))
    else:
        typer.echo("\n".join(map(str, differences)) or _AS_THEY_SAY)


@schemas.command()
def apply(
    directory: Directory = DEFAULT_DIRECTORY,
    drop_indexes: Annotated[
        bool, typer.Option("--drop-indexes", help="Drop indexes that no file names, or that changed.")
    ] = False,
    accept_misfits: Annotated[
        bool,
        typer.Option(
            "--accept-misfits", help="Put validators in place although stored documents do not fit them."
        ),
    ] = False,
) -> None:
    """Make the collections as their files say. Any number of processes may; one does the work."""
    from multidb.ops.schemas import apply

    settings = settings_for(directory, MongoSettings)
    with progress("Applying"):
        changes = asyncio.run(
            apply(settings, drop_indexes=drop_indexes, accept_misfits=accept_misfits, say=typer.echo)
        )
    if not changes:
        typer.echo(_AS_THEY_SAY)


@schemas.command()
def check(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Print how the collections differ from their files; exit code 1 if they do."""
    from multidb.ops.schemas import check

    differences = asyncio.run(check(settings_for(directory, MongoSettings)))
    typer.echo("\n".join(differences) or _AS_THEY_SAY)
    raise typer.Exit(1 if differences else 0)
