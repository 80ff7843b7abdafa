"""The README's tour runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"

pytestmark = pytest.mark.mongo


def tour() -> str:
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def test_the_tour_is_about_thirty_lines():
    body = tour().split("async def main")[1].split("asyncio.run")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 32


def test_the_tour_runs_twice(tmp_path: Path):
    script = tmp_path / "tour.py"
    script.write_text(tour(), encoding="utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MULTIDB_") or name == "MULTIDB_MONGO_DRIVER"
    }
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "has version" in done.stdout
        assert "AL True" in done.stdout


def test_every_make_target_it_names_is_there():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make ([a-z]+)", README.read_text(encoding="utf-8") + makefile))
    for target in named & {"demo", "test", "check", "help"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
