"""The house: what may import what, what modules are called, how long they are."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "multidb"

#: Names that say nothing of what a module is for.
NAMELESS = {"base", "common", "core", "helper", "helpers", "misc", "util", "utils"}

#: A guide, not a gate: a module may be longer once its reason stands here.
LONGEST = 400
LONGER: dict[str, str] = {"multidb/settings.py": "every setting in one place, with what reads and checks it"}


def modules() -> Iterator[Path]:
    return PACKAGE.rglob("*.py")


def configuration() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        linter: dict[str, object] = tomllib.load(file)["tool"]["importlinter"]
    return linter


CONTRACTS: list[str] = [contract["name"] for contract in configuration()["contracts"]]  # type: ignore[attr-defined]


def lint(tree: Path) -> tuple[int, str]:
    """Hold the package in `tree` against its contracts; return the exit code and what was said."""
    # Not `lint-imports` by name: the command need not be on the path of who runs the tests.
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its contracts, to be broken."""
    shutil.copytree(PACKAGE, tmp_path / "multidb", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def verdicts(output: str) -> dict[str, str]:
    return dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", output, re.MULTILINE))


def test_imports_keep_every_contract() -> None:
    code, output = lint(ROOT)
    assert verdicts(output) == dict.fromkeys(CONTRACTS, "KEPT"), output
    assert code == 0, output


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        (
            "stores/redis/client.py",
            "import multidb.stores.postgres.engine",
            "The three engines do not know each other",
        ),
        ("models/users.py", "import multidb.stores.cursor", "Layers point downward"),
        ("repositories/users.py", "import asyncpg", "Repositories see no driver"),
        ("connections.py", "def late():\n    import alembic", "Only ops imports alembic"),
        ("errors.py", "import multidb.settings", "Layers point downward"),
    ],
)
def test_a_planted_violation_breaks_its_contract(copy: Path, module: str, line: str, broken: str) -> None:
    with (copy / "multidb" / module).open("a") as file:
        file.write(f"\n{line}\n")
    code, output = lint(copy)
    assert verdicts(output)[broken] == "BROKEN", output
    assert code == 1


def test_a_module_that_no_layer_names_breaks_the_first_contract(copy: Path) -> None:
    (copy / "multidb" / "odds_and_ends.py").write_text('"""Whatever."""\n')
    code, output = lint(copy)
    assert "odds_and_ends" in output
    assert code != 0


def test_no_module_has_a_name_that_says_nothing() -> None:
    nameless = [
        str(path.relative_to(ROOT))
        for path in modules()
        if {part.strip("_") for part in (*path.relative_to(PACKAGE).parts[:-1], path.stem)} & NAMELESS
    ]
    assert nameless == []


def test_no_module_is_so_long_that_nobody_reads_it() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST and name not in LONGER} == {}
    assert {name for name in LONGER if lengths.get(name, 0) <= LONGEST} == set()


def test_the_package_only_re_exports() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    kinds = {type(statement) for statement in tree.body[1:]}
    assert kinds <= {ast.ImportFrom, ast.Assign}
    (assigned,) = [statement for statement in tree.body if isinstance(statement, ast.Assign)]
    assert ast.unparse(assigned.targets[0]) == "__all__"


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_only_the_mongo_seam_imports_motor() -> None:
    """Removing Motor shall delete one file."""
    naming = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "motor")
        or (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "motor" for name in node.names))
    }
    assert naming == {"stores/mongo/motor_driver.py"}


@pytest.mark.parametrize("folder", ["stores", "repositories", "cache", "models"])
def test_no_call_of_the_library_waits_by_sleeping(folder: str) -> None:
    sleeping = [
        str(path.relative_to(PACKAGE))
        for path in (PACKAGE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    ]
    assert sleeping == []


def test_nothing_is_pickled() -> None:
    """A cache or a queue whose values are code is a way in for who can write to it."""
    pickling = [
        str(path.relative_to(PACKAGE))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name and name.split(".")[0] in {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    ]
    assert pickling == []
