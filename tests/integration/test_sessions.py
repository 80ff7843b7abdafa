"""Live sessions in Redis."""

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from multidb import (
    ConflictError,
    DataError,
    MultiDB,
    NewUser,
    NotFoundError,
    Session,
    TransactionError,
    UserSession,
    uuid7,
)
from multidb.settings import Settings

from .proxy import behind_proxy


async def keys(db: MultiDB) -> list[str]:
    return sorted([key.decode() async for key in db.redis.client.scan_iter(f"{db.settings.key_prefix}*")])


def index_of(db: MultiDB, user: UUID) -> str:
    return f"{db.settings.key_prefix}session:user:{{{user}}}"


def key_of(db: MultiDB, session: Session) -> str:
    return f"{index_of(db, session.user_id)}:{session.id}"


async def age(db: MultiDB, session: Session, by: timedelta) -> None:
    """Let a session have been touched, and its tokens rotated, so much earlier."""
    key, ms = key_of(db, session), -int(by.total_seconds() * 1000)
    held: dict[Any, Any] = await db.redis.client.hgetall(key)
    for field, value in held.items():
        if field == b"seen" or field.startswith(b"token:"):
            await db.redis.client.hincrby(key, field, -ms if int(value) < 0 else ms if int(value) else 0)
    await db.redis.client.zincrby(index_of(db, session.user_id), ms, str(session.id))


async def expire(db: MultiDB, session: Session) -> None:
    """Let a session's time be over."""
    await db.redis.client.zadd(index_of(db, session.user_id), {str(session.id): 1})


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


# --- tokens


@pytest.mark.redis
async def test_a_token_opens_its_session(db: MultiDB):
    user = uuid7()
    token, session = await db.sessions.create(user, device="phone", ip="::1", user_agent="curl/8")
    assert await db.sessions.get(token) == session
    assert (session.user_id, session.device, session.ip, session.user_agent) == (
        user,
        "phone",
        "::1",
        "curl/8",
    )
    assert session.expires_at - session.created_at == db.settings.session_lifetime
    assert session.last_seen_at == session.created_at


async def test_what_reads_as_text_is_kept_as_text(db: Any):
    token, session = await db.sessions.create(uuid7(), device=b"phone")
    assert session.device == "phone"
    assert await db.sessions.get(token) == session


async def test_neither_token_nor_its_secret_is_stored(db: MultiDB):
    token, session = await db.sessions.create(uuid7())
    new, _ = await db.sessions.rotate(token)
    held = repr(await keys(db)) + repr(await db.redis.client.hgetall(key_of(db, session)))
    for each in (token, new):
        secret = base64.urlsafe_b64decode(each)[32:56]
        assert each not in held
        assert secret.hex() not in held
        assert repr(secret)[2:-1] not in held


@pytest.mark.redis
async def test_keys_of_one_user_lie_under_one_hash_tag(db: MultiDB):
    user = uuid7()
    await db.sessions.create(user)
    await db.sessions.create(user)
    names = await keys(db)
    assert len(names) == 3
    assert all(name.startswith(index_of(db, user)) for name in names)


OTHER_STRINGS: dict[str, Any] = {
    "empty": "",
    "short": "A" * 95,
    "zeros": "A" * 96,
    "long": "A" * 10_000,
    "not ASCII": "é" * 96,
    "braces": "{}" * 48,
    "blanks": "a b\n" * 24,
    "surrogates": "\ud800" * 96,
    "random": secrets.token_urlsafe(72),
    "none": None,
    "number": 7,
    "uuid": uuid7(),
}


@pytest.mark.parametrize("token", OTHER_STRINGS.values(), ids=OTHER_STRINGS.keys())
async def test_any_other_string_opens_nothing_and_asks_nobody(multidb_settings: Settings, token: Any):
    db = MultiDB(multidb_settings)  # not open: a call that went to Redis would fail
    assert await db.sessions.get(token) is None
    assert await db.sessions.revoke(token) is False
    with pytest.raises(NotFoundError):
        await db.sessions.rotate(token)


