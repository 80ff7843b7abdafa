"""Where the migrations and schemas are: inside the installed package, or at the top of a checkout."""

from pathlib import Path

import multidb
from multidb.errors import ConfigurationError

__all__ = ["shipped"]


def shipped(name: str) -> Path:
    """Return the path of `migrations`, `mongo_schemas` or `alembic.ini`.

    Raises: ConfigurationError if the installation lacks it.
    """
    package = Path(multidb.__file__).parent
    for home in (package, package.parent):
        if (home / name).exists():
            return home / name
    raise ConfigurationError(f"this installation of multidb lacks its `{name}`: install it again")
