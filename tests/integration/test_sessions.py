"""Live sessions in Redis."""

import asyncio
import base64
import secrets
from datetime import timedelta

import pytest

from multidb import DataError, MultiDB, uuid7
from multidb.settings import Settings


async def keys(db: MultiDB) -> list[str]:
    return sorted([key.decode() async for key in db.redis.client.scan_iter(f"{db.settings.key_prefix}*")])


@pytest.mark.redis
async def test_a_token_opens_its_session(db: MultiDB):
    user = uuid7()
    token, session = await db.sessions.create(user, device="phone")
    assert await db.sessions.get(token) == session
    assert (session.user_id, session.device) == (user, "phone")
    assert session.expires_at - session.created_at == db.settings.session_lifetime


async def test_neither_token_nor_its_secret_is_stored(db: MultiDB):
    token, _ = await db.sessions.create(uuid7())
    secret = base64.urlsafe_b64decode(token)[16:]
    held = repr([await db.redis.client.dump(key) for key in await keys(db)]) + repr(await keys(db))
    assert token not in held
    assert secret.hex() not in held
    assert repr(secret)[2:-1] not in held


@pytest.mark.redis
async def test_keys_of_one_user_lie_under_one_hash_tag(db: MultiDB):
    user = uuid7()
    await db.sessions.create(user)
    await db.sessions.create(user)
    names = await keys(db)
    assert len(names) == 3
    assert all(name.startswith(f"{db.settings.key_prefix}session:user:{{{user}}}") for name in names)


@pytest.mark.redis
async def test_revoke_ends_one_session_only(db: MultiDB):
    user = uuid7()
    first, _ = await db.sessions.create(user)
    second, kept = await db.sessions.create(user)
    assert await db.sessions.revoke(first) is True
    assert await db.sessions.get(first) is None
    assert await db.sessions.get(second) == kept
    assert await db.sessions.revoke(first) is False
    assert await db.sessions.revoke(second) is True
    assert await keys(db) == []


@pytest.mark.redis
async def test_sessions_and_their_index_expire(db: MultiDB):
    await db.sessions.create(uuid7())
    lifetime = db.settings.session_lifetime.total_seconds() * 1000
    for key in await keys(db):
        assert lifetime - 60_000 < await db.redis.client.pttl(key) <= lifetime


@pytest.mark.redis
async def test_the_index_loses_expired_sessions(multidb_settings: Settings):
    short = multidb_settings.model_copy(update={"session_lifetime": timedelta(milliseconds=1)})
    user = uuid7()
    async with MultiDB(short) as brief, MultiDB(multidb_settings) as db:
        token, _ = await brief.sessions.create(user)
        index = f"{multidb_settings.key_prefix}session:user:{{{user}}}"
        # As if it had ended while another session kept the index alive.
        await db.redis.client.zadd(index, {"ended": 1})
        await db.sessions.create(user)
        members = await db.redis.client.zrange(index, 0, -1)
        assert b"ended" not in members
        async with asyncio.timeout(10):
            while await brief.sessions.get(token) is not None:
                pass


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "é" * 64,
        "{}" * 32,
        "a b\n" * 16,
        "A" * 63,
        "A" * 64,
        "A" * 10_000,
        pytest.param(secrets.token_urlsafe(48), id="random"),
    ],
)
async def test_any_other_string_opens_nothing(db: MultiDB, token: str):
    assert await db.sessions.get(token) is None
    assert await db.sessions.revoke(token) is False


async def test_a_token_of_another_secret_opens_nothing(multidb_settings: Settings, db: MultiDB):
    secret = type(multidb_settings.redis_url)("another key, as long as a key must be at least")
    token, _ = await db.sessions.create(uuid7())
    async with MultiDB(multidb_settings.model_copy(update={"secret_key": secret})) as other:
        assert await other.sessions.get(token) is None
        assert await other.sessions.revoke(token) is False
    assert await db.sessions.get(token) is not None


async def test_a_device_that_is_too_long_is_refused(db: MultiDB):
    with pytest.raises(DataError, match="`device` of Session"):
        await db.sessions.create(uuid7(), device="x" * 201)
    assert await keys(db) == []


async def test_what_is_no_session_is_a_data_error(db: MultiDB):
    token, _ = await db.sessions.create(uuid7())
    [key] = [each for each in await keys(db) if each.count(":") > 3]
    await db.redis.client.set(key, b'{"id": 1}')
    with pytest.raises(DataError, match="of Session"):
        await db.sessions.get(token)


@pytest.mark.redis
async def test_scripts_survive_a_script_flush(db: MultiDB):
    await db.sessions.create(uuid7())
    await db.redis.client.script_flush()
    token, session = await db.sessions.create(uuid7())
    assert await db.sessions.get(token) == session
