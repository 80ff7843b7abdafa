"""The beginning of a request: session, limits, presence and counter, in one round trip."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from multidb import DataError, MultiDB, Rate, UnavailableError, uuid7
from multidb.settings import Settings

from .proxy import behind_proxy
from .test_sessions import age

HOUR = timedelta(hours=1)
TODAY = datetime.now(UTC).date()


async def counted(db: MultiDB, endpoint: str, count: int) -> None:
    """Wait until an endpoint was counted so often."""
    async with asyncio.timeout(30):
        while (found := await db.counters.get(endpoint, TODAY)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert found == count


@pytest.mark.redis
async def test_a_request_is_checked_limited_there_and_counted(db: MultiDB):
    user = uuid7()
    token, session = await db.sessions.create(user, device="phone")
    rate = Rate(2, per=HOUR)
    watching = db.presence.watch(after=None)
    first = asyncio.create_task(anext(watching))
    begun = await db.request(token, "GET /a", rate=rate)
    assert begun.session == session
    assert begun.decision is not None
    assert (begun.allowed, begun.decision.remaining) == (True, 1)
    # At once; and its coming is told, by whoever watches or not.
    assert await db.presence.online([user]) == {user}
    await db.presence.sweep()
    async with asyncio.timeout(30):
        while await db.presence.count() != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await watching.aclose()
    # The same limit as by itself.
    assert (await db.rate_limits.peek(user, "GET /a", rate)).remaining == 1
    assert (await db.request(token, "GET /a", rate=[rate, Rate(5, per=HOUR)])).allowed
    refused = await db.request(token, "GET /a", rate=rate)
    assert refused.session == session
    assert refused.decision is not None
    assert not refused.allowed
    assert refused.decision.retry_after > timedelta(0)
    assert "Retry-After" in refused.decision.headers()
    without = await db.request(token, "GET /a")
    assert (without.allowed, without.decision) == (True, None)
    # The one that was refused is not counted.
    await counted(db, "GET /a", 3)


async def test_without_a_session_nothing_happens(db: MultiDB):
    user, rate = uuid7(), Rate(2, per=HOUR)
    token, _ = await db.sessions.create(user)
    await db.sessions.revoke(token)
    tampered = token[:-1] + ("A" if token[-1] != "A" else "B")
    wrong: list[Any] = ["", "x" * 96, token, tampered, "x" * 10_000, "é", None, 7, b"x" * 96]
    for each in wrong:
        begun = await db.request(each, "GET /a", rate=rate)
        assert not begun.allowed
        assert begun == (None, None)
    assert await db.presence.online([user]) == set()
    assert (await db.rate_limits.peek(user, "GET /a", rate)).remaining == 2
    assert not db.counters._counting._counted


async def test_a_rotated_token_that_is_used_again_ends_the_session(multidb_settings: Settings):
    changes = {"session_grace": timedelta(milliseconds=1), "session_touch_interval": HOUR}
    async with MultiDB(multidb_settings.model_copy(update=changes)) as db:
        token, _ = await db.sessions.create(uuid7())
        renewed, session = await db.sessions.rotate(token)
        assert (await db.request(renewed, "GET /a")).session == session
        await asyncio.sleep(0.01)
        assert await db.request(token, "GET /a") == (None, None)
        assert await db.request(renewed, "GET /a") == (None, None)


async def test_using_a_session_keeps_it_alive(multidb_settings: Settings):
    changes = {"session_idle_timeout": HOUR, "session_touch_interval": 2 * HOUR}
    async with MultiDB(multidb_settings.model_copy(update=changes)) as db:
        token, created = await db.sessions.create(uuid7())
        for _ in range(3):
            await age(db, created, 0.75 * HOUR)
            session, _ = await db.request(token, "GET /a")
            assert session is not None
            assert session.last_seen_at >= created.last_seen_at


async def test_a_user_who_came_is_told_of_also_if_it_closes_at_once(multidb_settings: Settings):
    user = uuid7()
    async with MultiDB(multidb_settings) as db:
        token, _ = await db.sessions.create(user)
        await db.request(token, "GET /a", rate=Rate(2, per=HOUR))
    async with MultiDB(multidb_settings) as db:
        assert await db.presence.count() == 1
        assert await db.counters.get("GET /a", TODAY) == 1
        # And who leaves then, is not brought back.
        await db.request(token, "GET /a")
        session = await db.sessions.get(token)
        assert session is not None
        await db.presence.leave(user, device=str(session.id))
        assert await db.presence.online([user]) == set()
        async with asyncio.timeout(30):
            while await db.presence.count():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_without_redis_it_raises_and_nothing_is_counted(multidb_settings: Settings):
    changes = {"redis_timeout": timedelta(seconds=0.5), "redis_breaker_limit": 1}
    async with (
        behind_proxy(multidb_settings.model_copy(update=changes)) as (proxy, settings),
        MultiDB(settings) as db,
    ):
        token, _ = await db.sessions.create(uuid7())
        proxy.flowing.clear()
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await db.request(token, "GET /a", rate=Rate(2, per=HOUR))
        assert not db.counters._counting._counted
        proxy.flowing.set()


async def test_many_at_a_time_and_some_cancelled(db: MultiDB):
    rate = Rate(1000, per=HOUR)
    token, _ = await db.sessions.create(uuid7())
    calls = [asyncio.create_task(db.request(token, "GET /a", rate=rate)) for _ in range(60)]
    await asyncio.sleep(0)
    for call in calls[::3]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    begun = [each for each in outcomes if not isinstance(each, BaseException)]
    assert len(begun) == 40
    assert all(each.allowed for each in begun)
    await counted(db, "GET /a", 40)


async def test_what_does_not_fit_is_refused(db: MultiDB):
    token, _ = await db.sessions.create(uuid7())
    rate = Rate(2, per=HOUR)
    wrong: list[tuple[Any, Any, Any, str]] = [
        *((each, rate, 1, "`endpoint` must be a text") for each in ("", "x" * 501, None, 7)),
        ("é" * 400, rate, 1, "would be longer"),
        *(("a", each, 1, "`rate` must be a Rate") for each in (7, "1/s", [None])),
        *(("a", rate, each, "`cost` must be") for each in (0, -1, 3, True)),
    ]
    for endpoint, limit, cost, message in wrong:
        for each in (token, "no token of ours"):
            with pytest.raises(DataError, match=message):
                await db.request(each, endpoint, rate=limit, cost=cost)
    assert (await db.request(token, "a}:{b\n ", rate=rate)).allowed
