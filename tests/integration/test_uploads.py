"""Uploads: chunks in any order, once or again, and a document at the end that has just those bytes."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from multidb import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    MultiDB,
    NewCompany,
    NewDocument,
    NewUser,
    NotFoundError,
    uuid7,
)
from multidb.settings import Settings

CONTENT = random.Random(7).randbytes(10_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


async def keys(db: MultiDB) -> list[str]:
    return [key.decode() async for key in db.redis.client.scan_iter(f"{db.settings.key_prefix}temp:*")]


@pytest.fixture
async def document(db: MultiDB) -> NewDocument:
    """What the uploads of this test will be."""
    user = await db.users.add(NewUser(email="a@b", name="A"))
    company = await db.companies.add(NewCompany(name="A", slug="a"))
    return NewDocument(company_id=company.id, owner_id=user.id, title="Notes", content_hash=SHA256)


def another(document: NewDocument, **values: Any) -> NewDocument:
    return document.model_copy(update={"id": uuid7(), **values})


async def uploaded(db: MultiDB, document: NewDocument) -> UUID:
    upload = await db.uploads.begin(document, size=len(CONTENT))
    await db.uploads.append(upload.id, CONTENT)
    return upload.id


class Pail:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    async def __call__(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            self.chunks.append(chunk)


async def test_chunks_in_order_become_a_document(db: MultiDB, document: NewDocument):
    upload = await db.uploads.begin(document, size=len(CONTENT))
    assert (upload.id, upload.user_id, upload.size) == (document.id, document.owner_id, 10_000)
    assert [
        await db.uploads.append(upload.id, CONTENT[start : start + 3000]) for start in range(0, 10_000, 3000)
    ] == [3000, 6000, 9000, 10_000]
    pail = Pail()
    stored = await db.uploads.complete(upload.id, sink=pail)
    assert b"".join(pail.chunks) == CONTENT
    assert [len(chunk) for chunk in pail.chunks] == [3000, 3000, 3000, 1000]
    assert (stored.id, stored.status, stored.size, stored.content_hash) == (
        document.id,
        "uploaded",
        10_000,
        SHA256,
    )
    assert await db.documents.fetch(document.id) == stored
    assert await keys(db) == []
    # The answer was lost: the same again.
    assert await db.uploads.complete(upload.id, sink=pail) == stored
    assert len(pail.chunks) == 4


@pytest.mark.parametrize("seed", range(5))
async def test_chunks_of_any_size_in_any_order_and_again(db: MultiDB, document: NewDocument, seed: int):
    chance = random.Random(seed)
    cuts = sorted({0, 10_000, *(chance.randrange(10_000) for _ in range(30))})
    parts = [(start, CONTENT[start:end]) for start, end in pairwise(cuts)]
    sent = [*parts, *chance.sample(parts, 10)]
    chance.shuffle(sent)
    upload = await db.uploads.begin(document, size=len(CONTENT))
    await asyncio.gather(*(db.uploads.append(upload.id, chunk, offset=start) for start, chunk in sent))
    pail = Pail()
    await db.uploads.complete(upload.id, sink=pail)
    assert b"".join(pail.chunks) == CONTENT


async def test_an_upload_is_resumed_where_it_has_gaps(db: MultiDB, document: NewDocument):
    upload = await db.uploads.begin(document, size=len(CONTENT))
    assert await db.uploads.gaps(upload.id) == [(0, 10_000)]
    for start in (1000, 4000, 9000, 0):
        await db.uploads.append(upload.id, CONTENT[start : start + 1000], offset=start)
    held = await db.uploads.get(upload.id)
    assert held is not None
    assert (held.received, held.next_offset, held.expires_at) == (4000, 2000, upload.expires_at)
    gaps = await db.uploads.gaps(upload.id)
    assert gaps == [(2000, 4000), (5000, 9000)]
    with pytest.raises(ConflictError, match="6000 bytes of the upload are missing"):
        await db.uploads.complete(upload.id)
    for start, end in gaps:
        await db.uploads.append(upload.id, CONTENT[start:end], offset=start)
    assert await db.uploads.gaps(upload.id) == []
    assert (await db.uploads.complete(upload.id)).content_hash == SHA256


@pytest.mark.parametrize(
    ("offset", "length"), [(1000, 1000), (1500, 100), (900, 101), (1999, 1), (0, 3000), (1000, 999)]
)
async def test_other_bytes_in_the_place_of_what_is_there_are_refused(
    db: MultiDB, document: NewDocument, offset: int, length: int
):
    upload = await db.uploads.begin(document, size=len(CONTENT))
    await db.uploads.append(upload.id, b"x" * 1000, offset=1000)
    with pytest.raises(ConflictError, match="other bytes"):
        await db.uploads.append(upload.id, b"y" * length, offset=offset)
    held = await db.uploads.get(upload.id)
    assert held is not None
    assert held.received == 1000
    assert await db.uploads.append(upload.id, b"x" * 1000, offset=1000) == 0
    for start in (0, 2000):
        await db.uploads.append(upload.id, b"y" * 1000, offset=start)


# --- what does not fit


async def test_what_has_another_hash_becomes_no_document(db: MultiDB, document: NewDocument):
    upload = await db.uploads.begin(document, size=4)
    await db.uploads.append(upload.id, b"fake")
    told: list[Exception] = []

    async def sink(chunks: AsyncIterator[bytes]) -> None:
        try:
            async for _ in chunks:
                pass
        except DataError as error:
            told.append(error)
            raise

    with pytest.raises(DataError, match="`content_hash`"):
        await db.uploads.complete(upload.id, sink=sink)
    assert len(told) == 1
    assert await db.documents.get(document.id) is None
    assert await db.uploads.get(upload.id) is not None


async def test_a_sink_that_does_not_read_on_makes_no_document(db: MultiDB, document: NewDocument):
    id = await uploaded(db, document)

    async def satisfied(chunks: AsyncIterator[bytes]) -> None:
        await anext(chunks)

    async def broken(chunks: AsyncIterator[bytes]) -> None:
        await anext(chunks)
        raise OSError

    with pytest.raises(DataError, match="to their end"):
        await db.uploads.complete(id, sink=satisfied)
    with pytest.raises(OSError):
        await db.uploads.complete(id, sink=broken)
    assert await db.documents.get(document.id) is None
    assert (await db.uploads.complete(id)).size == 10_000


async def test_a_chunk_that_was_damaged_is_refused(db: MultiDB, document: NewDocument):
    upload = await db.uploads.begin(document, size=len(CONTENT))
    await db.uploads.append(upload.id, CONTENT[:9], checksum=hashlib.sha256(CONTENT[:9]).hexdigest().upper())
    for checksum in (SHA256, "", "é"):
        with pytest.raises(DataError, match="`checksum`"):
            await db.uploads.append(upload.id, CONTENT[9:], checksum=checksum)
    held = await db.uploads.get(upload.id)
    assert held is not None
    assert held.received == 9


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"chunk": b""}, "chunk"),
        ({"chunk": b"x" * 101}, "chunk"),
        ({"chunk": "text"}, "chunk"),
        ({"chunk": None}, "chunk"),
        ({"chunk": b"x" * 11}, "chunk"),
        ({"chunk": b"x", "offset": 10}, "chunk"),
        ({"chunk": b"x", "offset": 2**52}, "chunk"),
        ({"chunk": b"x", "offset": -1}, "offset"),
        ({"chunk": b"x", "offset": 2**80}, "offset"),
        ({"chunk": b"x", "offset": "0"}, "offset"),
        ({"chunk": b"x", "offset": True}, "offset"),
        ({"chunk": b"x", "checksum": 7}, "checksum"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_chunk_that_does_not_fit_is_refused(
    multidb_settings: Settings, db: MultiDB, document: NewDocument, values: dict[str, Any], field: str
):
    async with MultiDB(multidb_settings.model_copy(update={"upload_chunk_limit": 100})) as small:
        upload = await small.uploads.begin(document, size=10)
        with pytest.raises(DataError, match=f"`{field}`"):
            await small.uploads.append(upload.id, **values)
        held = await small.uploads.get(upload.id)
        assert held is not None
        assert held.received == 0


@pytest.mark.parametrize("size", [0, -1, 1001, 2**80, "1", None, True, 1.0], ids=str)
async def test_a_size_that_may_not_be_is_refused(
    multidb_settings: Settings, db: MultiDB, document: NewDocument, size: Any
):
    async with MultiDB(multidb_settings.model_copy(update={"upload_size_limit": 1000})) as small:
        with pytest.raises(DataError, match="`size`"):
            await small.uploads.begin(document, size=size)
        with pytest.raises(DataError, match="`size`"):
            await small.uploads.begin(another(document, size=11), size=10)
        assert await keys(db) == []


async def test_a_user_has_so_many_under_way(multidb_settings: Settings, document: NewDocument):
    limits = {"upload_limit": 3, "upload_total_limit": 100}
    async with MultiDB(multidb_settings.model_copy(update=limits)) as db:
        begun = [db.uploads.begin(another(document), size=10) for _ in range(10)]
        done = await asyncio.gather(*begun, return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["ConflictError"] * 7 + ["Upload"] * 3
        upload = next(each for each in done if not isinstance(each, BaseException))
        assert await db.uploads.abort(upload.id) is True
        with pytest.raises(ConflictError, match="too many bytes"):
            await db.uploads.begin(another(document), size=81)
        await db.uploads.begin(another(document), size=80)
        # Another user has room of their own.
        await db.uploads.begin(another(document, owner_id=uuid7()), size=100)


async def test_what_was_given_up_leaves_its_room(multidb_settings: Settings, document: NewDocument):
    limits = {"upload_limit": 1, "upload_lifetime": timedelta(milliseconds=400)}
    async with MultiDB(multidb_settings.model_copy(update=limits)) as db:
        upload = await db.uploads.begin(document, size=10)
        await db.uploads.append(upload.id, b"x")
        async with asyncio.timeout(30):
            while await keys(db):
                pass
        assert await db.uploads.get(upload.id) is None
        with pytest.raises(NotFoundError):
            await db.uploads.append(upload.id, b"x")
        await db.uploads.begin(another(document), size=10)


async def test_an_upload_begins_once(db: MultiDB, document: NewDocument):
    upload = await db.uploads.begin(document, size=10)
    await db.uploads.append(upload.id, b"x")
    with pytest.raises(AlreadyExistsError):
        await db.uploads.begin(document, size=10)
    held = await db.uploads.get(upload.id)
    assert held is not None
    assert held.received == 1


async def test_what_was_aborted_is_gone(db: MultiDB, document: NewDocument):
    id = await uploaded(db, document)
    assert await db.uploads.abort(id) is True
    assert await keys(db) == []
    assert await db.uploads.abort(id) is False
    assert await db.uploads.get(id) is None
    for call in (db.uploads.complete(id), db.uploads.gaps(id), db.uploads.append(id, b"x")):
        with pytest.raises(NotFoundError):
            await call


async def test_a_rolled_back_transaction_keeps_the_upload(db: MultiDB, document: NewDocument):
    id = await uploaded(db, document)
    with pytest.raises(ZeroDivisionError):
        async with db.transaction():
            await db.uploads.complete(id)
            raise ZeroDivisionError
    assert await db.documents.get(id) is None
    async with db.transaction():
        await db.uploads.complete(id)
        assert await db.uploads.get(id) is not None
    assert await db.documents.get(id) is not None
    assert await keys(db) == []


async def test_completed_by_many_at_once_it_is_one_document(db: MultiDB, document: NewDocument):
    id = await uploaded(db, document)
    stored = await asyncio.gather(*(db.uploads.complete(id) for _ in range(5)))
    assert all(each == stored[0] for each in stored)
    assert await db.documents.count() == 1
    assert await keys(db) == []


async def test_cancelled_while_it_is_completed_it_can_be_completed(db: MultiDB, document: NewDocument):
    id = await uploaded(db, document)
    for turns in range(0, 40, 4):
        task = asyncio.create_task(db.uploads.complete(id))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await db.uploads.complete(id)).content_hash == SHA256
    assert await keys(db) == []


@pytest.mark.parametrize("id", ["{42}", "a b\n", "x" * 10_000, None], ids=["brace", "blank", "long", "none"])
async def test_what_is_no_id_is_refused(db: MultiDB, id: Any):
    for call in (
        db.uploads.append(id, b"x"),
        db.uploads.get(id),
        db.uploads.gaps(id),
        db.uploads.complete(id),
        db.uploads.abort(id),
    ):
        with pytest.raises(DataError, match="`upload_id` must be a UUID"):
            await call
