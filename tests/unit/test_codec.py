"""The codec: a value comes back as it was, or it is a miss; it never comes back as something else."""

import pickle
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import GenericAlias
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field, create_model
from typing_extensions import TypedDict

from multidb.cache.codec import Codec
from multidb.errors import ConfigurationError, DataError
from multidb.models import Company, Model, Page, Session, SystemLog, User

BOUNDED = settings(derandomize=True, max_examples=60, deadline=None)

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Point:
    x: int
    y: float
    labels: tuple[str, ...] = ()
    inner: "Point | None" = None


class Options(TypedDict):
    name: str
    size: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: str | None


class Shelf(Model):
    id: UUID
    title: str
    price: Decimal | None
    seen: datetime
    colour: Colour
    points: list[Point]
    options: Options
    by_name: dict[str, int | None] = {}


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Box(BaseModel, Generic[T]):
    item: T


def back(type_: Any, value: Any) -> Any:
    """Return what a value of this type is after a stay in the cache."""
    codec = Codec(type_)
    return codec.decode(codec.encode(value))


texts = st.text(st.characters(codec="utf-8"), max_size=10)
moments = st.datetimes(timezones=st.integers(-1439, 1439).map(lambda each: timezone(timedelta(minutes=each))))
decimals = st.decimals(allow_nan=False, allow_infinity=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(Point, st.integers(), finite, st.lists(texts, max_size=2).map(tuple))
options = st.fixed_dictionaries({"name": texts}, optional={"size": st.integers()})
shelves = st.builds(
    Shelf,
    id=st.uuids(),
    title=texts,
    price=st.none() | decimals,
    seen=moments,
    colour=st.sampled_from(Colour),
    points=st.lists(points, max_size=2),
    options=options,
    by_name=st.dictionaries(texts, st.none() | st.integers(), max_size=2),
)

ROUND_TRIPS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "str": (str, texts),
    "int": (int, st.integers()),
    "bool": (bool, st.booleans()),
    "float": (float, finite),
    "bytes of text": (bytes, texts.map(str.encode)),
    "bytes": (bytes, st.binary(max_size=20)),
    "None": (None, st.none()),
    "str | None": (str | None, st.none() | texts),
    "UUID": (UUID, st.uuids()),
    "Decimal": (Decimal, decimals),
    "aware datetime": (datetime, moments),
    "naive datetime": (datetime, st.datetimes()),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timedelta": (timedelta, st.timedeltas()),
    "enum": (Colour, st.sampled_from(Colour)),
    "literal": (Literal["a", 1], st.sampled_from(["a", 1])),
    "int | str": (int | str, st.integers() | texts),
    "int | float": (int | float, st.integers() | finite),
    "int | bool": (int | bool, st.integers() | st.booleans()),
    "list[int]": (list[int], st.lists(st.integers())),
    "set[int]": (set[int], st.sets(st.integers())),
    "frozenset[str]": (frozenset[str], st.frozensets(texts)),
    "tuple[int, str]": (tuple[int, str], st.tuples(st.integers(), texts)),
    "tuple[int, ...]": (tuple[int, ...], st.lists(st.integers()).map(tuple)),
    "dict[str, list[int]]": (dict[str, list[int]], st.dictionaries(texts, st.lists(st.integers()))),
    "dict[int, str]": (dict[int, str], st.dictionaries(st.integers(), texts)),
    "dict[UUID, Decimal]": (dict[UUID, Decimal], st.dictionaries(st.uuids(), decimals)),
    "dict[date, None]": (dict[date, None], st.dictionaries(st.dates(), st.none())),
    "dataclass": (Point, points),
    "dataclass in itself": (Point, st.builds(Point, st.integers(), finite, inner=points)),
    "TypedDict": (Options, options),
    "NamedTuple": (Pair, st.builds(Pair, st.integers(), st.none() | texts)),
    "model": (Shelf, shelves),
    "list of models, or None": (list[Shelf] | None, st.none() | st.lists(shelves, max_size=2)),
    "generic model": (Box[Point], st.builds(Box[Point], item=points)),
    "annotated": (Annotated[int, Field(ge=0)], st.integers(min_value=0)),
    "union of models": (Shelf | Point, shelves | points),
}


