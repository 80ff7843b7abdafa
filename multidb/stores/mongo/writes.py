"""Writes of single documents, told so that several of them may be sent together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pymongo import DeleteOne, InsertOne, UpdateOne

from multidb.stores.mongo.documents import Encoded

__all__ = ["Change", "Delete", "Insert", "Write", "requests"]


class Insert(NamedTuple):
    """Store a document, which brings its `_id`."""

    document: Encoded


class Change(NamedTuple):
    """Change the document that matches; with `upsert` one is made if there is none."""

    query: Mapping[str, Any]
    #: Operators, or a pipeline.
    change: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    upsert: bool = False


class Delete(NamedTuple):
    """Delete the document that matches, if there is one."""

    query: Mapping[str, Any]


Write: TypeAlias = Insert | Change | Delete


def requests(writes: Iterable[Write]) -> list[InsertOne[Any] | UpdateOne | DeleteOne]:
    """Return writes as the driver takes them."""
    return [_request(write) for write in writes]


def _request(write: Write) -> InsertOne[Any] | UpdateOne | DeleteOne:
    match write:
        case Insert():
            return InsertOne(write.document)
        case Change():
            return UpdateOne(write.query, write.change, upsert=write.upsert)
        case Delete():
            return DeleteOne(write.query)
