"""The field types that models share."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from annotated_types import BaseMetadata
from pydantic import AfterValidator, AwareDatetime, StringConstraints

__all__ = [
    "PERSONAL",
    "SECRET",
    "TO_MILLISECONDS",
    "TO_UTC",
    "UNCHANGED",
    "Device",
    "Email",
    "IpAddress",
    "Masked",
    "Name",
    "Slug",
    "Title",
    "UserAgent",
    "UtcDatetime",
    "UtcMilliseconds",
    "utc_now",
]


def _to_milliseconds(value: datetime) -> datetime:
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def utc_now() -> datetime:
    """Return the present moment, aware and in UTC, at the millisecond MongoDB keeps."""
    return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a moment that UTC has, from the year 1 to the year 9999") from None


TO_UTC = AfterValidator(_to_utc)
TO_MILLISECONDS = AfterValidator(_to_milliseconds)

#: An aware datetime; kept and returned in UTC.
UtcDatetime = Annotated[AwareDatetime, TO_UTC]
#: The same, cut to the millisecond, which is what MongoDB keeps of it.
UtcMilliseconds = Annotated[UtcDatetime, TO_MILLISECONDS]

#: One address: something before and after one `@`, no blanks. Whether mail arrives there only
#: a mail can tell.
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)]

#: A person's or a thing's name: some text, not only blanks.
Name = Annotated[str, StringConstraints(pattern=r"\S", max_length=200)]

#: What a document, an event or a card is headed with: some text, not only blanks.
Title = Annotated[str, StringConstraints(pattern=r"\S", max_length=500)]

#: The part of a URL that names a thing: lower-case words joined by hyphens.
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", max_length=100)]

#: What a user calls the thing they sign in with.
Device = Annotated[str, StringConstraints(max_length=200)]

#: An address of IPv4 or IPv6, as text; with a zone at most, and without a port.
IpAddress = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f:.]+(?:%[0-9A-Za-z._-]+)?$", max_length=64)]

#: What a browser says of itself.
UserAgent = Annotated[str, StringConstraints(max_length=1000)]


@dataclass(frozen=True, slots=True)
class Masked(BaseMetadata):
    """Marks a field whose values the audit log must not repeat: `Annotated[str, PERSONAL]`."""

    why: str


#: About a person, such as an address or a name.
PERSONAL = Masked("personal")
#: Opens something, such as a key.
SECRET = Masked("secret")

#: Default of every field of a `…Changes` model: the column stays as it is. What is written is
#: decided by `model_fields_set`, never by this value.
UNCHANGED: Any = None
