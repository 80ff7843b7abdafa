"""What is sent to Redis: commands, packed as they are made, and scripts, which are files."""

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple, TypeAlias

from hiredis import pack_command
from redis.exceptions import DataError

__all__ = ["Argument", "Command", "Key", "Script", "pack", "plain", "script", "scripted"]

Key: TypeAlias = str
Argument: TypeAlias = str | bytes | int | float


class Script(NamedTuple):
    """A file of `scripts/`. The server runs it by its digest, once it has been given the source."""

    source: str
    digest: str


class Command:
    """A command, ready to be sent: its name, its key, and what else it takes.

    The key decides which node of a cluster runs it. No two commands are equal, whatever they say:
    each is run for itself, so make one for each call. A `repeatable` one does no harm when it is run
    a second time because the answer to the first was lost.

    Raises: redis.exceptions.DataError, UnicodeEncodeError for an argument that cannot be sent.
    """

    __slots__ = ("key", "packed", "repeatable", "script")

    def __init__(self, name: str, key: Key, *arguments: Argument, repeatable: bool = False) -> None:
        self.key = key
        self.packed = pack(name, key, *arguments)
        self.repeatable = repeatable
        #: The script it runs, if it does.
        self.script: Script | None = None


def scripted(
    name: str, keys: Iterable[Key], arguments: Iterable[Argument], *, repeatable: bool = False
) -> Command:
    """Return the command that runs `scripts/<name>.lua`, atomically. Its keys lie in one hash slot."""
    key, *others = keys
    command = Command.__new__(Command)
    command.script = found = script(name)
    command.key = key
    command.packed = pack("EVALSHA", found.digest, 1 + len(others), key, *others, *arguments)
    command.repeatable = repeatable
    return command


def plain(*words: Argument) -> Command:
    """Return a command that has no key."""
    command = Command.__new__(Command)
    command.key = ""
    command.packed = pack(*words)
    command.repeatable = False
    command.script = None
    return command


#: Redis lets no script call another, so what several use is put in where it is named.
_USES = re.compile(r"^-- Uses (shared/\w+)\.lua$", re.MULTILINE)


@cache
def script(name: str) -> Script:
    """Return `scripts/<name>.lua`, with what it uses of `scripts/shared`."""
    source = _USES.sub(lambda use: _read(use[1]), _read(name))
    # The digest is the script's name on the server, and no secret depends on it.
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _read(name: str) -> str:
    return files("multidb.stores.redis").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


def pack(*words: Argument) -> bytes:
    """Return a command as it goes over the wire."""
    try:
        packed: bytes = pack_command(words)  # type: ignore[arg-type]  # it says a tuple of one
    except TypeError as error:
        raise DataError("a command is made of texts, bytes and numbers") from error
    return packed
