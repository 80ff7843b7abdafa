"""What a collection of logs should be: plain, clustered by its time-ordered `_id`, or a time series.

    .venv/bin/python -m benchmarks.log_collections                      # 200,000 documents each
    .venv/bin/python -m benchmarks.log_collections --documents 1000000 --rounds 3

The same documents are stored in each kind, in turn, in one process and on one server, with the
indexes that the queries need; each round begins with another kind and an empty collection. The
medians of the rounds are given. docs/adr/0008-log-collections.md says what was decided by them.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeAlias

from pymongo import AsyncMongoClient

from benchmarks.measuring import Table, in_turn, on_servers
from multidb import uuid7
from multidb.settings import Settings

Document: TypeAlias = dict[str, Any]

BATCH = 1000
TASKS = 4
PAGE = 1000

NEWEST: dict[str, int] = {"timestamp": -1, "_id": -1}
WORDS = ("order", "payment", "refused", "retried", "cart", "shipped", "timeout", "cache", "saved", "queue")


@dataclass(frozen=True)
class Kind:
    """One way of keeping logs."""

    options: Document
    #: Where the level and the service lie in a document.
    prefix: str = ""
    #: Of which messages the words are indexed.
    words: Literal["none", "grave", "all"] = "none"

    @property
    def indexes(self) -> list[Document]:
        """What the queries need."""
        keys: list[tuple[str, Document]] = [
            ("level", {f"{self.prefix}level": 1, **NEWEST}),
            ("service", {f"{self.prefix}service": 1, **NEWEST}),
        ]
        if self.prefix:
            # The buckets are found by time without one, and their `_id` is no part of an order.
            keys = [
                (name, {field: way for field, way in key.items() if field != "_id"}) for name, key in keys
            ]
            return [{"name": name, "key": key} for name, key in keys]
        some = [(name, {name: 1, **NEWEST}) for name in ("user_id", "request_id")]
        text: Document = {"name": "text", "key": {"message": "text"}, "default_language": "none"}
        if self.words == "grave":
            text["partialFilterExpression"] = {"level": {"$in": ["warning", "error", "critical"]}}
        return [
            *(
                {"name": name, "key": key}
                for name, key in [*keys, ("newest", NEWEST), ("due", {"timestamp": 1})]
            ),
            *(
                {"name": name, "key": key, "partialFilterExpression": {name: {"$exists": True}}}
                for name, key in some
            ),
            *([text] * (self.words != "none")),
        ]

    def stored(self, document: Document) -> Document:
        """Return a document as this kind keeps it."""
        if not self.prefix:
            return document
        series = {name: document[name] for name in ("level", "service")}
        return {**{name: value for name, value in document.items() if name not in series}, "of": series}


_CLUSTERED: Document = {"clusteredIndex": {"key": {"_id": 1}, "unique": True}}

KINDS = {
    "plain": Kind({}),
    "clustered": Kind(_CLUSTERED),
    "time series": Kind({"timeseries": {"timeField": "timestamp", "metaField": "of"}}, prefix="of."),
    "plain, grave words": Kind({}, words="grave"),
    "plain, all words": Kind({}, words="all"),
}


def made(count: int) -> Iterator[Document]:
    """Yield documents of one service platform's hour, in the order of their time."""
    dice = random.Random(7)
    users = [uuid7() for _ in range(5000)]
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    levels = ["debug"] * 60 + ["info"] * 30 + ["warning"] * 7 + ["error"] * 2 + ["critical"]
    for number in range(count):
        document: Document = {
            "_id": uuid7(),
            "timestamp": begin + timedelta(hours=1) * number / count,
            "level": dice.choice(levels),
            "service": f"service-{dice.randrange(12)}",
            "message": " ".join(dice.choices(WORDS, k=9)) + f" {dice.randrange(10**6)}",
            "context": {
                "region": f"eu-{dice.randrange(3)}",
                "attempt": dice.randrange(4),
                "host": f"h{number % 40}",
            },
        }
        if number % 10 < 7:
            document["user_id"] = dice.choice(users)
        if number % 10 < 8:
            document["request_id"] = f"{number // 4:032x}"
        yield document


@dataclass
class Run:
    """The server, the documents, and what was found."""

    client: AsyncMongoClient[Document]
    documents: Sequence[Document]
    found: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    async def measure(self, name: str) -> float:
        """Fill a collection of this kind, and query it; return how many documents a second it took."""
        kind = KINDS[name]
        database = self.client["multidb_log_collections"]
        await self.client.drop_database(database)
        await database.create_collection("logs", **kind.options)
        await database.command({"createIndexes": "logs", "indexes": kind.indexes})
        batches = iter(
            [
                [kind.stored(each) for each in self.documents[start : start + BATCH]]
                for start in range(0, len(self.documents), BATCH)
            ]
        )

        async def work() -> None:
            for batch in batches:
                await database["logs"].insert_many(batch, ordered=False)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(TASKS)))
        rate = len(self.documents) / (time.perf_counter() - began)
        self.note(name, "documents/s", rate)
        await self.client.admin.command("fsync")
        statistic = await database.command("collStats", "logs")
        self.note(name, "bytes a document", statistic["storageSize"] / len(self.documents))
        self.note(name, "and of indexes", statistic["totalIndexSize"] / len(self.documents))
        middle = self.documents[len(self.documents) // 2]
        asked = middle["timestamp"]
        queries: dict[str, Document] = {
            "newest": {},
            "errors": {f"{kind.prefix}level": "error"},
            "a service's": {f"{kind.prefix}service": "service-3"},
            "a user's": {"user_id": next(each["user_id"] for each in self.documents if "user_id" in each)},
            "a request's": {"request_id": f"{len(self.documents) // 8:032x}"},
            "five seconds": {"timestamp": {"$gte": asked, "$lt": asked + timedelta(seconds=5)}},
            "by id": {"_id": middle["_id"]},
        }
        for query, condition in queries.items():
            times = []
            for _ in range(5):
                began = time.perf_counter()
                await database["logs"].find(condition, sort=NEWEST, limit=PAGE, batch_size=PAGE).to_list(PAGE)
                times.append((time.perf_counter() - began) * 1000)
            self.note(name, f"{query}, ms", statistics.median(times))
        return rate

    def note(self, kind: str, what: str, value: float) -> None:
        """Keep a figure."""
        self.found.setdefault((what, kind), []).append(value)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=200_000, help="how many are stored in each kind")
    parser.add_argument("--rounds", type=int, default=2, help="how many of each")
    given = parser.parse_args()

    async def measure(settings: Settings) -> None:
        url = settings.mongo_url.get_secret_value()
        async with AsyncMongoClient[Document](url, uuidRepresentation="standard", w="majority") as client:
            run = Run(client, list(made(given.documents)))
            await in_turn({name: partial(run.measure, name) for name in KINDS}, rounds=given.rounds)
            await client.drop_database("multidb_log_collections")
        table = Table(f"{given.documents:,} logs", "", *KINDS)
        for what in dict.fromkeys(what for what, _ in run.found):
            table.row(what, *(f"{statistics.median(run.found[what, name]):,.1f}" for name in KINDS))

    on_servers(measure)


if __name__ == "__main__":
    main()
