"""The built wheel: it carries what it needs, and works far from any checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from multidb.settings import Settings
from multidb.testing import empty_database

ROOT = Path(__file__).parents[2]
REVISIONS = sorted(path.name for path in (ROOT / "migrations" / "versions").glob("*.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked, as pip would; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_it_carries_types_migrations_schemas_and_scripts(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "multidb/py.typed",
        "multidb/alembic.ini",
        "multidb/migrations/env.py",
        *(f"multidb/migrations/versions/{name}" for name in REVISIONS),
        "multidb/mongo_schemas/system_logs.json",
        "multidb/stack/docker-compose.yml",
        "multidb/stores/redis/scripts/cache_fill.lua",
    } <= names
    assert not any(name.startswith(("tests/", "examples/", "benchmarks/")) for name in names)


def run(installed: Path, folder: Path, settings: Settings, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MULTIDB_")}
    environment |= {
        "PYTHONPATH": str(installed),
        "MULTIDB_POSTGRES_URL": settings.postgres_url.get_secret_value(),
        "MULTIDB_MONGO_URL": settings.mongo_url.get_secret_value(),
        "MULTIDB_REDIS_URL": settings.redis_url.get_secret_value(),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_it_migrates_with_no_checkout(installed: Path, multidb_servers: Settings, tmp_path: Path):
    where = run(installed, tmp_path, multidb_servers, "-c", "import multidb; print(multidb.__file__)")
    assert where.stdout.startswith(str(installed)), where.stderr
    with empty_database(multidb_servers) as empty:
        for arguments in (["migrate"], ["migrate", "--check"], ["migrate", "--current"]):
            done = run(installed, tmp_path, empty, "-m", "multidb.cli", *arguments)
            assert done.returncode == 0, done.stdout + done.stderr
        assert REVISIONS[-1][:4] in done.stdout
