"""Each script says what it takes and gives, touches its own keys only, and has its test."""

import hashlib
import re
from pathlib import Path

import pytest

import multidb.stores.redis
from multidb.stores.redis.commands import script, scripted

SCRIPTS = sorted((Path(multidb.stores.redis.__file__).parent / "scripts").glob("*.lua"))
TESTS = Path(__file__).parents[1] / "integration" / "test_redis_scripts.py"


def head_and_body(path: Path) -> tuple[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end]), "\n".join(lines[end:])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_its_head_has_its_keys_its_arguments_and_its_result(path: Path) -> None:
    head, body = head_and_body(path)
    used = set(re.findall(r"(?:KEYS|ARGV)\[\d+\]", body))
    said = set(re.findall(r"^-- ((?:KEYS|ARGV)\[\d+\])", head, re.MULTILINE))
    assert used <= said
    assert re.search(r"^-- Returns ", head, re.MULTILINE)
    # All that it may touch is named by its caller: a cluster knows by that where to run it.
    for command, first in re.findall(r"redis\.call\(\s*'(\w+)'\s*(?:,\s*([\w\[\](]+))?", body):
        assert command in {"TIME", "PUBLISH"} or first.startswith(("KEYS[", "unpack(KEYS")), command


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_has_a_test_of_its_own(path: Path) -> None:
    assert re.search(rf"^async def test_{path.stem}\b", TESTS.read_text(encoding="utf-8"), re.MULTILINE)


def test_it_goes_by_its_digest() -> None:
    command = scripted("cache_fill", ["a"], ["b", 1])
    source, digest = script("cache_fill")
    assert digest == hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    assert command.packed.split(b"\r\n")[2::2] == [b"EVALSHA", digest.encode(), b"1", b"a", b"b", b"1"]
    assert (command.key, command.script) == ("a", script("cache_fill"))
