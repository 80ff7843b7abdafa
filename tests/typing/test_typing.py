"""Both type checkers see the library as it is meant: `ok.py` passes, `wrong.py` fails where it says."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

#: Line -> what the checker says of it.
Complaints = dict[int, list[str]]


def snippet(name: str) -> str:
    """Return the text of a snippet, without the line that keeps mypy from looking at it."""
    return (HERE / name).read_text(encoding="utf-8").replace("# mypy: ignore-errors\n", "#\n", 1)


def marked(text: str) -> set[int]:
    return {number for number, line in enumerate(text.splitlines(), 1) if "  # error: " in line}


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    # 1 is "there are errors"; anything above, "the checker itself failed".
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


def by_file(complaints: list[tuple[str, int, str]]) -> dict[str, Complaints]:
    found: dict[str, Complaints] = {"ok.py": {}, "wrong.py": {}}
    for name, line, message in complaints:
        found.setdefault(Path(name).name, {}).setdefault(line, []).append(message)
    return found


def mypy(folder: Path) -> dict[str, Complaints]:
    # Its own cache, for a run in the checkout may be writing that one; and its own settings, those
    # of an application that turns everything on, without the plugin an application may not have.
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\npython_version = 3.11\nmypy_path = {ROOT}\n"
        f"cache_dir = {folder / 'cache'}\nfollow_imports = silent\n"
    )
    output = run(sys.executable, "-m", "mypy", "--output=json", "ok.py", "wrong.py", cwd=folder)
    reports = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return by_file(
        [(each["file"], each["line"], each["message"]) for each in reports if each["severity"] == "error"]
    )


def pyright(folder: Path) -> dict[str, Complaints]:
    (folder / "pyrightconfig.json").write_text(
        json.dumps(
            {
                "include": ["ok.py", "wrong.py"],
                "extraPaths": [str(ROOT)],
                "pythonVersion": "3.11",
                "typeCheckingMode": "standard",
                "reportUnusedExpression": False,
                "reportUnusedCoroutine": False,
            }
        )
    )
    output = run(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, cwd=folder)
    report = json.loads(output[output.index("{") :])
    assert report["summary"]["filesAnalyzed"] == 2
    return by_file(
        [
            (each["file"], each["range"]["start"]["line"] + 1, each["message"])
            for each in report["generalDiagnostics"]
            if each["severity"] == "error"
        ]
    )


CHECKERS: dict[str, Callable[[Path], dict[str, Complaints]]] = {"mypy": mypy, "pyright": pyright}


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_library_has_the_types_it_should(checker: str, tmp_path: Path) -> None:
    """In one test, for a checker takes most of a minute."""
    for name in ("ok.py", "wrong.py"):
        (tmp_path / name).write_text(snippet(name), encoding="utf-8")
    complaints = CHECKERS[checker](tmp_path)

    assert set(complaints) == {"ok.py", "wrong.py"}, "the library itself is complained of"
    assert complaints["ok.py"] == {}, "what is right is refused"
    text = snippet("wrong.py")
    lines, wanted = text.splitlines(), marked(text)
    missed = {number: lines[number - 1].strip() for number in wanted - complaints["wrong.py"].keys()}
    assert missed == {}, "what is wrong is accepted"
    others = {line: said for line, said in complaints["wrong.py"].items() if line not in wanted}
    assert others == {}, "what is right is refused beside what is wrong"


def test_every_mark_says_why() -> None:
    text = snippet("wrong.py")
    assert len(marked(text)) > 40
    assert not re.findall(r"# error:\s*$", text, re.MULTILINE)
