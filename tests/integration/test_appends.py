"""Appends that meet share a message, and nothing else; what is acknowledged is stored, once."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS

from multidb import (
    AlreadyExistsError,
    ConstraintError,
    DataError,
    MultiDB,
    NotOpenError,
    SystemLog,
    UnavailableError,
    uuid7,
)
from multidb.settings import Settings
from multidb.stores.mongo.documents import Encoded
from tests.integration.mongo import lossy

pytestmark = pytest.mark.mongo


def entry(n: int = 0, **fields: Any) -> SystemLog:
    return SystemLog(**{"level": "info", "service": "s", "message": f"entry {n}", **fields})


def unchecked(**fields: Any) -> SystemLog:
    """Return an entry that no model would take."""
    return entry().model_copy(update=fields)


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


#: What each of them is told of, and how.
BAD: dict[str, tuple[SystemLog, type[Exception], str]] = {
    "oversized": (unchecked(context={"text": "x" * (16 << 20)}), DataError, "`context`, mostly, makes"),
    "oversized text": (unchecked(message="x" * (17 << 20)), DataError, "`message`, mostly, makes"),
    "dollar": (entry(context={"a": [{"$where": 1}]}), DataError, "`context`: a key in it begins with `\\$`"),
    "dot": (entry(context={"a.b": 1}), DataError, "`context`: a key in it .* holds a dot"),
    "null in a key": (entry(context={"a\0": 1}), DataError, "`context`: a key in it .* null character"),
    "key of another type": (entry(context={"a": {1: 2}}), DataError, "`context`: a key in it is no text"),
    "too deep": (entry(context=deep(101)), DataError, "`context`: nested more than 100 deep"),
    "lone surrogate": (unchecked(message="\ud800"), DataError, "`message`: a text holds code points"),
    "surrogate within": (entry(context={"a": ["\udfff"]}), DataError, "`context`: a text holds code points"),
    "surrogate in a key": (entry(context={"\udfff": 1}), DataError, "`context`: a text holds code points"),
    "65 bits": (entry(context={"a": 2**63}), DataError, "`context`: a whole number does not fit"),
    "before the year 1": (
        entry(context={"a": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))}),
        DataError,
        "`context`: .* a moment is none that UTC has",
    ),
    "decimal": (
        entry(context={"a": {"b": Decimal(1)}}),
        DataError,
        "`context`: MongoDB has no type for Decimal",
    ),
    "set": (entry(context={"a": {1}}), DataError, "`context`: MongoDB has no type for set"),
    "wrong type": (unchecked(service=7), ConstraintError, "fields? service"),
    "wrong value": (unchecked(level="grave"), ConstraintError, "field level"),
    "missing": (unchecked(user_id="nobody"), ConstraintError, "field user_id"),
}


@pytest.fixture
def messages(db: MultiDB, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many documents each message to MongoDB had."""
    seen: list[int] = []
    insert_many = db.mongo.insert_many

    async def recorded(collection: str, documents: Sequence[Encoded], **how: Any) -> Any:
        seen.append(len(documents))
        return await insert_many(collection, documents, **how)

    monkeypatch.setattr(db.mongo, "insert_many", recorded)
    return seen


async def stored(db: MultiDB) -> dict[Any, SystemLog]:
    return {each.id: each for each in await db.system_logs.find(limit=1000)}


async def test_appends_that_meet_become_few_messages(db: MultiDB, messages: list[int]):
    entries = [entry(n, context={"n": n, "nothing": None}) for n in range(300)]
    ids = await asyncio.gather(*map(db.system_logs.append, entries))
    assert ids == [each.id for each in entries]
    assert await stored(db) == {each.id: each for each in entries}
    assert sum(messages) == 300
    assert len(messages) < 12


async def test_a_lone_append_goes_out_at_once_and_alone(db: MultiDB, messages: list[int]):
    for n in range(3):
        await db.system_logs.append(entry(n))
    assert messages == [1, 1, 1]


