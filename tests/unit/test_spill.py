"""The files of entries that found no room: whole or not at all, nobody else's, gone once replayed."""

import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from multidb.stores.mongo import spill as module
from multidb.stores.mongo.spill import Spill


def spill(directory: Path, *, limit: int = 100_000_000, sync: bool = False) -> Spill:
    return Spill(directory, limit=limit, sync=sync)


def drained(waiting: Spill) -> Iterator[bytes]:
    waiting.claim()
    while (chunk := waiting.next(100)) is not None:
        yield from chunk.documents
        waiting.finish(chunk)


def documents(count: int, size: int = 20) -> list[bytes]:
    return [f"{n}".encode().ljust(size, b".") for n in range(count)]


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*"))


@pytest.mark.parametrize("sync", [True, False])
def test_what_is_written_comes_back_in_order_and_its_file_goes(tmp_path: Path, sync: bool):
    mine = spill(tmp_path / "new" / "logs", sync=sync)
    assert not mine.waiting
    assert mine.write(documents(30)) == 30
    assert mine.write([b"x" * 1000]) == 1
    assert mine.waiting
    (path,) = files(tmp_path / "new" / "logs")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(drained(mine)) == [*documents(30), b"x" * 1000]
    assert not mine.waiting
    assert files(tmp_path / "new" / "logs") == []


def test_a_chunk_comes_again_until_it_is_finished(tmp_path: Path):
    mine = spill(tmp_path)
    mine.write(documents(10))
    first = mine.next(100)
    assert first is not None
    assert first == mine.next(100)
    mine.finish(first)
    following = mine.next(100)
    assert following is not None
    assert [*first.documents, *following.documents] == documents(10)[: len(first.documents) * 2]


def test_segments_end_and_are_replayed_while_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 500)
    mine = spill(tmp_path)
    for document in documents(40):
        mine.write([document])
    assert len(files(tmp_path)) > 2
    chunk = mine.next()
    assert chunk is not None
    mine.write([b"late"])
    mine.finish(chunk)
    assert [*chunk.documents, *drained(mine)] == [*documents(40), b"late"]
    assert files(tmp_path) == []


def test_it_holds_no_more_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mine = spill(tmp_path, limit=5_000_000)
    assert mine.write(documents(10, size=1_000_000)) == 4
    assert mine.write([b"x" * 1_000_000]) == 0
    chunk = mine.next(1_000_100)
    assert chunk is not None
    mine.finish(chunk)
    assert mine.write([b"x" * 1_000_000]) == 1


def test_a_disk_that_is_full_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mine = spill(tmp_path)
    mine.write([b"before"])
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", fails)
        return write(descriptor, data[:3])

    def fails(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert mine.write([b"lost"]) == 0
    monkeypatch.setattr(os, "write", write)
    assert mine.write([b"after"]) == 1
    assert list(drained(mine)) == [b"before", b"after"]


def test_a_record_cut_short_ends_its_segment(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    mine = spill(tmp_path)
    mine.write(documents(3))
    mine.close()
    (path,) = files(tmp_path)
    for cut in (1, 20, 27):
        whole = path.read_bytes()
        path.write_bytes(whole[:-cut])
        assert list(drained(spill(tmp_path))) == documents(2)
        assert "half a record" in caplog.text
        assert files(tmp_path) == []
        path.write_bytes(whole)
    path.write_bytes(whole[:5])
    assert list(drained(spill(tmp_path))) == []


def test_what_was_altered_is_kept_for_a_person(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    mine = spill(tmp_path)
    mine.write(documents(3))
    mine.close()
    (path,) = files(tmp_path)
    altered = bytearray(path.read_bytes())
    altered[-22] ^= 1
    path.write_bytes(altered)
    with caplog.at_level(logging.ERROR):
        assert list(drained(spill(tmp_path))) == documents(2)
    assert "altered" in caplog.text
    assert files(tmp_path) == [path.with_suffix(".damaged")]
    (tmp_path / "foreign.spill").write_bytes(b"something else")
    assert list(drained(spill(tmp_path))) == []


def test_what_a_living_process_holds_is_not_claimed(tmp_path: Path):
    mine, other = spill(tmp_path), spill(tmp_path)
    mine.write(documents(3))
    assert list(drained(other)) == []
    mine.close()
    again = spill(tmp_path)
    again.claim()
    assert again.waiting
    assert list(drained(other)) == []
    assert list(drained(again)) == documents(3)


def test_what_it_left_itself_is_its_own_when_it_comes_back(tmp_path: Path):
    mine = spill(tmp_path)
    mine.write(documents(1))
    mine.close()
    mine.claim()
    chunk = mine.next()
    assert chunk is not None
    assert chunk.segment.own


def test_what_was_stored_is_not_given_again_when_it_comes_back(tmp_path: Path):
    first = spill(tmp_path)
    first.write(documents(3))
    chunk = first.next(most=60)
    assert chunk is not None
    assert len(chunk.documents) < 3
    first.finish(chunk)
    first.close()
    first.claim()
    assert [*chunk.documents, *drained(first)] == documents(3)


def test_a_killed_process_leaves_what_it_wrote_to_the_next(tmp_path: Path):
    script = """
import sys
from pathlib import Path
from multidb.stores.mongo.spill import Spill
mine = Spill(Path(sys.argv[1]), limit=10**8, sync=False)
n = 0
while True:
    n += mine.write([b"%d" % n])
    print(n, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = 0
        while told < 200:
            told = int(writer.stdout.readline())
        assert list(drained(spill(tmp_path))) == []
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:
            if line.endswith("\n"):
                told = int(line)
    left = list(drained(spill(tmp_path)))
    assert len(left) >= told
    assert left == [b"%d" % n for n in range(len(left))]
    assert files(tmp_path) == []