def typed(value: Any) -> Any:
    """Return a value together with the types inside it, so that 1, 1.0 and True differ."""
    match value:
        case BaseModel():
            return type(value), typed(dict(value))
        case dict():
            return type(value), {typed_key(key): typed(each) for key, each in value.items()}
        case list() | tuple():
            return type(value), [typed(each) for each in value]
        case set() | frozenset():
            return type(value), value
        case datetime():
            return datetime, value, value.utcoffset()
        case _:
            return type(value), value


def typed_key(key: Any) -> Any:
    return type(key), key


@pytest.mark.parametrize("kind", ROUND_TRIPS)
@BOUNDED
@given(data=st.data())
def test_a_value_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    type_, values = ROUND_TRIPS[kind]
    value = data.draw(values)
    assert typed(back(type_, value)) == typed(value)


def test_a_model_that_holds_itself_comes_back() -> None:
    tree = Tree(value=1, children=[Tree(value=2, children=[Tree(value=3)])])
    assert back(Tree, tree) == tree


@pytest.mark.parametrize("model", [User, Company, Session, SystemLog])
def test_every_entity_can_be_cached(model: type[BaseModel]) -> None:
    id = UUID("01900000-0000-7000-8000-000000000001")
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    values = {
        "id": id,
        "created_at": now,
        "updated_at": now,
        "last_seen_at": now,
        "expires_at": now,
        "timestamp": now,
        "version": 3,
        "email": "ada@example.com",
        "name": "Ada",
        "slug": "ada",
        "user_id": id,
        "level": "info",
        "service": "shop",
        "message": "ok",
    }
    made = model.model_validate({name: each for name, each in values.items() if name in model.model_fields})
    assert back(model | None, made) == made
    assert back(model | None, None) is None


def test_a_page_of_entities_comes_back() -> None:
    page = Page((Tree(value=1), Tree(value=2)), "next")
    assert back(Page[Tree], page) == page


# --- never another value than was stored

NOT_NUMBERS = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
@pytest.mark.parametrize("type_", [float, float | None, Decimal | float | None], ids=repr)
def test_a_float_that_is_no_number_comes_back_or_is_refused_but_is_never_none(
    type_: Any, value: float
) -> None:
    codec = Codec(type_)
    try:
        again = codec.decode(codec.encode(value))
    except (DataError, ValueError):
        return
    assert repr(again) == repr(value)


@pytest.mark.parametrize("value", [float("inf"), float("-inf")], ids=repr)
def test_an_infinity_is_found_again(value: float) -> None:
    """What can be stored but never read would be loaded anew at every call."""
    assert back(float, value) == value


class Login(BaseModel):
    user: str
    password: SecretStr


class Renamed(BaseModel):
    user_name: str = Field(alias="userName")


class RenamedOneWay(BaseModel):
    user_name: str = Field(validation_alias="userName")


class Partly(BaseModel):
    shown: int
    hidden: int = Field(default=0, exclude=True)


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    net: int

    @computed_field
    def gross(self) -> int:
        return self.net * 2


def test_a_secret_in_a_model_does_not_come_back_as_asterisks() -> None:
    login = Login(user="ada", password=SecretStr("hunter2"))
    try:
        codec = Codec(Login)
        again = codec.decode(codec.encode(login))
    except (ConfigurationError, DataError):
        return  # Refusing to cache a secret is as good.
    assert again == login


def test_a_field_left_out_of_the_json_does_not_come_back_as_its_default() -> None:
    try:
        codec = Codec(Partly)
        again = codec.decode(codec.encode(Partly(shown=1, hidden=7)))
    except (ConfigurationError, DataError):
        return
    assert again == Partly(shown=1, hidden=7)


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (Renamed, {"userName": "ada"}),
        (RenamedOneWay, {"userName": "ada"}),
        (Computed, {"net": 2}),
    ],
)
def test_a_model_with_aliases_or_computed_fields_is_found_again(
    type_: type[BaseModel], values: dict[str, Any]
) -> None:
    made = type_.model_validate(values)
    assert back(type_, made) == made


class Wide(Tree):
    more: int = 0


