"""What the contract suite runs over: each repository, and how to make things for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from multidb import MultiDB, NewCompany, NewUser, SystemLog


@dataclass(frozen=True)
class Subject:
    """One repository under the contract."""

    name: str
    #: Makes the n-th new thing; things with different n share no unique value.
    new: Callable[[int], Any]
    #: A field to sort and filter by, with the value the n-th thing has there; several share one.
    field: str
    value: Callable[[int], Any]

    def repository(self, db: MultiDB) -> Any:
        return getattr(db, self.name)

    async def store(self, db: MultiDB, n: int) -> Any:
        """Store the n-th thing and return it as stored."""
        repository = self.repository(db)
        if isinstance(new := self.new(n), SystemLog):
            await repository.append(new)
            return new
        return await repository.add(new)

    async def store_many(self, db: MultiDB, count: int) -> list[Any]:
        return [await self.store(db, n) for n in range(count)]


@dataclass(frozen=True)
class RowSubject(Subject):
    """A repository that can also change and delete."""

    #: The unique field, the constraint that guards it, and another spelling of the n-th value.
    unique: str
    constraint: str
    taken: Callable[[int], Any]


USERS = RowSubject(
    "users",
    new=lambda n: NewUser(email=f"user{n}@example.com", name=f"Name {n % 3}"),
    field="name",
    value=lambda n: f"Name {n % 3}",
    unique="email",
    constraint="users_email_key",
    taken=lambda n: NewUser(email=f"USER{n}@Example.COM", name="Another"),
)

COMPANIES = RowSubject(
    "companies",
    new=lambda n: NewCompany(name=f"Name {n % 3}", slug=f"company-{n}"),
    field="name",
    value=lambda n: f"Name {n % 3}",
    unique="slug",
    constraint="companies_slug_key",
    taken=lambda n: NewCompany(name="Another", slug=f"company-{n}"),
)

SYSTEM_LOGS = Subject(
    "system_logs",
    new=lambda n: SystemLog(level="info", service=f"service-{n % 3}", message=f"entry {n}"),
    field="service",
    value=lambda n: f"service-{n % 3}",
)

ROWS = (USERS, COMPANIES)
ALL = (*ROWS, SYSTEM_LOGS)

Store = Callable[[MultiDB, int], Awaitable[Any]]
