"""Sample data: a few companies, the people who work there, and a day of their services' logs.

Every id follows from what it is the id of, so loading again finds what is there. The addresses
end in `.example`, which belongs to nobody (RFC 2606).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid5

from multidb.client import MultiDB
from multidb.errors import AlreadyExistsError
from multidb.models.companies import NewCompany
from multidb.models.fields import utc_now
from multidb.models.system_logs import LogLevel, SystemLog
from multidb.models.users import NewUser
from multidb.repositories.postgres import PostgresRepository

__all__ = ["SampleData", "load"]

_AnyRows: TypeAlias = PostgresRepository[Any, Any, Any]

_NAMESPACE = UUID("6d756c74-6964-4273-a16d-706c65000001")

_COMPANIES = {
    "northwind": "Northwind Traders",
    "tidewater": "Tidewater Shipping",
    "lumen": "Lumen Optics",
    "orchard": "Orchard & Sons",
    "basalt": "Basalt Construction",
    "meridian": "Meridian Travel",
}
_USERS = 200
_LOGS = 300

_FIRST_NAMES = (
    "Amara Bruno Chiara Dmitri Elif Farid Greta Hana Ivo Jonas "
    "Kavya Leila Mateo Nadia Oskar Priya Quentin Rosa Samir Tove"
)
_LAST_NAMES = (
    "Adeyemi Brandt Castillo Duarte Eriksen Fontaine Gupta Haddad Ito Jansen "
    "Kowalski Lindgren Moreau Novak Okafor Petrov Quispe Rossi Schmidt Tanaka"
)

#: Level, service, message: ten of them, an error and two warnings among them.
_EVENTS = (
    (LogLevel.INFO, "web", "signed in"),
    (LogLevel.INFO, "web", "document opened"),
    (LogLevel.DEBUG, "web", "page rendered"),
    (LogLevel.INFO, "mailer", "newsletter sent"),
    (LogLevel.WARNING, "web", "response took longer than a second"),
    (LogLevel.INFO, "billing", "invoice created"),
    (LogLevel.DEBUG, "worker", "queue is empty"),
    (LogLevel.ERROR, "billing", "payment provider did not answer"),
    (LogLevel.INFO, "worker", "report built"),
    (LogLevel.WARNING, "mailer", "address bounced"),
)


@dataclass(frozen=True, slots=True)
class SampleData:
    """How much one `load` has added: nothing, where all of it was there."""

    companies: int
    users: int
    system_logs: int

    def __bool__(self) -> bool:
        return bool(self.companies or self.users or self.system_logs)

    def __str__(self) -> str:
        if not self:
            return "all there already, nothing added"
        return f"{self.companies} companies, {self.users} users, {self.system_logs} logs added"


async def load(db: MultiDB) -> SampleData:
    """Add the sample data that is not there yet, and return how much that was. Idempotent.

    What was deleted meanwhile stays deleted, and may be loaded by several processes at once.

    Raises: UnavailableError if PostgreSQL or MongoDB cannot be reached.
    """
    return SampleData(
        companies=await _add_missing(db.companies, _companies()),
        users=await _add_missing(db.users, _users()),
        system_logs=await _append_missing(db, _system_logs()),
    )


def _companies() -> list[NewCompany]:
    return [NewCompany(id=_id("company", slug), name=name, slug=slug) for slug, name in _COMPANIES.items()]


def _users() -> list[NewUser]:
    first_names, last_names, domains = _FIRST_NAMES.split(), _LAST_NAMES.split(), list(_COMPANIES)
    users: list[NewUser] = []
    for number in range(_USERS):
        # Each round of first names meets the last names one further on, so no pair comes twice.
        first = first_names[number % 20]
        last = last_names[(number + number // 20) % 20]
        email = f"{first}.{last}@{domains[number % len(domains)]}.example".lower()
        users.append(NewUser(id=_id("user", email), email=email, name=f"{first} {last}"))
    return users


def _system_logs() -> list[SystemLog]:
    users = _users()
    now = utc_now()
    entries: list[SystemLog] = []
    for number in range(_LOGS):
        level, service, message = _EVENTS[number * 7 % len(_EVENTS)]
        entries.append(
            SystemLog(
                id=_id("system_log", str(number)),
                timestamp=now - timedelta(days=1) * number / _LOGS,
                level=level,
                service=service,
                message=message,
                context={"duration_ms": 3 + number * 37 % 1400, "host": f"app-{1 + number % 3}"},
                user_id=users[number * 13 % _USERS].id if service == "web" else None,
                request_id=f"req-{number:05}",
            )
        )
    return entries


async def _add_missing(repository: _AnyRows, rows: Sequence[NewCompany | NewUser]) -> int:
    there = await repository.get_many(row.id for row in rows)
    missing = [row for row in rows if row.id not in there]
    try:
        return await repository.add_many(missing)
    except AlreadyExistsError:
        # One is deleted, or another process is loading too: COPY takes all or none.
        return sum([await _added(repository, row) for row in missing])


async def _added(repository: _AnyRows, row: NewCompany | NewUser) -> bool:
    try:
        await repository.add(row)
    except AlreadyExistsError:
        return False
    return True


async def _append_missing(db: MultiDB, entries: Sequence[SystemLog]) -> int:
    page = await db.system_logs.find({"_id": {"$in": [entry.id for entry in entries]}}, limit=len(entries))
    there = {entry.id for entry in page}
    return sum(await asyncio.gather(*(_appended(db, entry) for entry in entries if entry.id not in there)))


async def _appended(db: MultiDB, entry: SystemLog) -> bool:
    try:
        await db.system_logs.append(entry)
    except AlreadyExistsError:  # another process is loading too
        return False
    return True


def _id(kind: str, name: str) -> UUID:
    return uuid5(_NAMESPACE, f"{kind}:{name}")
