"""What the commands have in common: where the stack is, and which settings they use."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from multidb.errors import ConfigurationError
from multidb.settings import MongoSettings, PostgresSettings
from multidb.stack.protocol import Backend
from multidb.stack.state import ENV_FILE

__all__ = ["DEFAULT_DIRECTORY", "AsJSON", "BackendOption", "Directory", "settings_for"]

DEFAULT_DIRECTORY = Path(".multidb")

Directory: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--dir", envvar="MULTIDB_DIR", file_okay=False, help="Where the servers' data and secrets are kept."
    ),
]

BackendOption: TypeAlias = Annotated[
    Backend | None,
    typer.Option(
        "--backend",
        help="What runs the servers. Without it: what last did in this directory,"
        " else compose where a Docker engine answers, else embedded.",
    ),
]

AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

S = TypeVar("S", bound=PostgresSettings | MongoSettings)


def settings_for(directory: Path, kind: type[S]) -> S:
    """Return the settings an application would use: from the environment and `.env`, else the stack's.

    Raises: ConfigurationError.
    """
    env_file = directory / ENV_FILE
    values: dict[str, Any] = {"_env_file": (env_file, ".env")}
    try:
        return kind(**values)
    except ConfigurationError as error:
        if env_file.exists():
            raise
        raise ConfigurationError(f"{error}; `multidb start` would write them to {env_file}") from error
