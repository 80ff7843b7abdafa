"""Any sequence of calls on a repository agrees with the same calls on a plain dict."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multidb import (
    AlreadyExistsError,
    ConflictError,
    MultiDB,
    MultiDBError,
    NewUser,
    NotFoundError,
    User,
)
from multidb.models.ids import uuid7

#: Few of each, so that calls meet: people by number, addresses in two spellings, names.
who = st.integers(0, 3)
address = st.sampled_from(["a", "A", "b", "B", "c"])
named = st.sampled_from(["Ada", "Bob", "Eve"])
version = st.sampled_from([None, 1, 9])
new = st.tuples(who, address, named)
call = st.one_of(
    st.tuples(st.just("add"), new),
    st.tuples(st.just("add_many"), st.lists(new, max_size=3)),
    st.tuples(
        st.just("update"), who, st.fixed_dictionaries({"name": named}, optional={"email": address}), version
    ),
    st.tuples(st.just("update_many"), named, named),
    st.tuples(st.just("upsert"), new, st.sampled_from(["id", "email"])),
    st.tuples(st.just("delete"), who, version),
    st.tuples(st.just("delete_many"), named),
    st.tuples(st.just("restore"), who),
)


@dataclass
class Known:
    """What the dict keeps of a user."""

    email: str
    name: str
    version: int = 1
    deleted: bool = False

    @property
    def key(self) -> str:
        return self.email.casefold()


@dataclass
class Model:
    """The calls, on a dict. Each raises what the repository is to raise, and changes nothing then."""

    rows: dict[UUID, Known] = field(default_factory=dict)

    def living(self) -> dict[UUID, Known]:
        return {id: row for id, row in self.rows.items() if not row.deleted}

    def add(self, id: UUID, email: str, name: str) -> None:
        if id in self.rows or self.holder(email) is not None:
            raise AlreadyExistsError
        self.rows[id] = Known(email, name)

    def holder(self, email: str) -> UUID | None:
        """Return who has this address, in whatever spelling."""
        return next((id for id, row in self.living().items() if row.key == email.casefold()), None)

    def update(self, id: UUID, changes: dict[str, str], version: int | None) -> None:
        row = self.living().get(id)
        if row is None:
            raise NotFoundError
        if version not in (None, row.version):
            raise ConflictError(version=row.version)
        if "email" in changes and self.holder(changes["email"]) not in (None, id):
            raise AlreadyExistsError
        row.email, row.name = changes.get("email", row.email), changes.get("name", row.name)
        row.version += bool(changes)

    def upsert(self, id: UUID, email: str, name: str, on: str) -> None:
        there = id if on == "id" and id in self.rows else self.holder(email) if on == "email" else None
        if there is None:
            return self.add(id, email, name)
        if self.rows[there].deleted:
            raise AlreadyExistsError
        changes = {"name": name} if on == "email" else {"name": name, "email": email}
        return self.update(there, changes, None)

    def delete(self, id: UUID, version: int | None) -> None:
        row = self.living().get(id)
        if row is not None:
            if version not in (None, row.version):
                raise ConflictError(version=row.version)
            row.deleted, row.version = True, row.version + 1

    def restore(self, id: UUID) -> None:
        row = self.rows.get(id)
        if row is None:
            raise NotFoundError
        if row.deleted:
            if self.holder(row.email) is not None:
                raise AlreadyExistsError
            row.deleted, row.version = False, row.version + 1


class Both:
    """Each call, on the repository and on the dict."""

    def __init__(self, db: MultiDB) -> None:
        self.db = db
        self.model = Model()
        self.ids = [uuid7() for _ in range(4)]
        self.domain = f"@{uuid7()}.example"  # no other example's users have it
        self.ours = db.users.c.email.ilike(f"%{self.domain}")

    def values(self, new: tuple[int, str, str]) -> tuple[UUID, str, str]:
        number, email, name = new
        return self.ids[number], email + self.domain, name

    def user(self, new: tuple[int, str, str]) -> NewUser:
        id, email, name = self.values(new)
        return NewUser(id=id, email=email, name=name)

    async def add(self, new: tuple[int, str, str]) -> None:
        await agree(lambda: self.model.add(*self.values(new)), lambda: self.db.users.add(self.user(new)))

    async def add_many(self, several: list[tuple[int, str, str]]) -> None:
        before = dict(self.model.rows)

        def all_or_none() -> None:
            try:
                for new in several:
                    self.model.add(*self.values(new))
            except AlreadyExistsError:
                self.model.rows = before
                raise

        await agree(all_or_none, lambda: self.db.users.add_many(map(self.user, several)))

    async def update(self, number: int, fields: dict[str, str], at: int | None) -> None:
        id = self.ids[number]
        changes: dict[str, Any] = {
            name: value + self.domain if name == "email" else value for name, value in fields.items()
        }
        await agree(
            lambda: self.model.update(id, changes, at),
            lambda: self.db.users.update(id, version=at, **changes),
        )

    async def update_many(self, old: str, new: str) -> None:
        hit = [row for row in self.model.living().values() if row.name == old]
        for row in hit:
            row.name, row.version = new, row.version + 1
        assert await self.db.users.update_many(self.ours, name=old, changes={"name": new}) == len(hit)

    async def upsert(self, new: tuple[int, str, str], on: str) -> None:
        await agree(
            lambda: self.model.upsert(*self.values(new), on),
            lambda: self.db.users.upsert(self.user(new), on=on),
        )

    async def delete(self, number: int, at: int | None) -> None:
        id = self.ids[number]
        await agree(lambda: self.model.delete(id, at), lambda: self.db.users.delete(id, version=at))

    async def delete_many(self, name: str) -> None:
        hit = [row for row in self.model.living().values() if row.name == name]
        for row in hit:
            row.deleted, row.version = True, row.version + 1
        assert await self.db.users.delete_many(self.ours, self.db.users.c.name == name) == len(hit)

    async def restore(self, number: int) -> None:
        id = self.ids[number]
        await agree(lambda: self.model.restore(id), lambda: self.db.users.restore(id))


@settings(
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=st.lists(call, min_size=4, max_size=14))
async def test_a_repository_is_a_dict(db: MultiDB, calls: list[tuple[Any, ...]]):
    both = Both(db)
    for new in ((0, "a", "Ada"), (1, "b", "Bob")):
        await both.add(new)
    for name, *arguments in calls:
        await getattr(both, name)(*arguments)
        await same(db, both.model, both.ids, both.ours)


async def agree(expected: Callable[[], None], actual: Callable[[], Awaitable[Any]]) -> None:
    """Do both: neither raises, or both raise the same, told the same."""
    try:
        expected()
    except MultiDBError as error:
        try:
            await actual()
        except MultiDBError as raised:
            assert type(raised) is type(error)
            assert getattr(raised, "version", None) == getattr(error, "version", None)
        else:
            raise AssertionError(f"{type(error).__name__} was to be raised") from error
    else:
        await actual()


async def same(db: MultiDB, model: Model, ids: list[UUID], ours: Any) -> None:
    """Hold everything that can be read against the dict, through the cache and past it."""
    living = model.living()

    def known(user: User) -> Known:
        return Known(user.email, user.name, user.version)

    assert {id: known(user) for id, user in (await db.users.get_many(ids)).items()} == living
    for id in ids:
        user = await db.users.get(id)
        assert (user and known(user)) == living.get(id)
    page = await db.users.find(ours, order_by=("name", "-email"), total=True)
    expected = sorted(living, reverse=True)
    assert {user.id for user in page} == set(expected)
    assert page.total == await db.users.count(ours) == len(living)
    assert [user.id async for user in db.users.stream(ours, order_by="-id")] == expected
    for row in model.rows.values():
        holder = model.holder(row.email)
        found = await db.users.by_email(row.email.upper())
        assert (found and found.id) == holder
        assert await db.users.exists(email=row.email) == any(
            row.email == each.email for each in living.values()
        )
