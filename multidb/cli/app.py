"""The commands, put together."""

import sys

import typer

from multidb.cli import inspection, jobs, lifecycle, outbox, partitions, schema, schemas, shell, worker
from multidb.cli.output import show_error
from multidb.errors import MultiDBError

__all__ = ["app", "run"]

app = typer.Typer(
    name="multidb",
    help="PostgreSQL, MongoDB and Redis for an application that uses multidb: start and watch them,"
    " bring their schemas up to date, look inside.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    lifecycle.start,
    lifecycle.stop,
    lifecycle.restart,
    inspection.status,
    inspection.health,
    schema.init,
    schema.migrate,
    partitions.partitions,
    outbox.relay,
    inspection.routes,
    inspection.logs,
    shell.shell,
    worker.worker,
    lifecycle.clean,
):
    app.command()(command)
app.add_typer(schemas.schemas)
app.add_typer(jobs.jobs)
app.add_typer(outbox.outbox)


def run() -> None:
    """Run one command. An error of multidb is told in its own words, without a traceback."""
    try:
        app()
    except MultiDBError as error:
        show_error(str(error))
        sys.exit(1)
