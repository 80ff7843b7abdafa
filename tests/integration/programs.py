"""Programs, run as a shell runs them, but for the second that each takes to import what it needs.

They are processes of their own, forked from one that has imported it.
"""

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["run"]

_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["alembic.config", "multidb.cli.app", "multidb.ops.migrations"])


def run(
    module: str, *arguments: str, cwd: Path, env: Mapping[str, str], stdin: str = "", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a module as `python -m` does, and return its exit code and what it wrote.

    Raises: subprocess.TimeoutExpired; it is killed then.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "0").write_text(stdin)
        process = _PROCESSES.Process(target=_become, args=(folder, module, arguments, cwd, dict(env)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([module, *arguments], timeout)
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(
            [module, *arguments], code, (folder / "1").read_text(), (folder / "2").read_text()
        )


def _become(folder: Path, module: str, arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> None:
    for number, mode in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        opened = os.open(folder / str(number), mode)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has given it another
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [module, *arguments]
    sys.path.insert(0, str(cwd))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