async def test_a_token_altered_in_any_place_opens_nothing(db: MultiDB):
    token, session = await db.sessions.create(uuid7())
    for place in range(0, 96, 5):
        other = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert await db.sessions.get(other) is None
        with pytest.raises(NotFoundError):
            await db.sessions.rotate(other)
    assert await db.sessions.get(token) == session


async def test_a_token_of_another_secret_opens_nothing(multidb_settings: Settings, db: MultiDB):
    secret = type(multidb_settings.redis_url)("another key, as long as a key must be at least")
    token, _ = await db.sessions.create(uuid7())
    async with MultiDB(changed(multidb_settings, secret_key=secret)) as other:
        assert await other.sessions.get(token) is None
        assert await other.sessions.revoke(token) is False
    assert await db.sessions.get(token) is not None


@pytest.mark.parametrize(
    "values",
    [
        {"device": "x" * 201},
        {"device": "\ud800"},
        {"device": "a\0"},
        {"ip": "[::1]:80"},
        {"ip": "here\n"},
        {"user_agent": "x" * 1001},
        {"user_agent": "a\0"},
    ],
    ids=lambda values: next(iter(values)),
)
async def test_what_does_not_fit_is_refused_by_its_name(db: MultiDB, values: dict[str, str]):
    with pytest.raises(DataError, match=f"`{next(iter(values))}` of Session"):
        await db.sessions.create(uuid7(), **values)
    assert await keys(db) == []


@pytest.mark.parametrize(
    "id", ["{42}", "a b", None, 7, "x" * 10_000], ids=["brace", "blank", "none", "int", "long"]
)
async def test_what_is_no_id_is_refused(db: MultiDB, id: Any):
    for name, call in (
        ("user_id", lambda: db.sessions.create(id)),
        ("user_id", lambda: db.sessions.find(id)),
        ("user_id", lambda: db.sessions.revoke_all(id)),
        ("session_id", lambda: db.sessions.revoke_one(id, user_id=uuid7())),
        ("user_id", lambda: db.sessions.revoke_one(uuid7(), user_id=id)),
    ):
        with pytest.raises(DataError, match=f"`{name}` must be a UUID"):
            await call()
    assert await keys(db) == []


async def test_what_is_no_session_is_a_data_error(db: MultiDB):
    token, session = await db.sessions.create(uuid7())
    for about in (b'{"id": 1}', b"[]", b"{", b'{"device": 7}'):
        await db.redis.client.hset(key_of(db, session), "about", about)
        if about == b'{"id": 1}':
            assert await db.sessions.get(token) == session.model_copy(update={"device": None})
            continue
        with pytest.raises(DataError, match="Session"):
            await db.sessions.get(token)


@pytest.mark.redis
async def test_scripts_survive_a_script_flush(db: MultiDB):
    await db.sessions.create(uuid7())
    await db.redis.client.script_flush()
    token, session = await db.sessions.create(uuid7())
    assert await db.sessions.get(token) == session


# --- their end


@pytest.mark.redis
async def test_a_session_and_its_index_expire_unused(db: MultiDB):
    await db.sessions.create(uuid7())
    idle = db.settings.session_idle_timeout.total_seconds() * 1000
    for key in await keys(db):
        assert idle - 60_000 < await db.redis.client.pttl(key) <= idle


async def test_a_session_ends_at_its_lifetime_however_often_it_is_used(multidb_settings: Settings):
    short = changed(multidb_settings, session_lifetime=timedelta(seconds=100))
    async with MultiDB(short) as db:
        token, session = await db.sessions.create(uuid7())
        await age(db, session, timedelta(seconds=61))
        assert await db.sessions.get(token)
        for key in await keys(db):
            assert await db.redis.client.pttl(key) <= 100_000


