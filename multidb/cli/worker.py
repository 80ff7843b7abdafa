"""worker: doing jobs until told to stop."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multidb.errors import ConfigurationError

if TYPE_CHECKING:
    from multidb.worker import Worker

__all__ = ["worker"]


def worker(
    app: Annotated[str, typer.Argument(help="Where the Worker is: `module:name`.")],
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many jobs at a time, whatever it says itself.")
    ] = None,
) -> None:
    """Do jobs until SIGTERM or Ctrl-C, and finish then what has begun. A second one stops at once."""
    found = _found(app)
    if concurrency is not None:
        found.concurrency = concurrency
    found.main()


def _found(app: str) -> "Worker":
    from multidb.worker import Worker

    module, _, name = app.partition(":")
    if not module or module.startswith("."):
        raise ConfigurationError(f"{app} must name a module and a Worker in it, as in shop.work:worker")
    # As `python -m` has it: an application is found where the command is run.
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name or "worker", None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"there is no module {module!r} here") from error
    if not isinstance(found, Worker):
        raise ConfigurationError(f"`{name or 'worker'}` of {module} is no Worker")
    return found
