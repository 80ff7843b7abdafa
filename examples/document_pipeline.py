"""Files become documents, documents are read by a worker, and what it found is everywhere at once.

    python examples/document_pipeline.py README.md docs/*.md

Each file is uploaded in chunks (Redis), becomes a document (PostgreSQL), and a job to read it is enqueued
in the same transaction. A worker reads it; the words it counts are the job's result (MongoDB), which the
cache (Redis) then answers for, and the owner is told by an event of presence. It starts the three servers
in `.multidb` and stops them again.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import mimetypes
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel

from multidb import (
    Company,
    Discard,
    Handlers,
    MultiDB,
    MultiDBError,
    NewCompany,
    NewDocument,
    NewJob,
    NewUser,
    Run,
    User,
    Worker,
)

CHUNK = 256 * 1024


class Read(BaseModel):
    """The payload: which document to read, and where its bytes are."""

    document_id: UUID
    path: Path


class Found(BaseModel):
    """The result: what was read in a document."""

    words: int
    different: int
    most: dict[str, int]


def main() -> None:
    """Send the files through the pipeline."""
    parser = argparse.ArgumentParser(description="Upload files, and have them read by a worker.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--dir", type=Path, default=Path(".multidb"), help="where the data is kept")
    given = parser.parse_args()
    if missing := [file for file in given.files if not file.is_file()]:
        sys.exit(f"There is no file {missing[0]}.")
    try:
        asyncio.run(run(given.files, given.dir))
    except MultiDBError as error:
        sys.exit(f"{type(error).__name__}: {error}")


async def run(files: Sequence[Path], directory: Path) -> None:
    """Start the servers and a worker, and follow each file to its end."""
    async with MultiDB.embedded(directory) as db:
        company, owner = await somebody(db)
        worker = Worker(db, queues=["documents"], handlers=handlers(db), concurrency=4)
        told = asyncio.Event()
        beside = [asyncio.create_task(worker.run()), asyncio.create_task(listen(db, owner, told))]
        try:
            async with asyncio.timeout(120):
                await asyncio.gather(
                    *(follow(db, file, company, owner, directory / "files") for file in files)
                )
                await told.wait()
        finally:
            worker.stop()
            beside[1].cancel()
            await asyncio.wait(beside)
        print(f"{owner.name} is told")


async def listen(db: MultiDB, owner: User, told: asyncio.Event) -> None:
    """Wait for the event that the owner is there."""
    async with aclosing(db.presence.watch()) as events:
        if await db.presence.online([owner.id]):
            told.set()  # of an earlier run
        async for event in events:
            if event.user_id == owner.id and event.kind == "join":
                told.set()


async def somebody(db: MultiDB) -> tuple[Company, User]:
    """Return whose documents they are."""
    company = await db.companies.by_slug("library")
    user = await db.users.by_email("reader@example.com")
    return (
        company or await db.companies.add(NewCompany(name="Library", slug="library")),
        user or await db.users.add(NewUser(email="reader@example.com", name="Reader")),
    )


async def follow(db: MultiDB, file: Path, company: Company, owner: User, store: Path) -> None:
    """Upload a file, wait until it is read, and tell what was found."""
    job_id = await upload(db, file, company, owner, store)

    @db.cached("found:{job_id}", ttl=timedelta(minutes=5))
    async def found(job_id: UUID) -> Found | None:
        recorded = await db.ai_processing_results.get(job_id)
        return None if recorded is None or recorded.result is None else Found(**recorded.result)

    while (job := await db.jobs.fetch(job_id)).finished_at is None:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.1)
    document = await db.documents.fetch(Read(**job.payload).document_id)
    if job.state != "completed":
        print(f"{file.name}: {document.status}, {job.state}: {job.error}")
        return
    first, again = await found(job_id), await found(job_id)  # MongoDB, and the cache
    assert first is not None
    assert first == again
    most = ", ".join(first.most)
    print(f"{file.name}: {document.status}, {document.size} bytes, {first.words} words, most often {most}")


async def upload(db: MultiDB, file: Path, company: Company, owner: User, store: Path) -> UUID:
    """Upload a file a chunk at a time, and return the id of the job that will read it."""
    mime_type, _ = mimetypes.guess_type(file.name)
    content = await asyncio.to_thread(file.read_bytes)
    new = NewDocument(
        company_id=company.id,
        owner_id=owner.id,
        title=file.name,
        content_hash=hashlib.sha256(content).hexdigest(),
        mime_type=mime_type,
    )
    begun = await db.uploads.begin(new, size=len(content))
    for offset in range(0, len(content), CHUNK):
        await db.uploads.append(begun.id, content[offset : offset + CHUNK], offset=offset)
    path = store / str(begun.id)

    async def keep(chunks: AsyncIterator[bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as target:
            async for chunk in chunks:
                await asyncio.to_thread(target.write, chunk)

    async with db.transaction(actor=owner.email):
        # Both or neither: no document that nobody reads, no job for a document there is not.
        document = await db.uploads.complete(begun.id, sink=keep)
        job = await db.jobs.enqueue(
            NewJob(
                queue="documents",
                kind="read",
                payload=Read(document_id=document.id, path=path).model_dump(mode="json"),
                company_id=company.id,
                document_id=document.id,
                idempotency_key=str(document.id),
            )
        )
    return job.id


def handlers(db: MultiDB) -> Handlers:
    """Return what the worker can do."""
    made = Handlers()

    @made.job("read", timeout=timedelta(minutes=1))
    async def read(payload: Read, run: Run) -> Found:
        try:
            text = await asyncio.to_thread(payload.path.read_text, encoding="utf-8")
        except UnicodeDecodeError as error:
            await db.documents.update(payload.document_id, status="failed")
            raise Discard("it is no text") from error
        run.log(f"{len(text)} characters")
        words = Counter(re.findall(r"\w{4,}", text.lower()))
        await run.progress(0.5)
        document = await db.documents.update(
            payload.document_id, body=text.replace("\0", "")[:1_000_000], status="ready"
        )
        await db.presence.beat(document.owner_id, device=f"document {document.id}")
        return Found(words=words.total(), different=len(words), most=dict(words.most_common(3)))

    return made


if __name__ == "__main__":
    main()