def test_what_a_subclass_adds_does_not_get_lost() -> None:
    wide = Wide(value=1, more=2)
    for type_, value in ((Tree, wide), (list[Tree], [wide]), (Tree | None, wide)):
        codec = Codec(type_)
        try:
            again = codec.decode(codec.encode(value))
        except (DataError, ValueError):
            continue
        assert again == value


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (bytes | str, "text"),
        (str | bytes, b"bytes"),
        (UUID | str, "01900000-0000-7000-8000-000000000001"),
        (datetime | str, "2026-01-01T00:00:00Z"),
        (Any, (1, 2)),
        (object, UUID(int=1)),
        (dict[str, Any], {"at": datetime(2026, 1, 1, tzinfo=UTC)}),
        (dict, {1: 2}),
    ],
    ids=repr,
)
def test_a_value_whose_kind_json_forgets_is_refused_or_comes_back_the_same(type_: Any, value: Any) -> None:
    try:
        codec = Codec(type_)
        again = codec.decode(codec.encode(value))
    except (ConfigurationError, DataError, ValueError):
        return
    assert typed(again) == typed(value)


# --- misses

BEFORE: Any = create_model("Item", id=(UUID, ...), name=(str, ...))
CHANGED: dict[str, Any] = {
    "a field more": create_model("Item", id=(UUID, ...), name=(str, ...), size=(int, ...)),
    "a field more, with a default": create_model("Item", id=(UUID, ...), name=(str, ...), size=(int, 0)),
    "a field less": create_model("Item", id=(UUID, ...)),
    "a field renamed": create_model("Item", id=(UUID, ...), title=(str, ...)),
    "a field of another type": create_model("Item", id=(UUID, ...), name=(str | None, ...)),
    "a field with bounds": create_model(
        "Item", id=(UUID, ...), name=(Annotated[str, Field(max_length=3)], ...)
    ),
    "an id of another type": create_model("Item", id=(str, ...), name=(str, ...)),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_value_of_a_model_that_has_changed_since_is_a_miss(change: str) -> None:
    stored = Codec(BEFORE).encode(BEFORE(id=UUID(int=1), name="a"))
    assert Codec(create_model("Item", id=(UUID, ...), name=(str, ...))).decode(stored).name == "a"
    with pytest.raises(ValueError, match="schema"):
        Codec(CHANGED[change]).decode(stored)
    # Nor does what the new version stored look right to the old one.
    with pytest.raises(ValueError, match="schema"):
        Codec(BEFORE).decode(
            Codec(CHANGED[change]).encode(
                CHANGED[change].model_construct(
                    id=UUID(int=1) if change != "an id of another type" else "1", name="a", size=1, title="a"
                )
            )
        )


@pytest.mark.parametrize("change", ["a field more", "a field of another type"])
def test_a_change_deep_inside_is_a_miss_too(change: str) -> None:
    def nested(model: Any) -> Any:
        return GenericAlias(dict, (str, GenericAlias(list, model)))

    stored = Codec(nested(BEFORE)).encode({"a": [BEFORE(id=UUID(int=1), name="a")]})
    with pytest.raises(ValueError, match="schema"):
        Codec(nested(CHANGED[change])).decode(stored)


@pytest.mark.parametrize(
    ("one", "other"), [(int, str), (str, UUID), (int, float), (str, bytes), (str, str | None)]
)
def test_a_value_of_another_type_is_a_miss(one: Any, other: Any) -> None:
    sample = {int: 1, str: "1"}[one]
    with pytest.raises(ValueError, match="schema"):
        Codec(other).decode(Codec(one).encode(sample))


@BOUNDED
@given(st.binary(max_size=60))
def test_bytes_from_elsewhere_are_a_miss(stored: bytes) -> None:
    with pytest.raises(ValueError, match="schema"):
        Codec(Shelf).decode(stored)


@BOUNDED
@given(st.data())
def test_damaged_bytes_are_a_miss_or_another_value_of_the_type(data: st.DataObject) -> None:
    codec = Codec(Tree)
    stored = bytearray(codec.encode(Tree(value=1, children=[Tree(value=2)])))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert isinstance(codec.decode(bytes(stored)), Tree)
    except ValueError as error:
        assert "schema" in str(error)


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: b"",
        lambda stored: stored[:4],
        lambda stored: stored[:8],
        lambda stored: stored[:-1],
        lambda stored: stored + b"}",
        lambda stored: stored[:8] + b"\xff\xfe",
        lambda stored: stored[:8] + b"[" * 100_000,
        lambda stored: stored[:8] + b'{"value": ' + b"9" * 5000 + b"}",
        lambda stored: stored[:8] + b'{"value": NaN}',
        lambda stored: stored[8:],
    ],
)
def test_damaged_bytes_are_a_miss(damage: Callable[[bytes], bytes]) -> None:
    codec = Codec(Tree)
    with pytest.raises(ValueError, match="schema"):
        codec.decode(damage(codec.encode(Tree(value=1))))


def test_a_miss_is_not_mistaken_for_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match="schema") as caught:
        Codec(int).decode(b"")
    assert not isinstance(caught.value, DataError)


# --- refusals


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, "1"),
        (int, 1.0),
        (str, 1),
        (str, b"a"),
        (str, "\ud800"),
        (bool, 1),
        (list[int], ["1"]),
        (list[int], (1,)),
        (set[int], [1]),
        (dict[str, int], {"a": "1"}),
        (UUID, "01900000-0000-7000-8000-000000000001"),
        (datetime, "2026-01-01T00:00:00Z"),
        (Point, {"x": 1, "y": 1.0}),
        (Tree, {"value": 1}),
        (Tree | None, 1),
        (Options, {"name": 1}),
        pytest.param(Any, object(), id="an object"),
    ],
    ids=repr,
)
def test_a_value_that_is_not_of_the_declared_type_is_refused(type_: Any, value: object) -> None:
    with pytest.raises(DataError, match="declared type"):
        Codec(type_).encode(value)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, None),
        (list[int], [None]),
        (dict[str, int], {"a": None}),
        (Tree, None),
        (Tree, Point(1, 2.0)),
        (Options, {}),
        (Literal["a"], "b"),
        (Annotated[int, Field(ge=0)], -1),
    ],
    ids=repr,
)
def test_what_is_wrongly_stored_is_a_miss(type_: Any, value: object) -> None:
    codec = Codec(type_)
    try:
        stored = codec.encode(value)
    except DataError:
        return
    with pytest.raises(ValueError, match="schema"):
        codec.decode(stored)


def test_the_refusal_does_not_quote_the_value() -> None:
    with pytest.raises(DataError) as caught:
        Codec(int).encode("hunter2")
    assert "hunter2" not in str(caught.value)


class Plain:
    """No type pydantic knows."""


@dataclass
class WithPlain:
    plain: Plain = field(default_factory=Plain)


@pytest.mark.parametrize(
    "type_",
    [
        Plain,
        list[Plain],
        Plain | None,
        WithPlain,
        type,
        Callable[[], int],
        Iterator[int],
        memoryview,
        "NoSuchName",
        list["NoSuchName"],  # type: ignore[name-defined]  # noqa: F821 - the point
    ],
    ids=repr,
)
def test_a_type_that_cannot_be_stored_is_refused_when_declared(type_: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be cached"):
        Codec(type_)


class Standard(typing.TypedDict):
    name: str


def test_the_typed_dict_of_the_standard_library_is_taken_or_the_refusal_says_which_to_use() -> None:
    try:
        codec = Codec(Standard)
    except ConfigurationError as error:
        assert "typing_extensions" in str(error)
    else:
        assert codec.decode(codec.encode({"name": "a"})) == {"name": "a"}


def test_what_is_stored_is_never_a_pickle() -> None:
    for type_, value in [
        (int, 1),
        (str, "a"),
        (Tree, Tree(value=1)),
        (Point, Point(1, 2.0)),
        (bytes, b"a"),
        (Pair, Pair(1, None)),
    ]:
        stored = Codec(type_).encode(value)
        assert stored.isascii()
        assert not stored.startswith(b"\x80")


@dataclass
class Bomb:
    """Says when it is unpickled."""

    armed = True

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Bomb, "armed", False)


def test_a_pickle_put_in_the_cache_is_not_run() -> None:
    for type_ in (Any, bytes, Tree):
        codec = Codec(type_)
        for stored in (pickle.dumps(Bomb()), codec._fingerprint + pickle.dumps(Bomb())):
            with pytest.raises(ValueError, match="schema"):
                codec.decode(stored)
    assert Bomb.armed
