"""Uploads: files on their way, chunk by chunk. Redis `temp:upload:{upload_id}`, until they are documents."""

import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeAlias, cast
from uuid import UUID

from multidb.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    MultiDBError,
    NotFoundError,
    StoreName,
)
from multidb.models.documents import Document, NewDocument
from multidb.models.uploads import Upload
from multidb.repositories.documents import DocumentRepository
from multidb.repositories.key_effects import UploadEffects
from multidb.repositories.repository import (
    Repository,
    Resources,
    checked_class,
    checked_id,
    validated,
    validated_json,
)
from multidb.stores.redis.commands import Command

__all__ = ["Sink", "UploadRepository"]

#: Takes the bytes of an upload, in order, to where they will stay.
Sink: TypeAlias = Callable[[AsyncIterator[bytes]], Awaitable[object]]

_MAX_PARTS = 10_000


class UploadRepository(Repository):
    """The calls on uploads. Chunks may come in any order, from any process, and again.

    Nothing but one chunk at a time is held in memory here; Redis holds all of it, so the settings
    limit each upload, and how many and how much a user has under way. All methods raise
    UnavailableError if Redis cannot be reached.
    """

    store: ClassVar[StoreName] = "redis"
    key = "temp:upload:{upload_id}"
    effects = UploadEffects

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._redis = resources.redis
        self._settings = resources.settings
        self._upload_key = self._redis.pattern(self.key)
        self._user_key = self._redis.pattern("temp:upload:user:{user_id}")

    @classmethod
    def target(cls) -> str:
        return cls.key

    @classmethod
    def entity(cls) -> str:
        return "uploads"

    @classmethod
    def check(cls) -> None:
        """There is nothing to hold against each other."""

    async def begin(self, document: NewDocument, *, size: int) -> Upload:
        """Begin to upload what will be this document, of so many bytes.

        It is the owner's, and given up after `Settings.upload_lifetime`. The document's
        `content_hash`, if given, is what `complete` will find or refuse. Two round trips; one that
        was cut short holds its room until it is given up.

        Raises: DataError if it may not be so large; ConflictError if the owner has too many or too
        much under way; AlreadyExistsError if the upload has begun.
        """
        operation = self._operation("begin")
        checked_class(NewDocument, document, operation)
        limit = self._settings.upload_size_limit
        if type(size) is not int or not 1 <= size <= limit:
            raise DataError(f"`size` must be a whole number of bytes from 1 to {limit}", operation=operation)
        if document.size not in (None, size):
            raise DataError("`size` is not that of the document", operation=operation)
        user, id = document.owner_id, document.id
        lifetime = int(self._settings.upload_lifetime.total_seconds() * 1000)
        word = await self._redis.run(
            "upload_reserve",
            [self._user_key.key({"user_id": user})],
            [str(id), size, lifetime, self._settings.upload_limit, self._settings.upload_total_limit],
            operation=operation,
            repeatable=True,
        )
        if word != b"ok":
            problem = "too many uploads" if word == b"many" else "too many bytes"
            raise ConflictError(
                f"the user has {problem} under way: complete or abort one", store="redis", operation=operation
            )
        ends = await self._redis.run(
            "upload_begin",
            self._keys(id)[:1],
            [document.model_dump_json(), str(user), size, lifetime],
            operation=operation,
        )
        if not ends:
            raise AlreadyExistsError("the upload has begun already", store="redis", operation=operation)
        return _upload(id, user, size, 0, 0, ends)

    async def append(
        self, upload_id: UUID, chunk: bytes, *, offset: int | None = None, checksum: str | None = None
    ) -> int:
        """Add a chunk and return how many bytes are there without a gap. One round trip, atomic.

        With `offset`, where it begins in bytes, chunks may come in any order, and one that comes
        again changes nothing. Without, it follows on what is there, and must not be repeated.
        `checksum` is the chunk's SHA-256 in hexadecimal, of the one who sent it.

        Raises: DataError if the chunk is empty, larger than `Settings.upload_chunk_limit`, not that
        of the checksum, or goes beyond the declared size; ConflictError if something else is there,
        or 10,000 chunks are; NotFoundError.
        """
        operation = self._operation("append")
        checked_id(upload_id, operation, "upload_id")
        self._check_chunk(chunk, offset, checksum, operation)
        word, *counts = await self._redis.run(
            "upload_append",
            self._keys(upload_id),
            [chunk, "" if offset is None else offset, _MAX_PARTS],
            operation=operation,
            repeatable=offset is not None,
        )
        match word:
            case b"ok":
                return int(counts[1])
            case b"gone":
                raise self._not_found(operation)
            case b"beyond":
                raise DataError("`chunk` goes beyond the size of the upload", operation=operation)
            case b"other":
                raise ConflictError("other bytes are there already", store="redis", operation=operation)
            case _:
                raise ConflictError(
                    f"the upload has {_MAX_PARTS} chunks: send larger ones",
                    store="redis",
                    operation=operation,
                )

    async def get(self, upload_id: UUID) -> Upload | None:
        """Return how far an upload is, or None if there is none: completed, aborted or given up."""
        operation = self._operation("get")
        checked_id(upload_id, operation, "upload_id")
        held = await self._held(upload_id, operation)
        if held is None:
            return None
        user, size, received, next_offset, ends, _ = held
        return _upload(upload_id, UUID(user.decode()), size, received, next_offset, ends)

    async def gaps(self, upload_id: UUID) -> list[tuple[int, int]]:
        """Return what is missing of an upload, each as where it begins and where it ends, in bytes.

        Raises: NotFoundError.
        """
        operation = self._operation("gaps")
        checked_id(upload_id, operation, "upload_id")
        held = await self._held(upload_id, operation)
        if held is None:
            raise self._not_found(operation)
        gaps, end = [], 0
        for start, length in [*await self._parts(upload_id, operation), (int(held[1]), 0)]:
            if start > end:
                gaps.append((end, start))
            end = start + length
        return gaps

    async def complete(self, upload_id: UUID, *, sink: Sink | None = None) -> Document:
        """Make an upload a document and return that: its bytes are verified and go through `sink`.

        `sink` is given the bytes as an async iterator, a chunk at a time, and brings them to where
        they will stay; without one they are only verified. The iterator raises DataError at its end
        if they are not what `begin` was told, and no document is made then. After that the document
        is added, `uploaded`, with size and SHA-256, in the ambient transaction if there is one, and
        the upload is forgotten, after its commit. May be repeated: `sink` then sees the bytes again,
        unless the document is there.

        Raises: ConflictError if bytes are missing; NotFoundError; DataError; what `sink` raises; what
        `documents.add` does.
        """
        operation = self._operation("complete")
        checked_id(upload_id, operation, "upload_id")
        documents = cast(DocumentRepository, self._resources.repositories[DocumentRepository])
        held = await self._held(upload_id, operation)
        try:
            if held is None:
                raise self._not_found(operation)
            user, size, received, _, _, told = held
            if int(received) < int(size):
                raise ConflictError(
                    f"{int(size) - int(received)} bytes of the upload are missing",
                    store="redis",
                    operation=operation,
                )
            new = validated_json(NewDocument, told, operation)
            digest = await self._pour(upload_id, new.content_hash, sink or _nowhere, operation)
        except NotFoundError:
            # It has been completed: before, or by another in the midst of this.
            document = await documents.get(upload_id)
            if document is None:
                raise
            return document
        new = new.model_copy(update={"status": "uploaded", "size": int(size), "content_hash": digest})
        try:
            # In a savepoint where a transaction is ambient, which shall survive the other answer.
            async with self._resources.postgres.transactions.begin():
                document = await documents.add(new)
        except AlreadyExistsError:
            document = await documents.fetch(upload_id)

        async def forget() -> None:
            with suppress(MultiDBError):  # or it is given up in time
                await self._forget(upload_id, UUID(user.decode()), operation)

        await self._resources.postgres.transactions.after_commit(forget)
        return document

    async def abort(self, upload_id: UUID) -> bool:
        """Give up an upload; return whether there was one. Idempotent."""
        operation = self._operation("abort")
        checked_id(upload_id, operation, "upload_id")
        user = await self._redis.run("upload_drop", self._keys(upload_id), [], operation=operation)
        if user is None:
            return False
        await self._redis.execute(
            "HDEL", self._user_key.key({"user_id": UUID(user.decode())}), str(upload_id), operation=operation
        )
        return True

    # --- how

    def _keys(self, id: UUID) -> list[str]:
        key = self._upload_key.key({"upload_id": id})
        return [key, f"{key}:parts", f"{key}:chunks"]

    def _check_chunk(self, chunk: object, offset: object, checksum: object, operation: str) -> None:
        limit = self._settings.upload_chunk_limit
        if not isinstance(chunk, bytes) or not 1 <= len(chunk) <= limit:
            raise DataError(f"`chunk` must be 1 to {limit} bytes", operation=operation)
        if offset is not None and (type(offset) is not int or not 0 <= offset < 2**53):
            raise DataError("`offset` must be a whole number of bytes, 0 or more", operation=operation)
        if checksum is None:
            return
        if not isinstance(checksum, str) or not checksum.isascii():
            raise DataError("`checksum` must be a SHA-256 in hexadecimal", operation=operation)
        if not hmac.compare_digest(hashlib.sha256(chunk).hexdigest(), checksum.lower()):
            raise DataError("`checksum` is not that of the chunk: send it again", operation=operation)

    async def _held(self, id: UUID, operation: str) -> Sequence[Any] | None:
        """Return user, size, received, next offset, end and document of an upload; None if there is none."""
        fields = ("user", "size", "received", "next", "ends", "document")
        held = await self._redis.execute(
            "HMGET", self._keys(id)[0], *fields, operation=operation, repeatable=True
        )
        return cast(Sequence[Any], held) if None not in held else None

    async def _parts(self, id: UUID, operation: str) -> list[tuple[int, int]]:
        """Return the chunks that are there, each as its offset and its length."""
        parts = await self._redis.execute(
            "ZRANGE", self._keys(id)[1], 0, -1, operation=operation, repeatable=True
        )
        return [(int(start), int(length)) for start, _, length in (part.partition(b":") for part in parts)]

    async def _pour(self, id: UUID, expected: str | None, sink: Sink, operation: str) -> str:
        """Bring the bytes through `sink` and return their SHA-256."""
        sha256 = hashlib.sha256()
        poured = False

        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal poured
            for start, _ in await self._parts(id, operation):
                chunk = await self._redis.execute(
                    "HGET", self._keys(id)[2], str(start), operation=operation, repeatable=True
                )
                if chunk is None:
                    raise self._not_found(operation)
                sha256.update(chunk)
                yield chunk
            if expected is not None and not hmac.compare_digest(sha256.hexdigest(), expected):
                raise DataError("the bytes are not those of `content_hash`", operation=operation)
            poured = True

        async with aclosing(chunks()) as iterator:
            await sink(iterator)
        if not poured:
            raise DataError(
                "`sink` must read the bytes to their end, and raise what that raises", operation=operation
            )
        return sha256.hexdigest()

    async def _forget(self, id: UUID, user: UUID, operation: str) -> None:
        unlink = [Command("UNLINK", key, repeatable=True) for key in self._keys(id)]
        reserved = Command("HDEL", self._user_key.key({"user_id": user}), str(id), repeatable=True)
        await self._redis.send([*unlink, reserved], operation=operation)

    def _not_found(self, operation: str) -> NotFoundError:
        return NotFoundError("there is no such upload, or not any more", store="redis", operation=operation)


def _upload(id: UUID, user: UUID, size: Any, received: Any, next_offset: Any, ends: Any) -> Upload:
    return validated(
        Upload,
        {
            "id": id,
            "user_id": user,
            "size": int(size),
            "received": int(received),
            "next_offset": int(next_offset),
            "expires_at": datetime.fromtimestamp(int(ends) / 1000, UTC),
        },
        "uploads.get",
    )


async def _nowhere(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass
