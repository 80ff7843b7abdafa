"""Documents as BSON: made before they are sent, so that one that does not fit is nobody else's trouble."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from bson import CodecOptions, DatetimeConversion, decode, encode
from bson.binary import UuidRepresentation
from bson.errors import BSONError
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from multidb.errors import DataError

__all__ = [
    "MAX_DOCUMENT",
    "Document",
    "Encoded",
    "Long",
    "decoded",
    "encoded",
    "encoded_already",
    "field_of",
    "messages",
]

Document: TypeAlias = dict[str, Any]
#: A document ready to be sent; `.raw` are its bytes.
Encoded: TypeAlias = RawBSONDocument
#: What a whole number of eight bytes is read as; one of four is an `int`.
Long: TypeAlias = Int64

#: The bytes one document may take: https://www.mongodb.com/docs/manual/reference/limits/
MAX_DOCUMENT = 16 * 1024 * 1024
#: How deep one may be nested, by the same page.
_MAX_DEPTH = 100

#: The bytes of documents that one message takes; a little less than the server allows for all of it.
_MAX_MESSAGE = 47_000_000

#: What has nothing within; told apart at once, for nearly every value is of one of these.
_PLAIN = frozenset({str, int, float, bool, bytes, datetime, UUID, type(None)})

#: What stands before the sixteen bytes of an `_id` that is a UUID: https://bsonspec.org/spec.html
_ID = b"\x05_id\0\x10\0\0\0\x04"

#: As the client has them.
_OPTIONS: CodecOptions[Document] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD,
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)

#: Of what is not read: all within is left as it is.
_UNREAD: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


def encoded(document: Mapping[str, Any], *, operation: str) -> Encoded:
    """Return a document as it will be sent.

    Raises: DataError that names the field which MongoDB cannot hold, or in which a key would be
    taken for an operator or a path; and why.
    """
    for name, value in document.items():
        if type(value) not in _PLAIN and (problem := _misnamed(value, 1)):
            raise DataError(f"`{field_of(name)}`: {problem}", operation=operation)
    try:
        raw = _written(document)
    except (BSONError, OverflowError, UnicodeEncodeError) as error:
        raise DataError(_unwritable(document), operation=operation) from error
    if len(raw) > MAX_DOCUMENT:
        sizes = {name: len(encode({name: value}, codec_options=_OPTIONS)) for name, value in document.items()}
        largest = field_of(max(sizes, key=sizes.__getitem__))
        raise DataError(
            f"`{largest}`, mostly, makes the document {len(raw):,} bytes, and MongoDB holds {MAX_DOCUMENT:,}",
            operation=operation,
        )
    return RawBSONDocument(raw)


def _written(document: Mapping[str, Any]) -> bytes:
    """Return a document as BSON.

    An `_id` that is a UUID, as nearly all are, is written here: of each the driver makes an object
    of its own first, in Python, which takes as long as the rest of a small document.
    """
    id = document.get("_id")
    if type(id) is not UUID:
        return encode(document, codec_options=_OPTIONS)
    others = dict(document)
    del others["_id"]
    raw = encode(others, codec_options=_OPTIONS)
    size = (len(raw) + len(_ID) + 16).to_bytes(4, "little")
    return b"".join((size, _ID, id.bytes, raw[4:]))


def decoded(document: Encoded) -> Document:
    """Return a document as it will be read."""
    return decode(document.raw, codec_options=_OPTIONS)


def encoded_already(raw: bytes) -> Encoded:
    """Return a document of its bytes, which were those of one that was to be sent."""
    return RawBSONDocument(raw, _UNREAD)


def messages(documents: Sequence[Encoded]) -> Iterator[tuple[int, Sequence[Encoded]]]:
    """Yield documents in runs that one message holds each, and where in them each run begins."""
    start = size = 0
    for place, document in enumerate(documents):
        size += len(document.raw)
        if size > _MAX_MESSAGE and place > start:
            yield start, documents[start:place]
            start, size = place, len(document.raw)
    if start < len(documents):
        yield start, documents[start:]


def field_of(name: str) -> str:
    """Return the field of a model that a document keeps under this name."""
    return "id" if name == "_id" else name


def _misnamed(value: Any, depth: int) -> str:
    """Return what is wrong with a key somewhere within, or nothing. The key is not told: it may be data."""
    if depth > _MAX_DEPTH:
        return f"nested more than {_MAX_DEPTH} deep"
    inner: Iterable[Any] = value if isinstance(value, list | tuple) else ()
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                return f"a key in it is no text, but {type(name).__name__}"
            if name.startswith("$") or "." in name or "\0" in name:
                return "a key in it begins with `$`, or holds a dot or a null character"
        inner = value.values()
    for each in inner:
        if type(each) not in _PLAIN and (problem := _misnamed(each, depth + 1)):
            return problem
    return ""


def _unwritable(document: Mapping[str, Any]) -> str:
    """Return which field cannot be written as BSON, and why."""
    for name, value in document.items():
        try:
            encode({name: value}, codec_options=_OPTIONS)
        except UnicodeEncodeError:
            problem = "a text holds code points that UTF-8 cannot write"
        except OverflowError:
            problem = "a whole number does not fit in eight bytes, or a moment is none that UTC has"
        except BSONError:
            problem = f"MongoDB has no type for {_odd(value) or 'a value in it'}"
        else:
            continue
        return f"`{field_of(name)}`: {problem}"
    return "the document cannot be written as BSON"


def _odd(value: Any) -> str:
    """Return the name of the class within that BSON cannot hold."""
    if isinstance(value, Mapping | list | tuple):
        inner = value.values() if isinstance(value, Mapping) else value
        return next(filter(None, map(_odd, inner)), "")
    try:
        encode({"": value}, codec_options=_OPTIONS)
    except BSONError:
        return type(value).__name__
    except (OverflowError, UnicodeEncodeError):
        pass
    return ""