async def test_a_session_ends_when_its_time_is_over(multidb_settings: Settings):
    short = changed(multidb_settings, session_lifetime=timedelta(milliseconds=1))
    async with MultiDB(short) as db:
        token, session = await db.sessions.create(uuid7())
        async with asyncio.timeout(30):
            while await db.sessions.get(token) is not None:
                pass
        assert await db.sessions.find(session.user_id) == []
        with pytest.raises(NotFoundError):
            await db.sessions.rotate(token)


async def test_what_the_index_calls_over_is_over(db: MultiDB):
    token, session = await db.sessions.create(uuid7())
    await expire(db, session)
    assert await db.sessions.get(token) is None


@pytest.mark.parametrize("call", ["create", "find", "get"])
async def test_the_index_loses_expired_sessions(db: MultiDB, call: str):
    token, session = await db.sessions.create(uuid7())
    # As if it had ended while another session kept the index alive.
    ended = str(uuid7())
    await db.redis.client.zadd(index_of(db, session.user_id), {ended: 1})
    await age(db, session, timedelta(minutes=2))
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "create": lambda: db.sessions.create(session.user_id),
        "find": lambda: db.sessions.find(session.user_id),
        "get": lambda: db.sessions.get(token),
    }
    await calls[call]()
    members = await db.redis.client.zrange(index_of(db, session.user_id), 0, -1)
    assert ended.encode() not in members
    assert str(session.id).encode() in members


@pytest.mark.redis
async def test_revoke_ends_one_session_only(db: MultiDB):
    user = uuid7()
    first, _ = await db.sessions.create(user)
    second, kept = await db.sessions.create(user)
    assert await db.sessions.revoke(first) is True
    assert await db.sessions.get(first) is None
    assert await db.sessions.get(second) == kept
    assert await db.sessions.revoke(first) is False
    assert await db.sessions.revoke_one(kept.id, user_id=uuid7()) is False
    assert await db.sessions.revoke_one(kept.id, user_id=user) is True
    assert await db.sessions.get(second) is None
    assert await keys(db) == []


@pytest.mark.redis
async def test_revoke_all_ends_every_session_but_one(db: MultiDB):
    user = uuid7()
    made = [await db.sessions.create(user) for _ in range(4)]
    other, _ = await db.sessions.create(uuid7())
    assert await db.sessions.revoke_all(user, except_=made[2][1].id) == 3
    assert [bool(await db.sessions.get(token)) for token, _ in made] == [False, False, True, False]
    assert await db.sessions.find(user) == [made[2][1]]
    assert await db.sessions.revoke_all(user) == 1
    assert await db.sessions.revoke_all(user) == 0
    assert await db.sessions.get(made[2][0]) is None
    assert await db.sessions.get(other) is not None


async def test_a_kept_session_that_is_not_live_does_not_come_to_life(db: MultiDB):
    user = uuid7()
    token, session = await db.sessions.create(user)
    await db.sessions.revoke_all(user)
    assert await db.sessions.revoke_all(user, except_=session.id) == 0
    assert await db.sessions.get(token) is None
    assert await db.sessions.revoke_all(user, except_=uuid7()) == 0


async def test_a_lost_index_opens_nothing(db: MultiDB):
    """What Redis evicts must end sessions, and never bring back those that were revoked."""
    token, session = await db.sessions.create(uuid7())
    await db.redis.client.delete(index_of(db, session.user_id))
    assert await db.sessions.get(token) is None
    await db.sessions.create(session.user_id)
    assert await db.sessions.get(token) is None


@pytest.mark.redis
async def test_find_passes_over_a_session_that_was_evicted(db: MultiDB):
    user = uuid7()
    _, lost = await db.sessions.create(user)
    _, kept = await db.sessions.create(user)
    await db.redis.client.delete(key_of(db, lost))
    assert await db.sessions.find(user) == [kept]
    assert await db.redis.client.zcard(index_of(db, user)) == 1


# --- how many


