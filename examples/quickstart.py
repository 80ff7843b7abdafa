"""A small application's day on PostgreSQL, MongoDB and Redis.

    python examples/quickstart.py            # or `make demo`

It starts the three servers in `.multidb`, does a day's work through them, tells what landed
where, and stops them again. The data stays: run it twice, and the second day finds the first.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import secrets
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from multidb import (
    AlreadyExistsError,
    Company,
    ConflictError,
    LogLevel,
    MultiDB,
    MultiDBError,
    NewCompany,
    NewDocument,
    NewUser,
    Page,
    SystemLog,
    User,
)
from multidb.models.ids import uuid7
from multidb.ops import sample_data
from multidb.registry import ROUTES

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def main() -> None:
    """Start the servers, live the day, stop the servers."""
    parser = argparse.ArgumentParser(description="A small application's day on three stores.")
    parser.add_argument("--dir", type=Path, default=Path(".multidb"), help="where the data is kept")
    directory: Path = parser.parse_args().dir
    report = Reporter()
    began = time.perf_counter()
    try:
        asyncio.run(live_the_day(directory, report))
    except MultiDBError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
    report.scene("The servers have stopped")
    report.note(f"done in {time.perf_counter() - began:.1f} s; the data stays in {directory}")


async def live_the_day(directory: Path, report: Reporter) -> None:
    """Open the database and play the scenes, one after the other."""
    report.scene(f"The servers start, in {directory}")
    async with MultiDB.embedded(directory, progress=report.note) as db:
        report.note("schemas: up to date")
        await the_stores_answer(db, report)
        await the_sample_data_is_loaded(db, report)
        company, ada, grace = await a_company_joins(db, report)
        token = await ada_signs_in(db, report, ada)
        await her_profile_is_read_often(db, report, ada)
        await she_changes_her_name(db, report, ada)
        await her_address_is_taken(db, report, ada)
        await half_a_transaction_is_undone(db, report, ada, grace)
        await the_company_keeps_documents(db, report, company, ada)
        await the_shop_writes_its_log(db, report, ada)
        await everyone_is_listed(db, report)
        await a_function_is_cached(db, report, ada)
        await ada_signs_out(db, report, token, grace)
        await what_is_stored_where(db, report)


# --- the scenes of the day


async def the_stores_answer(db: MultiDB, report: Reporter) -> None:
    """Ask each store how it does. `health` never raises."""
    report.scene("The stores answer")
    health = await db.health()
    for name, store in (("PostgreSQL", health.postgres), ("MongoDB", health.mongo), ("Redis", health.redis)):
        report.line(
            name, "", f"{store.version}, {store.role}" if store.ok else str(store.detail), store.latency
        )


async def the_sample_data_is_loaded(db: MultiDB, report: Reporter) -> None:
    """Load a few companies with their users and logs, unless an earlier day did."""
    report.scene("The sample data")
    await report.timed("users", lambda count: f"{count} users were there before", db.users.count())
    await report.timed(None, str, sample_data.load(db))


async def a_company_joins(db: MultiDB, report: Reporter) -> tuple[Company, User, User]:
    """Add a company and two users. Their ids are made here, so adding one twice is refused."""
    report.scene("A company joins, and two who work there")
    slug = f"harbour-bakery-{secrets.token_hex(3)}"  # another one each day
    bakery = NewCompany(name="Harbour Bakery", slug=slug)
    ada = NewUser(name="Ada Byron", email=f"Ada@{slug}.example")
    grace = NewUser(name="Grace Hopper", email=f"grace@{slug}.example")
    return (
        await report.timed("companies", lambda added: added.slug, db.companies.add(bakery)),
        await report.timed("users", lambda added: added.email, db.users.add(ada)),
        await report.timed("users", lambda added: added.email, db.users.add(grace)),
    )


async def ada_signs_in(db: MultiDB, report: Reporter, ada: User) -> str:
    """Find the user, start a session, and look it up by its token, as each request would."""
    report.scene("Ada signs in")
    user = await report.timed(
        "users", "found by e-mail, whatever its case", db.users.by_email(ada.email.upper())
    )
    assert user is not None
    token, session = await report.timed(
        "sessions", "session created", db.sessions.create(user.id, device="laptop")
    )
    found = await report.timed("sessions", "looked up by its token", db.sessions.get(token))
    assert found == session
    return token


async def her_profile_is_read_often(db: MultiDB, report: Reporter, ada: User) -> None:
    """Read a user a hundred times from PostgreSQL, and a hundred times by way of the cache."""
    report.scene("Her profile is read often")

    async def read_100_times() -> None:
        for _ in range(100):
            await db.users.get(ada.id)

    with db.uncached():
        await report.timed("users", "one read of 100, uncached", read_100_times(), times=100)
    await report.timed("cache", "first read, fills the cache", db.users.get(ada.id))
    await report.timed("cache", "one read of 100, cache hits", read_100_times(), times=100)


async def she_changes_her_name(db: MultiDB, report: Reporter, ada: User) -> None:
    """Rename the user: the next read sees it, and whoever still holds the old version is refused."""
    report.scene("She changes her name")
    await report.timed(
        "users",
        lambda user: f"version {ada.version} becomes {user.version}",
        db.users.update(ada.id, name="Ada Lovelace", version=ada.version),
    )
    await report.timed("cache", lambda user: f"the next read: {user.name}", db.users.fetch(ada.id))
    try:
        await db.users.update(ada.id, name="Ada King", version=ada.version)
    except ConflictError as error:
        report.refused(error)


async def her_address_is_taken(db: MultiDB, report: Reporter, ada: User) -> None:
    """Try to add a user with the same e-mail in capitals."""
    report.scene("Someone signs up with her e-mail, in capitals")
    try:
        await db.users.add(NewUser(name="Not Ada", email=ada.email.upper()))
    except AlreadyExistsError as error:
        report.refused(error)


async def half_a_transaction_is_undone(db: MultiDB, report: Reporter, ada: User, grace: User) -> None:
    """Write in a transaction, and in a savepoint inside it that fails and is rolled back."""
    report.scene("A transaction, and a savepoint in it that is rolled back")

    async def promote_grace_but_not_ada() -> None:
        async with db.transaction():
            await db.users.update(grace.id, name="Admiral Hopper")
            try:
                async with db.transaction():
                    await db.users.update(ada.id, name="Admiral Lovelace")
                    await db.users.update(ada.id, email=grace.email)
            except AlreadyExistsError:
                report.note("the address is taken: both of Ada's changes are undone, Grace's stays")

    await report.timed("users", "committed", promote_grace_but_not_ada())
    for user in (grace, ada):
        await report.timed("users", lambda user: f"her name is {user.name}", db.users.fetch(user.id))


async def the_company_keeps_documents(db: MultiDB, report: Reporter, company: Company, ada: User) -> None:
    """Add documents for one company, search them, and see who changed what."""
    report.scene("The company keeps documents, and nobody else sees them")
    await report.timed(
        "company_users",
        lambda membership: f"Ada is its {membership.role}",
        db.company_users.join(company.id, user_id=ada.id, role="owner"),
    )

    def document(title: str, body: str) -> NewDocument:
        return NewDocument(company_id=company.id, owner_id=ada.id, title=title, body=body)

    async with db.tenant(company.id):
        async with db.transaction(actor=ada.email, request_id="quickstart"):
            recipe = await report.timed(
                "documents",
                "a recipe added",
                db.documents.add(document("Rye bread", "Sour dough, two days.")),
            )
            await db.documents.add(document("Opening hours", "From five in the morning, but on Mondays."))
        found = await report.timed(
            "documents",
            lambda page: f"found: {page.items[0].snippet}",
            db.documents.search("doughs"),
        )
        assert [each.document.id for each in found] == [recipe.id]
        await db.documents.update(recipe.id, status="ready")
        history = await report.timed(
            "audit_logs",
            lambda page: f"its history: {', '.join(entry.action for entry in page)}",
            db.audit_logs.history("documents", recipe.id),
        )
        assert [entry.actor for entry in history] == [ada.email, None]
    async with db.tenant(uuid7()):
        await report.timed("documents", "for another company it is: {}".format, db.documents.get(recipe.id))


async def the_shop_writes_its_log(db: MultiDB, report: Reporter, ada: User) -> None:
    """Append log entries, and find the newest of one level."""
    report.scene("The shop writes its log")
    for level, message in (
        (LogLevel.INFO, "the oven is hot"),
        (LogLevel.WARNING, "flour runs low"),
        (LogLevel.ERROR, "the card terminal is silent"),
    ):
        entry = SystemLog(level=level, service="shop", message=message, user_id=ada.id)
        await report.timed("system_logs", f"{level}: {message}", db.system_logs.append(entry))
    errors = await report.timed(
        "system_logs",
        lambda page: f"the {len(page)} newest errors found",
        db.system_logs.find(level=LogLevel.ERROR, limit=10),
    )
    report.note(f"the newest: {errors.items[0].service}: {errors.items[0].message}")


async def everyone_is_listed(db: MultiDB, report: Reporter) -> None:
    """Go through all users by name, a page at a time; the last page costs what the first does."""
    report.scene("Everyone is listed, a page at a time")

    def extent(page: Page[User]) -> str:
        return f"{len(page)} users, {page.items[0].name} to {page.items[-1].name}"

    page = await report.timed("users", extent, db.users.find(order_by="name", limit=75))
    while page.next:
        page = await report.timed("users", extent, db.users.find(order_by="name", limit=75, after=page.next))


async def a_function_is_cached(db: MultiDB, report: Reporter, ada: User) -> None:
    """Keep what any async function returns, until it is invalidated or its time is over."""
    report.scene("A function of the application is cached")
    email = db.users.table.c.email

    @db.cached("report:colleagues:{domain}", ttl=timedelta(minutes=5))
    async def colleagues(domain: str) -> int:
        return await db.users.count(email.endswith(f"@{domain}", autoescape=True))

    domain = ada.email.partition("@")[2]
    await report.timed("report:colleagues:{domain}", "first call: {} counted".format, colleagues(domain))
    await report.timed("report:colleagues:{domain}", "second call: {} remembered".format, colleagues(domain))
    await db.users.add(NewUser(name="Alan Turing", email=f"alan@{domain}"))
    await colleagues.invalidate(domain)
    await report.timed("report:colleagues:{domain}", "one more joined: {} counted".format, colleagues(domain))


async def ada_signs_out(db: MultiDB, report: Reporter, token: str, grace: User) -> None:
    """End the session: its token opens nothing from now on."""
    report.scene("Ada signs out; Grace is still at work")
    await report.timed("sessions", "Grace signs in", db.sessions.create(grace.id, device="phone"))
    await report.timed("sessions", "Ada's session revoked", db.sessions.revoke(token))
    await report.timed("sessions", "her token now opens: {}".format, db.sessions.get(token))


async def what_is_stored_where(db: MultiDB, report: Reporter) -> None:
    """Count what the stores hold by now."""
    report.scene("What is stored where")
    keys = ("session:user:{user_id}", "cache:user:{user_id}", "report:colleagues:{domain}")
    report.table(
        ("store", "table, collection or key", "count"),
        [
            ("PostgreSQL", "companies", await db.companies.count()),
            ("PostgreSQL", "users", await db.users.count()),
            ("PostgreSQL", "documents", await db.documents.count()),
            ("PostgreSQL", "audit_logs", await db.audit_logs.count()),
            ("MongoDB", "system_logs", await db.mongo.database["system_logs"].estimated_document_count()),
            *[("Redis", key, await count_keys(db, key)) for key in keys],
        ],
    )


async def count_keys(db: MultiDB, pattern: str) -> int:
    """Count the keys of a pattern: for once, by going through all of Redis."""
    glob = db.settings.key_prefix + re.sub(r"\{.*?\}", "{*}", pattern) + "*"
    return len([key async for key in db.redis.client.scan_iter(glob, count=1000)])


# --- how the day is told


class Reporter:
    """Prints the day: in colour on a terminal where rich is installed, else as plain text."""

    #: Where each entity lives, as the registry has it; `multidb routes` prints it all.
    _places = {route.entity: (route.store, route.target) for route in ROUTES}
    _stores = {"postgres": "PostgreSQL", "mongo": "MongoDB", "redis": "Redis"}

    def __init__(self) -> None:
        self._console = _console() if sys.stdout.isatty() else None

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._print(f"\n{title}", "bold cyan")

    def note(self, text: str) -> None:
        """Say something in passing."""
        self._print(f"  {text}", "dim")

    async def timed(
        self, place: str | None, text: str | Callable[[T], str], call: Awaitable[T], *, times: int = 1
    ) -> T:
        """Await the call, tell where it went and how long it took, and return its result."""
        began = time.perf_counter()
        result = await call
        took = timedelta(seconds=time.perf_counter() - began) / times
        told = text if isinstance(text, str) else text(result)
        # What the registry does not know is a key of this application's own.
        store, target = self._places.get(place, ("redis", place)) if place else ("", "")
        self.line(self._stores.get(store, ""), target, told, took)
        return result

    def line(self, store: str, target: str, text: str, took: timedelta | None) -> None:
        """Tell what happened where, and how long it took."""
        milliseconds = f"{took / timedelta(milliseconds=1):8.2f} ms" if took is not None else ""
        self._print(f"  {store:<11}{target:<28}{text:<44}{milliseconds}".rstrip())

    def refused(self, error: MultiDBError) -> None:
        """Show an error that was meant to happen."""
        told = textwrap.fill(f"refused with {type(error).__name__}: {error}", 92)
        self._print(textwrap.indent(told, "  "), "yellow")

    def table(self, header: tuple[str, str, str], rows: Sequence[tuple[str, str, int]]) -> None:
        """Print rows under a header."""
        widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows, strict=True)]
        for store, target, count in (header, *rows):
            style = "bold" if count == header[-1] else ""
            self._print(f"  {store:<{widths[0]}}  {target:<{widths[1]}}  {count:>{widths[2]}}", style)

    def _print(self, text: str, style: str = "") -> None:
        if self._console:
            self._console.print(text, style=style)
        else:
            # In one piece, for the servers start side by side and each tells of itself.
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def _console() -> Console | None:
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
