"""Any sequence of calls on a collection agrees with the same calls on a plain dict."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb import AlreadyExistsError, ConflictError, MultiDB, NotFoundError, uuid7
from multidb.settings import Settings
from tests.collections import NewPaper, Paper, Papers, open_with_collections
from tests.integration.test_row_model import agree
from tests.integration.things import bounded

pytestmark = pytest.mark.mongo

#: Few of each, so that calls meet.
who = st.integers(0, 3)
slug = st.sampled_from(["a", "b", "c"])
title = st.sampled_from(["Ada", "Bob", "Eve"])
number = st.sampled_from([None, 1, 2])
version = st.sampled_from([None, 1, 9])
new = st.tuples(who, slug, title, number)
call = st.one_of(
    st.tuples(st.just("add"), new),
    st.tuples(st.just("add_many"), st.lists(new, max_size=3)),
    st.tuples(
        st.just("update"),
        who,
        st.fixed_dictionaries({"title": title}, optional={"slug": slug, "number": number}),
        version,
    ),
    st.tuples(st.just("update_many"), title, title),
    st.tuples(st.just("upsert"), new, st.sampled_from(["id", "slug"])),
    st.tuples(st.just("put"), new, st.integers(1, 4)),
    st.tuples(st.just("delete"), who, version),
    st.tuples(st.just("delete_many"), title),
)


@dataclass
class Known:
    """What the dict keeps of a document."""

    slug: str
    title: str
    number: int | None
    version: int = 1


@dataclass
class Model:
    """The calls, on a dict. Each raises what the repository is to raise, and changes nothing then."""

    documents: dict[UUID, Known] = field(default_factory=dict)

    def holder(self, slug: str) -> UUID | None:
        return next((id for id, each in self.documents.items() if each.slug == slug), None)

    def add(self, id: UUID, slug: str, title: str, number: int | None) -> None:
        if id in self.documents or self.holder(slug) is not None:
            raise AlreadyExistsError
        self.documents[id] = Known(slug, title, number)

    def add_many(self, several: list[tuple[UUID, str, str, int | None]]) -> None:
        """Each whatever becomes of the others."""
        refused = False
        for each in several:
            try:
                self.add(*each)
            except AlreadyExistsError:
                refused = True
        if refused:
            raise AlreadyExistsError

    def update(self, id: UUID, changes: dict[str, Any], version: int | None) -> None:
        there = self.documents.get(id)
        if there is None:
            raise NotFoundError
        if version not in (None, there.version):
            raise ConflictError(version=there.version)
        if "slug" in changes and self.holder(changes["slug"]) not in (None, id):
            raise AlreadyExistsError
        vars(there).update(changes)
        there.version += 1

    def upsert(self, id: UUID, slug: str, title: str, number: int | None, on: str) -> None:
        there = (id if id in self.documents else None) if on == "id" else self.holder(slug)
        if there is None:
            self.add(id, slug, title, number)
        else:
            self.update(there, {"slug": slug, "title": title, "number": number}, None)

    def put(self, id: UUID, slug: str, title: str, number: int | None, version: int) -> None:
        there = self.documents.get(id)
        if there is not None and there.version >= version:
            return
        if self.holder(slug) not in (None, id):
            raise AlreadyExistsError
        self.documents[id] = Known(slug, title, number, version)

    def delete(self, id: UUID, version: int | None) -> None:
        there = self.documents.get(id)
        if there is not None:
            if version not in (None, there.version):
                raise ConflictError(version=there.version)
            del self.documents[id]


class Both:
    """Each call, on the collection and on the dict."""

    def __init__(self, papers: Papers) -> None:
        self.papers = papers
        self.model = Model()
        self.ids = [uuid7() for _ in range(4)]

    def values(self, new: tuple[int, str, str, int | None]) -> tuple[UUID, str, str, int | None]:
        return self.ids[new[0]], *new[1:]

    def paper(self, new: tuple[int, str, str, int | None]) -> NewPaper:
        id, slug, title, number = self.values(new)
        return NewPaper(id=id, slug=slug, title=title, number=number)

    async def add(self, new: Any) -> None:
        await agree(lambda: self.model.add(*self.values(new)), lambda: self.papers.add(self.paper(new)))

    async def add_many(self, several: list[Any]) -> None:
        await agree(
            lambda: self.model.add_many(list(map(self.values, several))),
            lambda: self.papers.add_many(map(self.paper, several)),
        )

    async def update(self, number: int, changes: dict[str, Any], at: int | None) -> None:
        id = self.ids[number]
        await agree(
            lambda: self.model.update(id, changes, at), lambda: self.papers.update(id, version=at, **changes)
        )

    async def update_many(self, old: str, new: str) -> None:
        hit = [each for each in self.model.documents.values() if each.title == old]
        for each in hit:
            each.title, each.version = new, each.version + 1
        assert await self.papers.update_many(title=old, changes={"title": new}) == len(hit)

    async def upsert(self, new: Any, on: str) -> None:
        await agree(
            lambda: self.model.upsert(*self.values(new), on),
            lambda: self.papers.upsert(self.paper(new), on=on),
        )

    async def put(self, new: Any, version: int) -> None:
        await agree(
            lambda: self.model.put(*self.values(new), version),
            lambda: self.papers.put(self.paper(new), version=version),
        )

    async def delete(self, number: int, at: int | None) -> None:
        id = self.ids[number]
        await agree(lambda: self.model.delete(id, at), lambda: self.papers.delete(id, version=at))

    async def delete_many(self, title: str) -> None:
        hit = [id for id, each in self.model.documents.items() if each.title == title]
        for id in hit:
            del self.model.documents[id]
        assert await self.papers.delete_many(self.papers.c.title == title) == len(hit)


@pytest.fixture
async def db(multidb_settings: Settings):
    async with open_with_collections(multidb_settings) as opened:
        yield opened


@bounded(max_examples=30)
@given(calls=st.lists(call, min_size=4, max_size=14), transaction=st.booleans())
async def test_a_collection_is_a_dict(db: MultiDB, calls: list[tuple[Any, ...]], transaction: bool):
    papers = db[Papers]
    await papers.delete_many({})
    both = Both(papers)
    for new in ((0, "a", "Ada", 1), (1, "b", "Bob", None)):
        await both.add(new)
    for name, *arguments in calls:
        await getattr(both, name)(*arguments)
        if transaction:
            # The same is read inside one.
            async with db.mongo_transaction():
                await same(papers, both)
        else:
            await same(papers, both)


async def same(papers: Papers, both: Both) -> None:
    """Hold everything that can be read against the dict."""
    documents = both.model.documents

    def known(paper: Paper) -> Known:
        return Known(paper.slug, paper.title, paper.number, paper.version)

    assert {id: known(paper) for id, paper in (await papers.get_many(both.ids)).items()} == documents
    for id in both.ids:
        paper = await papers.get(id)
        assert (paper and known(paper)) == documents.get(id)
    page = await papers.find(order_by=("title", "-slug"), total=True)
    assert {paper.id for paper in page} == set(documents)
    assert page.total == await papers.count() == len(documents)
    assert [paper.id async for paper in papers.stream(order_by="-id")] == sorted(documents, reverse=True)
    for id, each in documents.items():
        found = await papers.find_one(slug=each.slug)
        assert (found and found.id) == id
        assert await papers.exists(number=each.number)
