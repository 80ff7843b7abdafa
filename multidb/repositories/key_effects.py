"""What may follow a commit on Redis: sessions ended, calls counted, uploads given up, entries invalidated."""

from datetime import date
from typing import TYPE_CHECKING
from uuid import UUID

from multidb.cache.aside import CacheAside
from multidb.repositories.effects import Delivery, Done, Effect, Effects, Payload
from multidb.repositories.repository import checked_id

if TYPE_CHECKING:
    from multidb.repositories.counters import CounterRepository
    from multidb.repositories.sessions import SessionRepository
    from multidb.repositories.uploads import UploadRepository

__all__ = ["INVALIDATE", "CounterEffects", "SessionEffects", "UploadEffects"]


class One(Payload):
    user_id: UUID
    id: UUID


class All(Payload):
    user_id: UUID
    but: UUID | None


async def _revoke_one(repository: "SessionRepository", delivery: Delivery[One]) -> None:
    await repository.revoke_one(delivery.payload.id, user_id=delivery.payload.user_id)


async def _revoke_all(repository: "SessionRepository", delivery: Delivery[All]) -> None:
    # Those that began later are not meant, however late this comes, and however often.
    whose = delivery.payload
    await repository._revoke_all(whose.user_id, whose.but, before=delivery.created_at)


class SessionEffects(Effects["SessionRepository"]):
    """Sessions that end once the transaction has committed."""

    store = "redis"
    kinds = {"revoke_one": Effect(One, _revoke_one), "revoke_all": Effect(All, _revoke_all)}

    def revoke(self, token: str) -> Done[None]:
        """End the session of this token after the commit."""
        known = self._repository.use.read(token)
        if known is not None:
            self._tell("revoke_one", One(user_id=known.user_id, id=known.id))
        return Done(None)

    def revoke_one(self, session_id: UUID, *, user_id: UUID) -> Done[None]:
        """End one session of a user after the commit."""
        for name, id in {"session_id": session_id, "user_id": user_id}.items():
            checked_id(id, self._operation("revoke_one"), name)
        self._tell("revoke_one", One(user_id=user_id, id=session_id))
        return Done(None)

    def revoke_all(self, user_id: UUID, *, except_: UUID | None = None) -> Done[None]:
        """End the sessions that a user has at the commit, but for the one with the id `except_`."""
        operation = self._operation("revoke_all")
        checked_id(user_id, operation, "user_id")
        if except_ is not None:
            checked_id(except_, operation, "except_")
        self._tell("revoke_all", All(user_id=user_id, but=except_))
        return Done(None)


class Count(Payload):
    endpoint: str
    day: date
    by: int


async def _increment(repository: "CounterRepository", delivery: Delivery[Count]) -> None:
    told = delivery.payload
    await repository._counting.add_numbered(told.endpoint, told.day, told.by, delivery.version)


class CounterEffects(Effects["CounterRepository"]):
    """Calls that are counted once the transaction has committed, each once."""

    store = "redis"
    kinds = {"increment": Effect(Count, _increment)}

    def increment(self, endpoint: str, *, by: int = 1) -> Done[None]:
        """Count a call of `endpoint` today, or several, after the commit."""
        day = self._repository._checked(endpoint, by, self._operation("increment"))
        self._tell("increment", Count(endpoint=endpoint, day=day, by=by), stream=f"{day}/{endpoint}")
        return Done(None)


class Upload(Payload):
    id: UUID


async def _abort(repository: "UploadRepository", delivery: Delivery[Upload]) -> None:
    await repository.abort(delivery.payload.id)


class UploadEffects(Effects["UploadRepository"]):
    """Uploads that are given up once the transaction has committed."""

    store = "redis"
    kinds = {"abort": Effect(Upload, _abort)}

    def abort(self, upload_id: UUID) -> Done[None]:
        """Give up an upload after the commit."""
        checked_id(upload_id, self._operation("abort"), "upload_id")
        self._tell("abort", Upload(id=upload_id))
        return Done(None)


class Entries(Payload):
    keys: tuple[str, ...]


async def _invalidate(cache: CacheAside, delivery: Delivery[Entries]) -> None:
    await cache.invalidate_surely(delivery.payload.keys)


#: What the cache tells of by itself, where Redis did not hear of a commit before it.
INVALIDATE = Effect(Entries, _invalidate)
