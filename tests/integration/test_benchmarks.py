"""The benchmarks run: what they find is for a reader to judge, and no test's business."""

import argparse
from dataclasses import replace

import pytest

from benchmarks import (
    analytics,
    cache,
    cache_sides,
    job_sides,
    jobs,
    mongo,
    outbox,
    postgres,
    reads,
    redis,
    redis_peers,
)
from benchmarks.run import Sizes
from multidb.settings import Settings

SMALLEST = Sizes(
    seconds=0.01,
    rounds=1,
    tasks=(1, 64),
    rows=200,
    bulk=300,
    streamed=1_500,
    deep=5_000,
    page=5,
    fair_seconds=0.1,
)


async def test_every_section_measures_every_side(multidb_settings: Settings):
    lines = await postgres.measure(multidb_settings, SMALLEST, advanced_alchemy=False)
    assert sum(line.startswith("## ") for line in lines) == len(postgres.SECTIONS)
    for section, peers in {"get": 4, "add": 4, "add_many": 3, "find": 3, "count": 3, "stream": 3}.items():
        rows = [line for line in lines if line.startswith(f"| {section} | 1 |")]
        assert len(rows) == peers, section
    # Nobody fails, however small the pool.
    assert len([line for line in lines if "none failed" in line and " | 0 | " in line]) == 6


async def test_reads_are_measured(multidb_settings: Settings, capsys: pytest.CaptureFixture[str]):
    await reads.measure(argparse.Namespace(seconds=0.01, rounds=1), multidb_settings)
    printed = capsys.readouterr().out
    assert printed.count("| asyncpg fetchrow |") == 5


@pytest.mark.mongo
async def test_logs_are_measured(multidb_settings: Settings):
    sizes = mongo.Sizes(seconds=0.01, rounds=1, tasks=(1, 64), sustained=0.3, hundreds=5)
    lines = await mongo.measure(multidb_settings, sizes, beanie=False)
    assert sum(line.startswith("## ") for line in lines) == 4
    for work, rows in {"append": 4, "emit": 2, "find": 2}.items():
        assert sum(line.startswith(f"| {work} |") for line in lines) == rows, work


async def test_the_queue_is_measured(multidb_settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_sides, "find_spec", lambda _: None)  # the peers are no part of the suite
    few = dict.fromkeys(jobs.QUICK.jobs, 50)
    sizes = replace(jobs.QUICK, seconds=0.01, jobs=few, finished=100, held=0.1, paced=0.1)
    sizes = replace(sizes, backlog=100, waiting=2)
    lines = await jobs.measure(multidb_settings, sizes)
    assert sum(line.startswith("## ") for line in lines) == len(jobs.SECTIONS)
    assert sum(line.startswith("| ours | 10 |") for line in lines) == 1


@pytest.mark.mongo
async def test_analytics_are_measured(multidb_settings: Settings, capsys: pytest.CaptureFixture[str]):
    await analytics.measure(multidb_settings, 200)
    assert capsys.readouterr().out.count("| rollup") == 2


async def test_redis_is_measured(multidb_settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redis, "KEYS", 50)
    # Of the peers, those that every environment has.
    monkeypatch.setattr(redis_peers, "find_spec", lambda name: None)
    lines = await redis.measure(multidb_settings, redis.Sizes(seconds=0.01, rounds=1, tasks=(1, 64)))
    assert sum(line.startswith("## ") for line in lines) == len(redis.SECTIONS)
    for work in ("GET", "SET", "EVALSHA", "users.get", "locks.document", "request"):
        assert sum(line.startswith(f"| {work} |") for line in lines) == 2, work


@pytest.mark.mongo
async def test_the_outbox_is_measured(multidb_settings: Settings):
    sizes = outbox.Sizes(effects=20, rounds=1, delays=3, commits=2)
    lines = await outbox.measure(multidb_settings, sizes)
    assert sum(line.startswith("## ") for line in lines) == len(outbox.SECTIONS)
    for name in outbox.KINDS:
        assert sum(line.startswith(f"| {name} |") for line in lines) == 1, name


async def test_the_cache_is_measured(multidb_settings: Settings, monkeypatch: pytest.MonkeyPatch):
    # Of the peers, the one that every environment has.
    there = {"multidb", "redis"}
    monkeypatch.setattr(cache_sides, "find_spec", lambda name: name if name in there else None)
    sizes = cache.Sizes(seconds=0.01, rounds=1, tasks=(1, 64), keys=20, callers=20, processes=1)
    lines = await cache.measure(multidb_settings, sizes)
    assert sum(line.startswith("## ") for line in lines) == len(cache.SECTIONS)
    assert sum("redis-py GET" in line for line in lines if line.startswith("| hit |")) == 2
    assert any(line.startswith("| ours | 1 | 0 |") for line in lines)
