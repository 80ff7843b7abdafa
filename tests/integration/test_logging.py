"""Python's logging and structlog as sources of system logs."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
import structlog

from multidb import PERSONAL, LogLevel, Model, MultiDB, SystemLog
from multidb.logging import LogHandler, LogProcessor, log_context
from multidb.settings import Settings

pytestmark = pytest.mark.mongo


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The root of a tree of loggers that nobody else has."""
    made = logging.Logger("app")  # noqa: LOG001 - one that no other test has
    made.propagate = False
    yield made


async def entries(db: MultiDB) -> list[SystemLog]:
    """Return what was logged, the oldest first."""
    async with asyncio.timeout(20):
        while db.system_logs.emitted.pending:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return list((await db.system_logs.find(order_by="id", limit=1000)).items)


class Person(Model):
    name: Annotated[str, PERSONAL]
    city: str


class Odd:
    def __str__(self) -> str:
        raise KeyError("never")


async def test_levels_fields_and_tracebacks(db: MultiDB, logger: logging.Logger):
    logger.addHandler(LogHandler(db.system_logs, service="api"))
    user_id = uuid4()
    for number in (1, 10, 20, 25, 30, 40, 50, 99):
        logger.log(
            number, "at %d", number, extra={"user_id": str(user_id), "request_id": 7, "number": number}
        )
    try:
        int("why")
    except ValueError:
        logger.exception("failed", stack_info=True)
    *levels, failed = await entries(db)
    assert [each.level for each in levels] == [
        "debug", "debug", "info", "info", "warning", "error", "critical", "critical",
    ]  # fmt: skip
    first = levels[1]
    assert (first.service, first.message, first.user_id, first.request_id) == ("api", "at 10", user_id, "7")
    assert first.context["logger"] == "app"
    assert first.context["number"] == 10
    assert first.context["file"] == __file__
    assert first.context["function"] == "test_levels_fields_and_tracebacks"
    assert failed.level is LogLevel.ERROR
    assert failed.context["exception"].startswith("Traceback")
    assert "ValueError: invalid literal" in failed.context["exception"]
    assert "Stack" in failed.context["stack"]


async def test_whatever_is_logged_is_stored(db: MultiDB, logger: logging.Logger):
    logger.addHandler(LogHandler(db.system_logs, service="api"))
    loop: list[Any] = []
    loop += [loop] * 20
    logger.warning(
        "odd \udcff",
        extra={
            "path": Path("/a"),
            "large": 2**70,
            "set": {1},
            "keys": {1: {"a\0b": "\udcff"}, "http.method": "GET", "$where": 1},
            "loop": loop,
            "odd": Odd(),
            "odd keys": {Odd(): 1},
            "never": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),
            "who": Person(name="Ada", city="London"),
            "user_id": "no id",
            "long": "x" * 200_000,
            "password": "x",
        },
    )
    (stored,) = await entries(db)
    context = stored.context
    assert stored.message == "odd \\udcff"
    assert (context["path"], context["large"], context["set"]) == ("/a", str(2**70), [1])
    assert context["keys"] == {"1": {"ab": "\\udcff"}, "http_method": "GET", "_where": 1}
    assert context["odd"] == "<Odd, not to be shown: KeyError>"
    assert context["odd keys"] == {"<Odd, not to be shown: KeyError>": 1}
    assert context["never"] == "9999-12-31 23:59:59.999999-05:00"
    assert context["who"] == {"name": "[redacted]", "city": "London"}
    assert (context["user_id"], stored.user_id) == ("no id", None)
    assert len(context["long"]) == 100_000
    assert context["password"] == "[redacted]"


async def test_filters_decide_and_no_lock_is_wanted(
    db: MultiDB, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
):
    def handle(self: logging.Handler, record: logging.LogRecord) -> None:  # as from Python 3.13 on
        with self.lock:  # type: ignore[union-attr]
            self.emit(record)

    monkeypatch.setattr(logging.Handler, "handle", handle)
    handler = LogHandler(db.system_logs, service="api")
    handler.addFilter(lambda record: "quiet" not in record.getMessage())
    logger.addHandler(handler)
    logger.info("quiet")
    logger.info("loud")
    assert [each.message for each in await entries(db)] == ["loud"]


