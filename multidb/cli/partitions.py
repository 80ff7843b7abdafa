"""partitions: the months of the audit log."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, AsJSON, Directory, settings_for
from multidb.cli.output import show_table
from multidb.settings import PostgresSettings

if TYPE_CHECKING:
    from multidb.ops.partitions import Partition

__all__ = ["partitions"]


def partitions(
    directory: Directory = DEFAULT_DIRECTORY,
    ahead: Annotated[int, typer.Option(min=0, max=120, help="How many months after this one to make.")] = 3,
    keep: Annotated[
        int | None,
        typer.Option(min=0, help="Detach what is older than this month and so many before it."),
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop what --keep detaches, with its rows.")] = False,
    only_list: Annotated[bool, typer.Option("--list", help="Change nothing; show what there is.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Make the audit log's partitions for this month and the next ones, and detach old ones."""
    from multidb.ops.partitions import detach, ensure, find

    if drop and keep is None:
        raise typer.BadParameter("--drop drops what is detached, so it needs --keep")
    if only_list and keep is not None:
        raise typer.BadParameter("--list changes nothing, and takes no --keep")
    settings = settings_for(directory, PostgresSettings)
    made = [] if only_list else asyncio.run(ensure(settings, ahead=ahead))
    detached = [] if keep is None else asyncio.run(detach(settings, keep=keep, drop=drop))
    if as_json:
        there = [_described(each) for each in asyncio.run(find(settings))]
        report = {"made": made, "detached": detached, "dropped": drop, "partitions": there}
        typer.echo(json.dumps(report, indent=2))
    elif only_list:
        show_table(
            ("partition", "from", "to", "rows", "size"), [_row(each) for each in asyncio.run(find(settings))]
        )
    else:
        for name in made:
            typer.echo(f"Made {name}.")
        for name in detached:
            typer.echo(f"Detached {name} and dropped it." if drop else f"Detached {name}; the table stays.")
        if not made and not detached:
            typer.echo("Nothing to do.")


def _described(partition: "Partition") -> dict[str, object]:
    described: dict[str, object] = asdict(partition)
    for bound in ("first", "end"):
        moment = getattr(partition, bound)
        described[bound] = moment and moment.isoformat()
    return described


def _row(partition: "Partition") -> tuple[str, ...]:
    first, end = (f"{moment:%Y-%m-%d}" if moment else "" for moment in (partition.first, partition.end))
    if partition.default:
        first = "what no other takes"
    rows = "?" if partition.rows is None else f"{partition.rows:,}"
    return partition.name, first, end, rows, f"{partition.size / 1024:,.0f} KiB"