@pytest.mark.redis
async def test_the_oldest_make_room(multidb_settings: Settings):
    async with MultiDB(changed(multidb_settings, session_limit=3)) as db:
        user = uuid7()
        made = [await db.sessions.create(user) for _ in range(3)]
        # The first is used, so the second is the one that has been idle for longest.
        await age(db, made[1][1], timedelta(minutes=1))
        made.append(await db.sessions.create(user))
        assert [bool(await db.sessions.get(token)) for token, _ in made] == [True, False, True, True]
        assert len(await db.sessions.find(user)) == 3
        assert len(await keys(db)) == 4
    async with MultiDB(changed(multidb_settings, session_limit=1)) as db:
        _, session = await db.sessions.create(user)
        assert await db.sessions.find(user) == [session]


@pytest.mark.redis
async def test_the_limit_holds_for_any_number_at_once(multidb_settings: Settings):
    async with MultiDB(changed(multidb_settings, session_limit=5)) as db:
        user = uuid7()
        made = await asyncio.gather(*(db.sessions.create(user) for _ in range(40)))
        live = await asyncio.gather(*(db.sessions.get(token) for token, _ in made))
        assert sum(each is not None for each in live) == 5


# --- touching


@pytest.mark.redis
async def test_a_touch_keeps_a_session_alive_and_is_seen(db: MultiDB):
    token, session = await db.sessions.create(uuid7())
    await age(db, session, timedelta(days=6))
    touched = await db.sessions.get(token)
    assert touched is not None
    assert touched.last_seen_at >= session.last_seen_at
    idle = db.settings.session_idle_timeout.total_seconds() * 1000
    assert await db.redis.client.pttl(key_of(db, session)) > idle - 60_000
    assert await db.sessions.find(session.user_id) == [touched]


async def test_touches_within_the_interval_write_nothing(db: MultiDB):
    token, session = await db.sessions.create(uuid7())
    await age(db, session, timedelta(minutes=2))
    held = []
    for _ in range(3):
        held.append([await db.redis.client.dump(key) for key in await keys(db)])
        await asyncio.gather(*(db.sessions.get(token) for _ in range(20)))
    assert held[0] != held[1] == held[2]


async def test_a_short_idle_timeout_is_touched_in_time(multidb_settings: Settings):
    short = changed(multidb_settings, session_idle_timeout=timedelta(seconds=20))
    async with MultiDB(short) as db:
        token, session = await db.sessions.create(uuid7())
        await age(db, session, timedelta(seconds=11))
        assert await db.sessions.get(token)
        assert await db.redis.client.pttl(key_of(db, session)) > 15_000


# --- rotating


@pytest.mark.redis
async def test_both_tokens_open_the_session_for_a_while(db: MultiDB):
    old, session = await db.sessions.create(uuid7(), device="phone")
    new, same = await db.sessions.rotate(old)
    assert (new != old, same) == (True, session)
    assert await db.sessions.get(old) == await db.sessions.get(new) == session
    await age(db, session, db.settings.session_grace)
    assert (await db.sessions.get(new)) is not None


@pytest.mark.parametrize("call", ["get", "rotate"])
async def test_a_rotated_token_used_after_its_time_ends_the_session(
    db: MultiDB, caplog: pytest.LogCaptureFixture, call: str
):
    old, session = await db.sessions.create(uuid7())
    new, _ = await db.sessions.rotate(old)
    newest, _ = await db.sessions.rotate(new)
    other, _ = await db.sessions.create(session.user_id)
    await age(db, session, db.settings.session_grace)
    if call == "get":
        assert await db.sessions.get(old) is None
    else:
        with pytest.raises(NotFoundError):
            await db.sessions.rotate(old)
    assert [await db.sessions.get(token) for token in (newest, new, old)] == [None, None, None]
    assert await db.sessions.get(other) is not None
    assert str(session.id) in caplog.text
    assert old not in caplog.text


