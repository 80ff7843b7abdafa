"""Which back end a directory's stack uses."""

import subprocess
from pathlib import Path

from multidb.stack.compose import ComposeStack
from multidb.stack.embedded import EmbeddedStack
from multidb.stack.protocol import Backend, Stack
from multidb.stack.state import StackDirectory

__all__ = ["docker_engine_answers", "open_stack"]

_PROBE_SECONDS = 5


def open_stack(directory: Path | str, backend: Backend | None = None) -> Stack:
    """Return the stack of a directory; starts nothing.

    Without `backend` it is the one the directory was started with, else compose where a
    Docker engine answers, else embedded.

    Raises: ConfigurationError if the directory was started with another than `backend`.
    """
    found = StackDirectory(directory)
    if backend is not None:
        found.require(backend)
    chosen = backend or found.read_state().backend
    if chosen is None:
        chosen = "compose" if docker_engine_answers() else "embedded"
    return ComposeStack(directory) if chosen == "compose" else EmbeddedStack(directory)


def docker_engine_answers() -> bool:
    """Tell whether `docker compose` is installed and an engine answers it; takes seconds at most."""
    try:
        for arguments in (("compose", "version"), ("version", "--format", "{{.Server.Version}}")):
            subprocess.run(
                ("docker", *arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_SECONDS,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return False
    return True
