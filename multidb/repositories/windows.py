"""Windows of time: the minutes, hours, days, weeks and months of UTC, half-open.

A day of UTC has 24 hours whatever clocks do elsewhere; a week begins on Monday.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

from multidb.errors import DataError

__all__ = [
    "MAX_WINDOWS",
    "UNITS",
    "Unit",
    "begin",
    "checked_length",
    "checked_moment",
    "end",
    "span",
    "windows",
]

Unit: TypeAlias = Literal["minute", "hour", "day", "week", "month"]

UNITS: tuple[str, ...] = get_args(Unit)

#: The most windows one answer may have.
MAX_WINDOWS = 10_000

#: Where the last window of each unit ends.
_END = datetime.max.replace(tzinfo=UTC)

_FIXED = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}


def begin(moment: datetime, unit: Unit) -> datetime:
    """Return when the window that a moment of UTC falls in began."""
    if unit == "minute":
        return moment.replace(second=0, microsecond=0)
    if unit == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "day":
        return day
    return day.replace(day=1) if unit == "month" else day - timedelta(days=day.weekday())


def end(start: datetime, unit: Unit) -> datetime:
    """Return when the window that began at `start` ends, which is when the next begins, if there is one."""
    try:
        return (start + timedelta(days=31)).replace(day=1) if unit == "month" else start + _FIXED[unit]
    except OverflowError:
        return _END


def windows(first: datetime, last: datetime, unit: Unit) -> Iterator[datetime]:
    """Yield when each window begins that has a moment of the span in it."""
    start = begin(first, unit)
    while start < last:
        yield start
        start = end(start, unit)


def span(first: Any, last: Any, unit: Unit, operation: str) -> tuple[datetime, datetime]:
    """Return the span from `first` up to and without `last`, in UTC.

    Raises: DataError if `unit` is none, they are no moments, `last` is not after `first`, or more than
    `MAX_WINDOWS` are between them.
    """
    if unit not in UNITS:
        raise DataError(f"`by` must be one of {', '.join(UNITS)}", operation=operation)
    start, stop = checked_moment(first, "first", operation), checked_moment(last, "last", operation)
    if stop <= start:
        raise DataError("`last` must be after `first`: it is where the span ends", operation=operation)
    if (stop - start) / _FIXED.get(unit, timedelta(days=28)) > MAX_WINDOWS:
        raise DataError(
            f"from `first` to `last` are more than {MAX_WINDOWS:,} windows; take longer ones",
            operation=operation,
        )
    return start, stop


def checked_length(value: Any, name: str, operation: str, most: timedelta = timedelta.max) -> None:
    """Raise: DataError if `value`, which the call names `name`, is no timedelta from zero to `most`."""
    if not isinstance(value, timedelta) or not timedelta() <= value <= most:
        bounds = "that is not below zero" if most == timedelta.max else f"from zero to {most.days} days"
        raise DataError(f"`{name}` must be a timedelta {bounds}", operation=operation)


def checked_moment(value: Any, name: str, operation: str) -> datetime:
    """Return an aware datetime in UTC. Raises: DataError if it is none, or one that has no time zone."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise DataError(f"`{name}` must be a datetime that knows its time zone", operation=operation)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise DataError(f"`{name}` is no moment that UTC has", operation=operation) from None