async def test_a_token_of_long_ago_is_told_too(db: MultiDB):
    """Retired tokens are forgotten, and still known for what they are."""
    old, session = await db.sessions.create(uuid7())
    token = old
    for _ in range(40):
        token, _ = await db.sessions.rotate(token)
        await age(db, session, db.settings.session_grace)
    fields: list[Any] = await db.redis.client.hkeys(key_of(db, session))
    assert len([field for field in fields if field.startswith(b"token:")]) == 2
    assert await db.sessions.get(token) is not None
    assert await db.sessions.get(old) is None
    assert await db.sessions.get(token) is None


async def test_a_token_rotated_twice_in_its_grace_gives_two_that_last(db: MultiDB):
    """An answer was lost, or two requests met: neither may sign the user out later."""
    old, session = await db.sessions.create(uuid7())
    tokens = [token for token, _ in await asyncio.gather(*(db.sessions.rotate(old) for _ in range(3)))]
    assert len(set(tokens)) == 3
    await age(db, session, db.settings.session_grace)
    for token in tokens:
        assert await db.sessions.get(token) is not None


async def test_tokens_in_use_have_a_limit(db: MultiDB):
    old, session = await db.sessions.create(uuid7())
    with pytest.raises(ConflictError, match="too often"):
        for _ in range(20):
            await db.sessions.rotate(old)
    assert await db.sessions.get(old) == session


async def test_tokens_that_nobody_kept_do_not_use_up_the_limit(db: MultiDB):
    """Of two requests that met, one answer is kept."""
    token, session = await db.sessions.create(uuid7())
    for _ in range(20):
        _, (token, _) = await asyncio.gather(db.sessions.rotate(token), db.sessions.rotate(token))
        await age(db, session, 2 * db.settings.session_grace)
    assert await db.sessions.get(token) is not None


# --- their history


async def written(db: MultiDB) -> None:
    """Wait until all that may be written of the history has been."""
    await db.sessions._history._writing.over()


async def history(db: MultiDB, user: UUID) -> list[UserSession]:
    return list((await db.user_sessions.find(user_id=user, order_by="started_at")).items)


@pytest.fixture
async def user(db: MultiDB) -> UUID:
    return (await db.users.add(NewUser(email="ada@example.com", name="Ada"))).id


async def test_what_began_and_how_it_ended_is_remembered(db: MultiDB, multidb_settings: Settings, user: UUID):
    async with MultiDB(multidb_settings) as other:
        made = [await other.sessions.create(user, device=str(n), ip="::1", user_agent="x") for n in range(7)]
        await other.sessions.revoke(made[0][0])
        await other.sessions.revoke_one(made[1][1].id, user_id=user)
        await expire(other, made[2][1])
        await other.sessions.find(user)
        await other.sessions.rotate(made[3][0])
        await age(other, made[3][1], other.settings.session_grace)
        assert await other.sessions.get(made[3][0]) is None
        await other.sessions.revoke_all(user, except_=made[6][1].id)
    rows = await history(db, user)
    assert [row.id for row in rows] == [session.id for _, session in made]
    for row, (_, session) in zip(rows, made, strict=True):
        assert (row.device, row.ip, row.user_agent) == (session.device, "::1", "x")
        assert row.started_at == session.created_at
        assert row.ended_at is None or row.end_reason
    reasons = [row.end_reason for row in rows]
    assert reasons == ["signed out", "revoked", "expired", "token reused", "revoked", "revoked", None]


async def test_the_session_that_made_room_is_remembered_as_such(
    db: MultiDB, multidb_settings: Settings, user: UUID
):
    async with MultiDB(changed(multidb_settings, session_limit=1)) as other:
        for _ in range(3):
            await other.sessions.create(user)
    assert [row.end_reason for row in await history(db, user)] == ["displaced", "displaced", None]


