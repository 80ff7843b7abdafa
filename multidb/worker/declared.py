"""What workers, handlers and schedules are declared with, held against what it must be."""

from datetime import timedelta

from multidb.errors import ConfigurationError

__all__ = ["check", "is_span"]

_LONGEST = timedelta(days=366)


def check(owner: str, *rules: tuple[str, str, object]) -> None:
    """Hold each of `rules`: a name, what it must be, and whether it is.

    Raises: ConfigurationError that says so of the first that is not.
    """
    for name, right, fits in rules:
        if not fits:
            raise ConfigurationError(f"{owner}: `{name}` must be {right}")


def is_span(value: object, least: timedelta = timedelta(0), most: timedelta = _LONGEST) -> bool:
    """Return whether it is a duration from `least` to `most`."""
    return isinstance(value, timedelta) and least <= value <= most
