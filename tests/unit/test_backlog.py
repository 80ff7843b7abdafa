"""The backlog of an emitter: bounded, the least grave pushed out first, everything counted."""

import threading
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multidb.settings import Settings
from multidb.stores.mongo.backlog import Backlog
from multidb.stores.mongo.emitting import Emitter

RANKS = ("low", "middle", "high")
URLS: Any = {
    "_env_file": None,
    "postgres_url": "postgresql://h/d",
    "mongo_url": "mongodb://h/d",
    "redis_url": "redis://h/0",
}


def backlog(
    directory: Path | None = None, *, prepare: Any = lambda document: document, **values: Any
) -> Backlog:
    options = {"log_buffer_entries": 100, **values}
    return Backlog(
        "logs.emit",
        ranks=RANKS,
        prepare=prepare,
        alarm=lambda: None,
        directory=directory,
        settings=Settings(**URLS, **options),
    )


def fill(entries: Backlog, count: int, rank: int, *, size: int = 100, start: int = 0) -> None:
    for n in range(start, start + count):
        entries.put({"_id": n, "rank": rank}, size, rank)


def on_the_way(entries: Backlog) -> list[dict[str, Any]]:
    while entries.take():
        pass
    return [dict(entry.document) for batch in entries.on_the_way for entry in batch]


def test_the_least_grave_is_shed_first_and_of_these_the_oldest():
    entries = backlog()
    fill(entries, 60, 0)
    fill(entries, 30, 2)
    fill(entries, 60, 1)
    assert entries.counts.shed == {"low": 50}
    fill(entries, 30, 2)
    assert entries.counts.shed == {"low": 60, "middle": 20}
    fill(entries, 5, 0)
    assert entries.counts.shed == {"low": 65, "middle": 20}
    fill(entries, 200, 2)
    assert entries.counts.shed == {"low": 65, "middle": 60, "high": 160}
    assert entries.counts.pending == 100
    assert [each["_id"] for each in on_the_way(entries)] == list(range(100, 200))


def test_it_is_bounded_by_bytes_too():
    entries = backlog(log_buffer_bytes=1_000_000)
    fill(entries, 50, 1, size=100_000)
    assert entries.counts.pending == 10
    fill(entries, 1, 0, size=100_000)
    fill(entries, 1, 2, size=2_000_000)  # larger than all the room: pushed out by itself, last
    assert entries.counts.shed["high"] == 1
    fill(entries, 3, 2, size=300_000)
    assert entries.counts.pending == 3
    assert sum(entries.counts.shed.values()) == entries.counts.emitted - 3


def test_the_gravest_leave_first_and_no_more_than_a_round_trip_takes():
    entries = backlog(log_buffer_entries=5000)
    for rank in (0, 2, 1):
        fill(entries, 800, rank)
    assert entries.take()
    assert len(entries.on_the_way[0]) == 1000
    assert [entry.rank for entry in entries.on_the_way[0]] == [2] * 800 + [1] * 200


@pytest.mark.parametrize(
    "value",
    [object(), 2**64, "\ud800", {"a\0b": 1}, {1: 2}, "x" * 17_000_000],
    ids=lambda value: str(type(value)),
)
def test_one_that_cannot_be_encoded_is_refused_alone(value: Any, caplog: pytest.LogCaptureFixture):
    entries = backlog()
    fill(entries, 3, 1)
    for _ in range(3):
        entries.put({"_id": "bad", "value": value}, 100, 1)
    fill(entries, 3, 1)
    assert len(on_the_way(entries)) == 6
    assert (entries.counts.refused, entries.counts.pending) == (3, 6)
    (told,) = caplog.messages  # the first of its kind
    assert "logs.emit" in told


def test_what_a_redactor_raises_on_is_never_stored():
    def prepare(document: dict[str, Any]) -> dict[str, Any]:
        if document["_id"] == 1:
            raise KeyError("a secret")
        return document

    entries = backlog(prepare=prepare)
    fill(entries, 3, 1)
    assert [each["_id"] for each in on_the_way(entries)] == [0, 2]
    assert entries.counts.refused == 1


