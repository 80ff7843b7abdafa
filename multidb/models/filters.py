"""Filters and orders over an entity's fields, the same for every store.

    db.users.c.name.ilike("a%") & ~db.users.c.email.in_(blocked)

A condition is true or false, never unknown as in SQL: null equals only null, is neither less nor
greater than a value, and `~` turns every false into true, that of a null included.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar
from uuid import UUID

from multidb.errors import DataError

__all__ = [
    "And",
    "Comparison",
    "Condition",
    "EntityFields",
    "Field",
    "Fields",
    "Not",
    "Operator",
    "Or",
    "Order",
    "Reader",
    "RowFields",
    "VersionedFields",
]

T = TypeVar("T")

Operator: TypeAlias = Literal["eq", "lt", "le", "gt", "ge", "in", "like", "ilike"]


class Condition:
    """What an item may fulfil; combined by `&`, `|` and `~`."""

    __slots__ = ()

    def __and__(self, other: "Condition") -> "Condition":
        return And((self, other))

    def __or__(self, other: "Condition") -> "Condition":
        return Or((self, other))

    def __invert__(self) -> "Condition":
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError("a condition is neither true nor false here: combine conditions by &, | and ~")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison(Condition):
    """A field against a value; `in` takes a tuple of values."""

    field: str
    operator: Operator
    value: Any
    #: Whose field it is; empty for that of whatever is asked.
    entity: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class And(Condition):
    """All of them; of none, true."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Or(Condition):
    """Any of them; of none, false."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Not(Condition):
    """The opposite."""

    condition: Condition


#: Returns a value of a comparison as what its field holds, or raises for what does not fit.
Reader: TypeAlias = Callable[[Comparison, Any], Any]


@dataclass(frozen=True, slots=True)
class Order:
    """By which field to order, and which way."""

    field: str
    descending: bool = False
    #: Whose field it is; empty for that of whatever is asked.
    entity: str = ""


class Field(Generic[T]):
    """One field of an entity, to make conditions and orders of."""

    __slots__ = ("entity", "name")

    def __init__(self, name: str, entity: str = "") -> None:
        self.name = name
        self.entity = entity

    def __eq__(self, value: T) -> Condition:  # type: ignore[override]
        return self._compared("eq", value)

    def __ne__(self, value: T) -> Condition:  # type: ignore[override]
        return Not(self._compared("eq", value))

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, value: T) -> Condition:
        return self._compared("lt", value)

    def __le__(self, value: T) -> Condition:
        return self._compared("le", value)

    def __gt__(self, value: T) -> Condition:
        return self._compared("gt", value)

    def __ge__(self, value: T) -> Condition:
        return self._compared("ge", value)

    def in_(self, values: Iterable[T]) -> Condition:
        """Be equal to one of `values`; None among them stands for null."""
        if isinstance(values, str | bytes):
            raise DataError(f"`{self.name}.in_` takes several values, not one text")
        # A set has another order in another process, which would not know a cursor of this one's.
        ordered = sorted(values, key=repr) if isinstance(values, set | frozenset) else values
        return self._compared("in", tuple(ordered))

    def between(self, low: T, high: T) -> Condition:
        """Be `low`, `high` or anything between."""
        return And((self >= low, self <= high))

    def like(self, pattern: str) -> Condition:
        r"""Match a pattern in which `%` is any text, `_` any character, and `\` takes their meaning away."""
        return self._compared("like", pattern)

    def ilike(self, pattern: str) -> Condition:
        """Match a pattern as `like` does, whatever the case."""
        return self._compared("ilike", pattern)

    def is_null(self) -> Condition:
        """Have no value."""
        return self._compared("eq", None)

    def is_not_null(self) -> Condition:
        """Have a value."""
        return Not(self._compared("eq", None))

    def asc(self) -> Order:
        """Order by it, the least first; null stands where the store has it."""
        return Order(self.name, entity=self.entity)

    def desc(self) -> Order:
        """Order by it, the greatest first; null stands where the store has it."""
        return Order(self.name, descending=True, entity=self.entity)

    def _compared(self, operator: Operator, value: Any) -> Condition:
        return Comparison(self.name, operator, value, self.entity)

    def __repr__(self) -> str:
        return f"Field({self.name!r})"


class Fields:
    """The fields of an entity, an attribute each.

    A subclass annotates them, so that type checkers know them::

        class UserFields(RowFields):
            email: Field[str]
    """

    def __init__(self, entity: str, names: Iterable[str]) -> None:
        self._entity = entity
        self.__dict__.update({name: Field(name, entity) for name in names})

    def __getitem__(self, name: str) -> Field[Any]:
        """Return the field of this name. Raises: DataError if there is none."""
        field = self.__dict__.get(name)
        if not isinstance(field, Field):
            raise DataError(self._unknown(name))
        return field

    if not TYPE_CHECKING:  # a type checker that saw this would let every name pass

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        names = ", ".join(each for each in self.__dict__ if not each.startswith("_"))
        return f"`{name}` is not a field of {self.__dict__.get('_entity')}; it has {names}"


class EntityFields(Fields):
    """The field of every entity."""

    id: Field[UUID]


class RowFields(EntityFields):
    """The fields of every row of PostgreSQL."""

    created_at: Field[datetime]
    updated_at: Field[datetime]
    version: Field[int]


class VersionedFields(EntityFields):
    """The fields of every document of MongoDB that may change."""

    created_at: Field[datetime]
    updated_at: Field[datetime]
    version: Field[int]
