"""The race checker finds what is wrong with a naive cache, and nothing wrong with ours."""

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from multidb.settings import Settings
from multidb.stack.redis import RedisServer
from multidb.testing import cache_race
from multidb.testing.races import Race, _OwnRedis, _restart

HERE = "tests.integration.races"
HOT: dict[str, Any] = {
    "keys": 4,
    "killed": 0,
    "restart_every": None,
    "evict_every": None,
    "duration": timedelta(seconds=3),
}
#: As many and as long as it takes to meet what is rare.
LONG: dict[str, Any] = {
    "readers": 60,
    "writers": 8,
    "processes": 4,
    "keys": 60,
    "killed": 0.05,
    "restart_every": timedelta(seconds=7),
    "duration": timedelta(seconds=120),
}

#: So short that it ends many times in a race.
BOUND = timedelta(seconds=0.2)


def locally(settings: Settings) -> Settings:
    """With users kept in the process too."""
    return settings.model_copy(update={"cache_local": frozenset({"users"}), "cache_local_staleness": BOUND})


async def test_no_read_is_older_than_a_commit_before_it(multidb_settings: Settings):
    race = await cache_race(
        multidb_settings, duration=timedelta(seconds=5), restart_every=timedelta(seconds=2)
    )
    assert race.stale == [], race
    assert min(race.reads, race.writes, race.evictions) > 0, race


async def test_with_copies_in_the_process_none_is_older_than_the_bound(multidb_settings: Settings):
    race = await cache_race(
        locally(multidb_settings),
        duration=timedelta(seconds=4),
        restart_every=timedelta(seconds=2),
        tolerance=BOUND,
    )
    assert race.stale == [], race
    assert min(race.reads, race.writes, race.evictions) > 0, race


async def test_its_redis_is_not_ended_while_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wait, loop, begun, over = RedisServer.wait, asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def waits_long(self: RedisServer, url: str, pause: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        for _ in range(10):
            pause()
        wait(self, url, pause)
        over.set()

    server, race = _OwnRedis(tmp_path / "redis"), Race()
    server.start()
    try:
        monkeypatch.setattr(RedisServer, "wait", waits_long)
        restarting = asyncio.create_task(_restart(server, race, timedelta(0)))
        await begun.wait()
        restarting.cancel()
        await asyncio.wait([restarting])
        assert over.is_set()
    finally:
        server.kill()
    with pytest.raises(RuntimeError, match="ended as it began"):
        waits_long(server._server, server.url, server._pause)


async def test_a_naive_cache_is_found_out(multidb_settings: Settings):
    race = await cache_race(multidb_settings, subject=f"{HERE}:naive", **HOT)
    assert race.stale, race


@pytest.mark.torture
@pytest.mark.parametrize("guard", ["without_leases", "joining_blindly"])
async def test_ours_without_a_guard_is_found_out(multidb_settings: Settings, guard: str):
    race = await cache_race(
        multidb_settings, subject=f"{HERE}:{guard}", **{**HOT, "duration": timedelta(seconds=15)}
    )
    assert race.stale, race


@pytest.mark.torture
async def test_ours_without_marks_is_found_out(multidb_settings: Settings):
    race = await cache_race(
        multidb_settings,
        subject=f"{HERE}:without_marks",
        keys=4,
        restart_every=None,
        evict_every=None,
        duration=timedelta(seconds=15),
    )
    assert race.stale, race


@pytest.mark.torture
@pytest.mark.parametrize("subject", ["dying_after_long_commits", "without_witnesses"])
async def test_a_mark_that_is_evicted_before_its_commit(multidb_settings: Settings, subject: str):
    race = await cache_race(
        multidb_settings,
        subject=f"{HERE}:{subject}",
        **{**LONG, "killed": 0, "restart_every": None, "duration": timedelta(seconds=20)},
        evict_every=timedelta(milliseconds=8),
    )
    print(race)
    assert bool(race.stale) == (subject == "without_witnesses"), race


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_no_read_is_older_than_a_commit_before_it_for_two_minutes(multidb_settings: Settings):
    race = await cache_race(multidb_settings, **LONG)
    print(race)
    assert race.stale == [], race
    assert min(race.reads, race.writes, race.killed, race.restarts, race.evictions) > 0, race


@pytest.mark.torture
@pytest.mark.parametrize("guard", ["without_places", "without_own_writes", "without_flushing"])
async def test_ours_in_the_process_without_a_guard_is_found_out(multidb_settings: Settings, guard: str):
    # Written so seldom that what was missed is not soon made up for by what is heard.
    seldom = {"keys": 40, "restart_every": timedelta(seconds=2)} if guard == "without_flushing" else {}
    race = await cache_race(
        locally(multidb_settings),
        subject=f"{HERE}:{guard}",
        tolerance=BOUND,
        **{**HOT, "duration": timedelta(seconds=15), **seldom},
    )
    assert race.stale, race


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_with_copies_in_the_process_none_is_older_than_the_bound_for_two_minutes(
    multidb_settings: Settings,
):
    race = await cache_race(locally(multidb_settings), tolerance=BOUND, **LONG)
    print(race)
    assert race.stale == [], race
    assert min(race.reads, race.writes, race.killed, race.restarts, race.evictions) > 0, race