def test_what_has_no_room_is_spilled_as_it_would_be_stored(tmp_path: Path):
    entries = backlog(
        tmp_path, prepare=lambda document: {**document, "seen": True}, log_spill_bytes=1_000_000
    )
    fill(entries, 1000, 0)
    assert entries.counts.shed == {}
    assert entries.counts.spilled == 1000 - entries.counts.pending
    assert entries.spill is not None
    chunk = entries.spill.next()
    assert chunk is not None
    assert bson.decode(chunk.documents[0]) == {"_id": 0, "rank": 0, "seen": True}
    entries.settle_chunk(chunk, [ValueError()])
    assert (entries.counts.refused, entries.counts.stored) == (1, len(chunk.documents) - 1)
    assert entries.counts.spilled == 0
    fill(entries, 50_000, 0)
    assert entries.counts.shed["low"] > 0  # the file is full too


def test_what_is_left_at_the_end_is_spilled(tmp_path: Path):
    entries = backlog(tmp_path)
    fill(entries, 90, 1)
    entries.take()
    fill(entries, 90, 2)
    entries.abandon()
    assert (entries.counts.spilled, entries.counts.pending) == (180, 0)
    entries = backlog()
    fill(entries, 90, 1)
    entries.take()
    fill(entries, 90, 2)
    entries.abandon()
    assert (entries.counts.shed, entries.counts.pending) == ({"middle": 90, "high": 90}, 0)


def test_an_emit_that_interrupts_another_in_its_thread_neither_hangs_nor_fails(tmp_path: Path):
    entries = backlog(tmp_path)

    def prepare(document: dict[str, Any]) -> dict[str, Any]:
        if "again" not in document:
            entries.put({"_id": 0, "again": True}, 100, 2)
        return document

    entries._prepare = prepare
    fill(entries, 300, 1)
    assert entries.counts.emitted == 300 + entries.counts.spilled
    assert entries.counts.shed == {}


def test_from_many_threads_nothing_is_lost_or_counted_twice(tmp_path: Path):
    entries = backlog(tmp_path, log_buffer_entries=500)
    threads = [
        threading.Thread(target=fill, args=(entries, 2000, n % 3), kwargs={"start": n * 2000})
        for n in range(8)
    ]
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            entries.take()
            entries.relieve()

    taker = threading.Thread(target=drain)
    taker.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    taker.join()
    ids = [each["_id"] for each in on_the_way(entries)]
    assert entries.spill is not None
    while (chunk := entries.spill.next()) is not None:
        ids += [bson.decode(each)["_id"] for each in chunk.documents]
        entries.spill.finish(chunk)
    assert sorted(ids) == list(range(16_000))
    assert entries.counts.emitted == 16_000


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["put", "take", "settle", "big"]), st.integers(0, 2)), max_size=300)
)
def test_emitted_is_the_sum_of_what_became_of_it(steps: list[tuple[str, int]]):
    entries = backlog(log_buffer_bytes=1_000_000)
    in_memory = 0
    for step, rank in steps:
        match step:
            case "put":
                fill(entries, 20, rank)
            case "big":
                fill(entries, 1, rank, size=400_000)
            case "take":
                entries.take()
            case "settle" if entries.on_the_way:
                entries.settle(stored=len(entries.on_the_way.pop(0)))
        counts = entries.counts
        in_memory = entries._buffer.count + sum(map(len, entries.on_the_way))
        assert counts.emitted == (
            counts.stored + sum(counts.shed.values()) + counts.refused + counts.spilled + in_memory
        )
        assert counts.pending == in_memory


def test_before_a_loop_runs_what_is_emitted_waits():
    emitter = Emitter(
        "logs.emit",
        lambda _: pytest.fail("there is no loop"),
        ranks=RANKS,
        prepare=lambda document: document,
        directory=None,
        settings=Settings(**URLS),
    )
    emitter.put({"_id": 1}, 100, 0)
    assert emitter.counts.pending == 1
