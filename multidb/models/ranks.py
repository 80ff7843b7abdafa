"""Ranks: texts that put things in an order, with room for another between any two.

A rank is a fraction written in the digits 0-9A-Za-z, whose order is that of their bytes, without
its leading `0.`: `V` is the middle, `V1` a little after it. It never ends in `0`, for two ways to
write one fraction would have nothing between them.

At either end ranks grow with the logarithm of how many were placed there one after another. Between
two others each new one halves the room, and one digit more is needed for every five or so that are
placed at one spot: who does that by the thousand makes room again with `spread`.
"""

from typing import Annotated

from pydantic import StringConstraints

from multidb.errors import DataError

__all__ = ["Rank", "between", "spread"]

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE = len(_DIGITS)
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_LAST = _DIGITS[-1]

#: A place in an order.
Rank = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]*[1-9A-Za-z]$", max_length=500)]


def between(before: str | None, after: str | None) -> str:
    """Return a rank greater than `before` and less than `after`; None stands for the very ends.

    Raises: DataError if they are not in order, or are no ranks.
    """
    for each in (before, after):
        if each is not None and (not each or each.endswith("0") or not _VALUES.keys() >= set(each)):
            raise DataError("a rank is made of the digits 0-9A-Za-z, and does not end in 0")
    if before is not None and after is not None and before >= after:
        raise DataError("the rank to come before must be less than the rank to come after")
    if before is None or after is None:
        return _after(before) if before else _before(after) if after else _DIGITS[_BASE // 2]
    return _middle(before, after)


def spread(count: int) -> list[str]:
    """Return `count` ranks in order, as short and as far apart as can be.

    Raises: DataError if `count` is negative.
    """
    if count < 0:
        raise DataError("`count` must be 0 or more")
    width = 1
    while _BASE**width <= count:
        width += 1
    return [_fraction(number * _BASE**width // (count + 1), width) for number in range(1, count + 1)]


def _middle(low: str, high: str | None) -> str:
    """Return a short rank about half-way from `low` to `high`, where None is the very end."""
    shared = 0
    while high and (low[shared : shared + 1] or "0") == high[shared]:
        shared += 1
    stem, low, high = (high or "")[:shared], low[shared:], high and high[shared:]
    least = _VALUES[low[0]] if low else 0
    most = _VALUES[high[0]] if high else _BASE
    if most - least > 1:
        return stem + _DIGITS[(least + most + 1) // 2]
    if high and len(high) > 1:
        return stem + high[0]
    return stem + _DIGITS[least] + _middle(low[1:], None)


def _after(rank: str) -> str:
    """Return the next of the ranks that come after one another.

    They count on, with two more digits for each last digit at the beginning, as that uses up
    what room there is.
    """
    width = 2 * (len(rank) - len(rank.lstrip(_LAST))) + 2
    return _fraction(_number(rank, width) + 1, width)


def _before(rank: str) -> str:
    """Return the next of the ranks that come before one another: `_after`, mirrored."""
    width = 2 * (len(rank) - len(rank.lstrip("0"))) + 2
    # What is cut off is more than nothing, so what is left comes before.
    cut = rank[width:] and _fraction(_number(rank, width), width)
    return cut or _fraction(_number(rank, width) - 1, width)


def _number(rank: str, width: int) -> int:
    number = 0
    for digit in rank[:width].ljust(width, "0"):
        number = number * _BASE + _VALUES[digit]
    return number


def _fraction(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, value = divmod(number, _BASE)
        digits.append(_DIGITS[value])
    return "".join(reversed(digits)).rstrip("0")
