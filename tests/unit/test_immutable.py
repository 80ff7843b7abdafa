"""What callers may share: nothing that one of them could change."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr
from pydantic.dataclasses import dataclass as pydantic_dataclass

from multidb.cache.immutable import immutable_size
from multidb.models import SystemLog, User
from multidb.models.ids import uuid7
from multidb.stores.redis.tracking import apart


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    first: Any
    second: Any = 1


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    value: Any = None


class Thawed(BaseModel):
    value: int = 1


class Open(Frozen):
    model_config = ConfigDict(extra="allow")


class Private(Frozen):
    _seen: list[int] = PrivateAttr(default_factory=list)


class Lazy(Frozen):
    @cached_property
    def parts(self) -> list[int]:
        return []


class Root(Lazy):
    pass


@dataclass(frozen=True)
class Point:
    x: Any = 1


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Any = 1


@pydantic_dataclass(frozen=True)
class Checked:
    x: int = 1


@dataclass
class Loose:
    x: int = 1


class Sub(Point):
    pass


class Text(str):
    __slots__ = ()


class Words(tuple[str, ...]):
    __slots__ = ()


NOW = datetime.now(UTC)
USER = User(id=uuid7(), created_at=NOW, updated_at=NOW, version=1, email="ada@example.com", name="Ada")


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            1,
            1.5,
            1j,
            "a",
            b"a",
            Decimal(1),
            UUID(int=1),
            Colour.RED,
            (),
            (1, ("a",)),
            frozenset({1}),
        ),
        *(NOW, date(2026, 1, 1), time(1), timedelta(1), timezone(timedelta(hours=1))),
        *(
            Pair(1),
            Frozen(),
            Frozen(value=(Frozen(), Point(Slotted()))),
            Point(),
            Slotted(),
            Checked(),
            USER,
            (USER,),
        ),
    ],
)
def test_what_nobody_can_change(value: Any):
    assert (immutable_size(value) or 0) > 0 or value is Colour.RED


@pytest.mark.parametrize(
    "value",
    [
        *([], {}, set(), bytearray(), object(), Thawed(), Open(), Private(), Lazy(), Root(), Loose(), Sub()),
        *(
            Text("a"),
            Words(("a",)),
            ([],),
            (1, (2, {})),
            Pair([]),
            Frozen(value=[]),
            Point({}),
            Slotted(set()),
        ),
        SystemLog(level="info", service="a", message="a", context={}),
    ],
)
def test_what_somebody_could_change(value: Any):
    assert immutable_size(value) is None


def test_the_size_grows_with_what_is_in_it():
    assert (immutable_size("x" * 10_000) or 0) > 10_000
    assert (immutable_size((USER,) * 100) or 0) > 50 * (immutable_size(USER) or 0) > 50 * 500


def test_prefixes_of_which_one_holds_another_are_one():
    assert apart(["a:b:{", "a:", "b:{", "a:c", "b:{x", "b"]) == ["a:", "b"]
    assert apart([]) == []
    assert apart(["", "a"]) == [""]
