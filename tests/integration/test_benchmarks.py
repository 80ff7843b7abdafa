"""The benchmarks run: what they find is for a reader to judge, and no test's business."""

import argparse

import pytest

from benchmarks import analytics, mongo, outbox, postgres, reads, redis
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
    sizes = mongo.Sizes(seconds=0.01, rounds=1, tasks=(1, 64), sustained=0.3)
    lines = await mongo.measure(multidb_settings, sizes, beanie=False)
    assert sum(line.startswith("## ") for line in lines) == 4
    for work, rows in {"append": 4, "emit": 2, "find": 2}.items():
        assert sum(line.startswith(f"| {work} |") for line in lines) == rows, work


@pytest.mark.mongo
async def test_analytics_are_measured(multidb_settings: Settings, capsys: pytest.CaptureFixture[str]):
    await analytics.measure(multidb_settings, 200)
    assert capsys.readouterr().out.count("| rollup") == 2


async def test_redis_is_measured(
    multidb_settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(redis, "KEYS", 50)
    await redis.measure(argparse.Namespace(seconds=0.01, rounds=1, only=None), multidb_settings)
    printed = capsys.readouterr().out
    assert printed.count("| redis-py |") == 3 * len(redis.TASKS)
    assert printed.count("| redis-py GET |") == len(redis.TASKS)


@pytest.mark.mongo
async def test_the_outbox_is_measured(multidb_settings: Settings):
    lines = await outbox.measure(multidb_settings, outbox.Sizes(effects=20, rounds=1, delays=3, commits=2))
    assert sum(line.startswith("## ") for line in lines) == 3
    assert len(lines) == 1 + 3 * 5 + len(outbox.KINDS) + 1 + 3