async def test_wrong_arguments_are_the_standard_librarys_matter(
    db: MultiDB, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
):
    logger.addHandler(LogHandler(db.system_logs, service="api"))
    logger.info("%d", "x")
    assert "Logging error" in capsys.readouterr().err


async def test_context_reaches_the_tasks_inside(db: MultiDB, logger: logging.Logger):
    logger.addHandler(LogHandler(db.system_logs, service="api"))
    user_id = uuid4()

    async def work(name: str) -> None:
        with log_context(part=name):
            await asyncio.sleep(0)
            logger.warning(name)

    with log_context(request_id="r1", user_id=user_id):
        await asyncio.gather(work("a"), work("b"))
    logger.warning("outside")
    a, b, outside = await entries(db)
    assert [(each.request_id, each.user_id, each.context["part"]) for each in (a, b)] == [
        ("r1", user_id, "a"),
        ("r1", user_id, "b"),
    ]
    assert (outside.request_id, outside.user_id) == (None, None)
    assert "part" not in outside.context


def test_before_the_database_is_open_and_from_threads(multidb_settings: Settings, logger: logging.Logger):
    db = MultiDB(multidb_settings)
    logger.addHandler(LogHandler(db.system_logs, service="api"))
    logger.warning("early")

    async def use() -> list[str]:
        async with db:
            threads = [threading.Thread(target=logger.warning, args=("thread",)) for _ in range(8)]
            for thread in threads:
                thread.start()
            await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
            return sorted(each.message for each in await entries(db))

    assert asyncio.run(use()) == ["early", *["thread"] * 8]
    logger.warning("late")
    assert db.system_logs.emitted.pending == 1


@pytest.fixture
async def listening_to_everything(db: MultiDB) -> AsyncIterator[None]:
    """A handler of the root logger, with every logger at its most talkative."""
    root, handler = logging.getLogger(), LogHandler(db.system_logs, service="all")
    names = ("", "pymongo", "multidb", "multidb.emitting", "asyncio")
    levels = {name: logging.getLogger(name).level for name in names}
    root.addHandler(handler)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("listening_to_everything")
async def test_it_does_not_listen_to_itself(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """The driver logs each command, and the emitter what it refuses: none of it is an entry."""
    emit = type(db.system_logs).emit

    def talking(logs: Any, given: SystemLog) -> None:
        logging.getLogger("app").info("emitting")
        emit(logs, given)

    monkeypatch.setattr(type(db.system_logs), "emit", talking)
    logging.getLogger("app").warning("first")
    logging.getLogger("multidb.connections").warning("ours, and worth to be stored")
    db.system_logs.emit("no entry")  # type: ignore[arg-type]
    found = [each for each in await entries(db) if each.context["logger"] != "asyncio"]
    assert [each.message for each in found] == ["first", "ours, and worth to be stored", "emitting"]


async def test_structlog_passes_on_what_it_emits(db: MultiDB):
    log = structlog.wrap_logger(
        structlog.testing.ReturnLogger(),
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            LogProcessor(db.system_logs, service="web"),
            structlog.processors.JSONRenderer(default=lambda _: "odd"),
        ],
    )
    user_id = uuid4()
    with log_context(request_id="r"):
        rendered = log.bind(user_id=user_id, color="red").warning("hello", n=1, token="t")
    assert '"token": "t"' in rendered  # as it was given: what is stored elsewhere is not this processor's
    try:
        int("why")
    except ValueError as error:
        log.exception("failed", exc_info=True)  # noqa: G202 - structlog's own way to say so
        log.warning("failed too", exc_info=error)
    log.critical(Odd())
    hello, failed, too, odd = await entries(db)
    assert (odd.level, odd.message) == ("critical", "<Odd, not to be shown: KeyError>")
    assert (hello.level, hello.service, hello.message) == ("warning", "web", "hello")
    assert (hello.user_id, hello.request_id) == (user_id, "r")
    assert hello.context == {"logger": "structlog", "color": "red", "n": 1, "token": "[redacted]"}
    assert (failed.level, too.level) == ("error", "warning")
    for each in (failed, too):
        assert "ValueError: invalid literal" in each.context["exception"]
