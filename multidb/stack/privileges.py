"""Running PostgreSQL's programs as somebody who is not root: they refuse it."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from multidb.errors import ConfigurationError
from multidb.stack.process import server_environment

__all__ = ["Runner", "runner"]

_NOBODY = 65534

#: A user namespace in which root appears as nobody: no longer root to a program that
#: looks, yet the files it makes are root's own.
_NAMESPACE = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")


@dataclass(frozen=True, slots=True)
class Runner:
    """How to run programs of one folder on one data directory."""

    programs: Path
    #: What stands in front of each command.
    prefix: Sequence[str] = ()
    #: Who is to own the files, if not who makes them.
    owner: int | None = None

    def command(self, program: str, *arguments: str | Path) -> list[str | Path]:
        """Return the command line of one program."""
        return [*self.prefix, self.programs / program, *arguments]

    def own(self, path: Path) -> None:
        """Give a file or folder to the user the programs run as."""
        if self.owner is not None:
            os.chown(path, self.owner, self.owner)


def runner(home: Path, programs: Path) -> Runner:
    """Return how to run `programs` on data under `home`, a folder that exists.

    Raises: ConfigurationError if root must become somebody else and that user cannot
    reach the folder.
    """
    if os.geteuid() != 0:
        return Runner(programs)
    owner = home.stat().st_uid
    if owner == 0 and _namespaces_work():
        return Runner(programs, _NAMESPACE)
    return _as_other_user(home, programs, owner or _NOBODY)


def _as_other_user(home: Path, programs: Path, owner: int) -> Runner:
    if home.stat().st_uid != owner:
        for path in (home, *home.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)
    # To pass through the stack's directory; what lies in it stays 0600 or 0700.
    home.parent.chmod(home.parent.stat().st_mode | 0o011)
    prefix = ("setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "--")
    if not _succeeds([*prefix, "test", "-w", home]):
        raise ConfigurationError(
            f"PostgreSQL does not run as root, user namespaces are off here, and the user {owner} it would"
            f" run as cannot enter {home}: choose a directory all whose parents others may pass through,"
            " such as one below /var/lib, or run as an ordinary user",
            store="postgres",
        )
    if not _succeeds([*prefix, "test", "-x", programs / "postgres"]):
        programs = _copy(programs, home / "program")
    return Runner(programs, prefix, owner)


def _copy(programs: Path, target: Path) -> Path:
    """Copy a wheel's PostgreSQL to where anybody may run it, with the libraries the wheel has beside it."""
    package = programs.parent.parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.is_dir():
            shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)
    for folder in (target, *target.rglob("*")):
        folder.chmod(folder.stat().st_mode | (0o555 if folder.is_dir() else 0o444))
    return target / programs.relative_to(package.parent)


@cache
def _namespaces_work() -> bool:
    return _succeeds([*_NAMESPACE, "true"])


def _succeeds(command: Sequence[str | Path]) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=server_environment(), check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0
