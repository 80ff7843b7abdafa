"""Effects: what a transaction on PostgreSQL may have done on MongoDB and Redis once it has committed.

A repository declares them by a class, `effects`, whose methods are called through `tx`. Each checks what it
is given, as the repository's own would, and tells the transaction of it; nothing has happened then. The relay
hands what was told to `apply` of the effect's kind, at least once: after a relay that died, again, and from
one that was cut off, late. So `apply` must be harmless to repeat and heedless of what is overtaken. It is if
what it stores has its own id and never changes. What changes documents says what it writes instead, and
stands behind the fence of its stream.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar
from uuid import UUID

from pydantic_core import PydanticSerializationError

from multidb.errors import ConfigurationError, DataError, MultiDBError
from multidb.models.entity import Model
from multidb.models.ids import uuid7
from multidb.stores.mongo.documents import Document, Encoded, encoded_already
from multidb.stores.mongo.errors import Unique
from multidb.stores.mongo.writes import Write
from multidb.stores.postgres.outbox import Target, Told

__all__ = ["Delivery", "DocumentWrite", "Done", "Effect", "Effects", "FencedEffect", "Payload"]

T = TypeVar("T")
PayloadT = TypeVar("PayloadT", bound="Payload")
RepositoryT = TypeVar("RepositoryT")


class Payload(Model):
    """What is written down of an effect besides the document: its schema, told and read by the same class."""


@dataclass(frozen=True, slots=True)
class Delivery(Generic[PayloadT]):
    """An effect that is to be had now."""

    payload: PayloadT
    #: Of one stream it grows in the order of the commits.
    version: int
    stream: str | None
    #: When it was committed, a moment before.
    created_at: datetime
    bson: bytes | None = None

    @property
    def encoded(self) -> Encoded:
        """The document that was told, as it is to be sent."""
        assert self.bson is not None
        return encoded_already(self.bson)

    @property
    def document(self) -> Document:
        """The document that was told, by field; what is within is to be sent, and not read."""
        return dict(self.encoded)


@dataclass(frozen=True, slots=True)
class Effect(Generic[RepositoryT, PayloadT]):
    """One kind of effect: what is written down of it, and how it is had."""

    payload: type[PayloadT]
    apply: Callable[[RepositoryT, Delivery[PayloadT]], Awaitable[object]]
    #: Has several that need no order in one go, and returns by place what went wrong; None if it cannot.
    apply_all: (
        Callable[[RepositoryT, Sequence[Delivery[PayloadT]]], Awaitable[Mapping[int, Exception]]] | None
    ) = None


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """What an effect writes: one document of a collection."""

    collection: str
    write: Write
    operation: str
    unique: Unique
    #: What is wrong where a change finds no document.
    missing: MultiDBError | None = None


@dataclass(frozen=True, slots=True)
class FencedEffect(Generic[RepositoryT, PayloadT]):
    """One kind of effect that changes a document: it is had once, and not after what follows it."""

    payload: type[PayloadT]
    write: Callable[[RepositoryT, Delivery[PayloadT]], DocumentWrite]


class Done(Generic[T]):
    """What a call through a transaction gives: it is told already, so awaiting it waits for nothing."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[None, None, T]:
        yield from ()
        return self._value


class Effects(Generic[RepositoryT]):
    """One repository's calls, as a transaction offers them. They may be awaited, and wait for nothing.

    Raises: what the repository's own call does of what it is given, at once; TransactionError if the
    transaction is read-only, has ended, or is another task's.
    """

    #: By the name that it has in the outbox, after the entity's and a dot.
    kinds: ClassVar[Mapping[str, Effect[Any, Any] | FencedEffect[Any, Any]]] = {}
    store: ClassVar[Target] = "mongo"

    def __init__(self, repository: RepositoryT, entity: str, tell: Callable[[Told, str], None]) -> None:
        self._repository = repository
        self._entity = entity
        self._tell_transaction = tell

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):
                raise AttributeError(name)
            offered = ", ".join(
                each for each in dir(type(self)) if not each.startswith("_") and each not in _OURS
            )
            raise ConfigurationError(
                f"`{name}` cannot follow a commit; of `{self._entity}` a transaction offers {offered}"
            )

    def _operation(self, name: str) -> str:
        return f"{self._entity}.{name}"

    def _tell(
        self,
        name: str,
        payload: Payload,
        *,
        document: Encoded | None = None,
        stream: str | None = None,
        tenant: UUID | None = None,
    ) -> None:
        """Have an effect of the kind `name`. Raises: DataError for a text that PostgreSQL cannot hold."""
        operation = self._operation(name)
        try:
            text = payload.model_dump_json()
            (stream or "").encode()
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise DataError(
                "a text holds code points that UTF-8 cannot write", operation=operation
            ) from error
        if "\\u0000" in text or "\0" in (stream or ""):
            raise DataError("a text holds a null character, which PostgreSQL cannot", operation=operation)
        raw = None if document is None else bytes(document.raw)
        stream = None if stream is None else f"{self._entity}/{stream}"
        self._tell_transaction(Told(uuid7(), self.store, operation, text, raw, stream, tenant), operation)


_OURS = {"kinds", "store"}