async def test_a_login_in_the_transaction_that_adds_the_user_is_remembered(multidb_settings: Settings):
    async with MultiDB(multidb_settings) as db:
        async with db.transaction():
            user = await db.users.add(NewUser(email="a@b", name="A"))
            await db.sessions.create(user.id)
            await written(db)
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():
                gone = await db.users.add(NewUser(email="b@b", name="B"))
                await db.sessions.create(gone.id)
                await written(db)
                raise ZeroDivisionError
    async with MultiDB(multidb_settings) as db:
        assert len(await history(db, user.id)) == 1
        assert await db.user_sessions.count() == 1


async def test_a_login_in_another_tasks_transaction_is_refused_before_it_begins(db: MultiDB):
    async with db.transaction():
        with pytest.raises(TransactionError):
            await asyncio.create_task(db.sessions.create(uuid7()))
    assert await keys(db) == []


async def test_one_user_who_does_not_exist_takes_no_history_from_the_others(
    db: MultiDB, multidb_settings: Settings, user: UUID, caplog: pytest.LogCaptureFixture
):
    async with MultiDB(multidb_settings) as other:
        await asyncio.gather(*(other.sessions.create(each) for each in (user, uuid7(), user)))
        await written(other)
        assert other.sessions._history.lost == 1
        assert not other.sessions._history._noted
    assert len(await history(db, user)) == 2
    assert "missing from the history: 1" in caplog.text


async def test_closing_waits_for_postgres_to_take_the_history(
    db: MultiDB, multidb_settings: Settings, user: UUID
):
    async with behind_proxy(multidb_settings, "postgres") as (proxy, settings):
        other = MultiDB(settings)
        await other.open()
        cut, passed = asyncio.Event(), proxy.answer

        def answer(data: bytes) -> None:
            cut.set()

        proxy.answer = answer
        await other.sessions.create(user)
        await cut.wait()
        closing = asyncio.create_task(other.close())
        cut.clear()
        await cut.wait()
        assert not closing.done()
        proxy.answer = passed
        await closing
    assert len(await history(db, user)) == 1


async def test_a_session_that_the_history_missed_is_entered_at_its_first_touch(
    db: MultiDB, multidb_settings: Settings, user: UUID
):
    token, session = await db.sessions.create(user)
    async with asyncio.timeout(30):
        while not await db.user_sessions.exists(id=session.id):
            pass
    await db.user_sessions.delete(session.id)
    async with MultiDB(multidb_settings) as other:
        await other.redis.client.hincrby(key_of(db, session), "seen", -61_000)
        await other.redis.client.hincrby(key_of(db, session), "created", -61_000)
        assert await other.sessions.get(token) is not None
        assert await other.sessions.get(token) is not None
    assert [row.id for row in await history(db, user)] == [session.id]


async def test_the_end_may_be_written_before_the_beginning(
    db: MultiDB, multidb_settings: Settings, user: UUID, monkeypatch: pytest.MonkeyPatch
):
    async with MultiDB(multidb_settings) as slow, MultiDB(multidb_settings) as quick:
        add, may_add = slow.user_sessions.add, asyncio.Event()

        async def later(new: Any) -> Any:
            await may_add.wait()
            return await add(new)

        monkeypatch.setattr(slow.user_sessions, "add", later)
        token, session = await slow.sessions.create(user, device="phone")
        await quick.sessions.revoke(token)
        async with asyncio.timeout(30):
            while not await db.user_sessions.exists(id=session.id):
                pass
        may_add.set()
    [row] = await history(db, user)
    assert (row.device, row.end_reason) == ("phone", "signed out")


async def test_a_cancelled_login_leaves_the_history_of_others(
    db: MultiDB, multidb_settings: Settings, user: UUID
):
    async with MultiDB(multidb_settings) as other:
        tasks = [asyncio.create_task(other.sessions.create(user)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    ids = {each[1].id for each in done if isinstance(each, tuple)}
    assert len(ids) >= 5
    assert {row.id for row in await history(db, user)} == ids