async def test_one_that_does_not_fit_takes_nothing_from_the_others(db: MultiDB):
    good = [entry(n) for n in range(200)]
    bad = [each for each, *_ in BAD.values()]
    mixed = [each for n, one in enumerate(good) for each in (one, *bad[n // 10 : n // 10 + 1][: n % 10 == 0])]
    outcomes = await asyncio.gather(*map(db.system_logs.append, mixed), return_exceptions=True)
    by_entry = {id(each): outcome for each, outcome in zip(mixed, outcomes, strict=True)}
    assert [by_entry[id(each)] for each in good] == [each.id for each in good]
    for each, error, told in BAD.values():
        outcome = by_entry[id(each)]
        assert type(outcome) is error
        with pytest.raises(error, match=told):
            raise outcome
    assert await stored(db) == {each.id: each for each in good}


async def test_what_does_not_fit_is_one_error_that_names_the_field(db: MultiDB):
    for bad, error, told in BAD.values():
        with pytest.raises(error, match=f"system_logs.append: .*{told}") as caught:
            await db.system_logs.append(bad)
        assert type(caught.value) is error
    assert await stored(db) == {}


async def test_an_id_that_is_taken_is_told_to_whoever_brought_it(db: MultiDB, messages: list[int]):
    there = [entry(n) for n in range(5)]
    await asyncio.gather(*map(db.system_logs.append, there))
    again = [each.model_copy(update={"message": "another"}) for each in there]
    new = [entry(n) for n in range(100)]
    twice = [new[50], new[51].model_copy(update={"message": "another"})]
    outcomes = await asyncio.gather(
        *map(db.system_logs.append, [*new, *again, *twice]), return_exceptions=True
    )
    assert outcomes[:100] == [each.id for each in new]
    for outcome in outcomes[100:]:
        assert isinstance(outcome, AlreadyExistsError)
        assert (outcome.constraint, outcome.columns) == ("_id_", ("id",))
        assert outcome.operation == "system_logs.append"
    assert len({id(outcome) for outcome in outcomes[100:]}) == 7
    assert await stored(db) == {each.id: each for each in (*there, *new)}
    assert max(messages) > 50


async def test_cancelled_callers_leave_the_others_their_entries(db: MultiDB):
    entries = [entry(n) for n in range(200)]
    tasks = [asyncio.create_task(db.system_logs.append(each)) for each in entries]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    found = await stored(db)
    for n, (each, outcome) in enumerate(zip(entries, outcomes, strict=True)):
        assert isinstance(outcome, asyncio.CancelledError) if n % 3 == 0 else outcome == each.id
        assert n % 3 == 0 or found[each.id] == each
    await db.mongo.under_way.none()
    usage = db.mongo.pool_usage()
    assert usage is not None
    assert usage.in_use == 0


async def test_closing_ends_what_was_begun(multidb_settings: Settings):
    db = MultiDB(multidb_settings)
    await db.open()
    tasks = [asyncio.create_task(db.system_logs.append(entry(n))) for n in range(200)]
    await asyncio.sleep(0)
    await db.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    acknowledged = {outcome for outcome in outcomes if not isinstance(outcome, BaseException)}
    assert all(isinstance(each, NotOpenError) for each in outcomes if isinstance(each, BaseException))
    async with db:
        assert acknowledged <= set(await stored(db))


@pytest.mark.parametrize(("retries", "losses"), [("true", 2), ("false", 1)])
async def test_an_answer_that_is_lost_stores_nothing_twice(
    multidb_settings: Settings, retries: str, losses: int
):
    """Without retryable writes of the driver's, and where those have come to their end."""
    async with lossy(multidb_settings, retryWrites=retries) as (settings, network), MultiDB(settings) as db:
        taken = [entry(n) for n in range(3)]
        await db.system_logs.append_many(taken)
        again = [each.model_copy(update={"message": "another"}) for each in taken]
        new = [entry(n) for n in range(30)]
        message = [db.system_logs._encoded(each, "test") for each in (*again, *new, new[7])]
        network.losses = losses
        refused = await db.mongo.insert_many("system_logs", message, operation="test")
        assert network.losses == 0
        assert set(refused) == {0, 1, 2, 33}
        assert all(isinstance(each, AlreadyExistsError) for each in refused.values())

        network.losses = losses
        last = entry()
        assert await db.system_logs.append(last) == last.id
        network.losses = losses
        with pytest.raises(AlreadyExistsError):
            await db.system_logs.append(again[0])
        assert network.losses == 0
        assert await stored(db) == {each.id: each for each in (*taken, *new, last)}


async def test_an_answer_lost_time_and_again_is_unavailable(multidb_settings: Settings):
    async with lossy(multidb_settings, retryWrites="false") as (settings, network), MultiDB(settings) as db:
        network.losses = 100
        new = entry()
        with pytest.raises(UnavailableError) as caught:
            await db.system_logs.append(new)
        assert caught.value.retryable
        assert network.sent == 2
        network.losses = 0
        with pytest.raises(AlreadyExistsError):
            await db.system_logs.append(new)
        assert await stored(db) == {new.id: new}


async def test_gets_that_meet_become_few_queries(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    entries = [entry(n, context={"n": [n]}) for n in range(200)]
    await asyncio.gather(*map(db.system_logs.append, entries))
    queries: list[Mapping[str, Any]] = []
    for name in ("find", "find_one"):
        call = getattr(db.mongo, name)

        def recorded(collection: str, query: Mapping[str, Any], *, _call: Any = call, **how: Any) -> Any:
            queries.append(query)
            return _call(collection, query, **how)

        monkeypatch.setattr(db.mongo, name, recorded)
    asked = [*(each.id for each in entries), uuid7(), entries[7].id]
    found = await asyncio.gather(*map(db.system_logs.get, asked))
    assert found == [*entries, None, entries[7]]
    assert len(queries) < 12
    assert found[7] is not None
    found[7].context["n"].append("changed")
    assert found[-1] == entries[7]


async def test_one_that_does_not_fit_its_model_is_told_to_who_asked_for_it(db: MultiDB):
    entries = [entry(n) for n in range(50)]
    await asyncio.gather(*map(db.system_logs.append, entries))
    unfit, out_of_range = uuid7(), uuid7()
    common = {"timestamp": datetime.now(UTC), "level": "info", "service": "s", "message": "m", "context": {}}
    await db.mongo.database["system_logs"].insert_many(
        [
            {**common, "_id": unfit, "level": "grave"},
            # A moment that MongoDB has and Python has not.
            {**common, "_id": out_of_range, "timestamp": DatetimeMS(2**53)},
        ],
        bypass_document_validation=True,
    )
    asked = [*(each.id for each in entries), unfit, out_of_range]
    outcomes = await asyncio.gather(*map(db.system_logs.get, asked), return_exceptions=True)
    assert outcomes[:50] == entries
    for outcome, field in zip(outcomes[50:], ("level", "timestamp"), strict=True):
        assert isinstance(outcome, DataError)
        assert f"`{field}` of SystemLog" in str(outcome)
