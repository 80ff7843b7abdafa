"""`examples/ingest_logs.py` on files as they are found: each line is stored once, whatever happens."""

import asyncio
import gzip
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from examples import ingest_logs
from multidb import MultiDB, SystemLog
from multidb.settings import Settings

pytestmark = pytest.mark.mongo

ROOT = Path(__file__).parents[2]


class Run:
    """Runs the example in a folder, on the test's own database."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MULTIDB_MONGO_DRIVER": settings.mongo_driver,
            **{
                f"MULTIDB_{name.upper()}": getattr(settings, name).get_secret_value()
                for name in ("postgres_url", "mongo_url", "redis_url")
            },
        }

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-W", "error", ROOT / "examples" / "ingest_logs.py", *arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def to_end(self, *arguments: str | Path) -> list[str]:
        """Run it as a program, and return what it prints but for the rate."""
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        return without_rates(output)

    async def __call__(self, *arguments: str | Path) -> list[str]:
        """Do the same in this process, which spares an interpreter."""
        with self._monkeypatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["ingest_logs.py", *map(str, arguments)])
            await asyncio.to_thread(ingest_logs.main)
        return without_rates(self._capsys.readouterr().out)


def without_rates(output: str) -> list[str]:
    return [re.sub(r", [\d,]+ lines/s$", "", line) for line in output.splitlines()]


@pytest.fixture
def ingest(
    tmp_path: Path,
    multidb_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    return Run(tmp_path, multidb_settings, monkeypatch, capsys)


async def entries(db: MultiDB) -> list[SystemLog]:
    found: list[SystemLog] = []
    after: str | None = None
    while True:
        page = await db.system_logs.find(order_by=("timestamp", "id"), limit=1000, after=after)
        found += page.items
        if (after := page.next) is None:
            return found


LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "RFC 5424": (
        '<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 ID47 [a@1 k="v]\\""] %% It works',
        {
            "timestamp": datetime(2003, 8, 24, 12, 14, 15, tzinfo=UTC),
            "level": "info",
            "service": "myproc",
            "message": "%% It works",
            "context": {
                "facility": 20, "host": "192.0.2.1", "process": "8710", "kind": "ID47",
                "data": '[a@1 k="v]\\""]',
            },
        },
    ),
    "RFC 3164": (
        "<34>Oct 11 22:14:15 mymachine su[7]: 'su root' failed for lonvick on /dev/pts/8",
        {
            "timestamp": datetime(2025, 10, 11, 22, 14, 15, tzinfo=UTC),
            "level": "critical",
            "service": "su",
            "message": "'su root' failed for lonvick on /dev/pts/8",
            "context": {"facility": 4, "host": "mymachine", "process": "7"},
        },
    ),
    "RFC 3164 as files have it": (
        "Mar  1 00:00:01 web systemd: Started Daily apt: done",
        {
            "timestamp": datetime(2026, 3, 1, 0, 0, 1, tzinfo=UTC),
            "level": "info",
            "service": "systemd",
            "message": "Started Daily apt: done",
        },
    ),
    "combined": (
        '::1 - frank [10/Oct/2000:13:55:36 -0700] "GET /?token=s HTTP/1.0" 503 26 "http://x" "M \\"4\\""',
        {
            "timestamp": datetime(2000, 10, 10, 20, 55, 36, tzinfo=UTC),
            "level": "error",
            "service": "mixed",
            "message": "GET /?token=[redacted] HTTP/1.0",
            "context": {
                "client": "::1", "user": "frank", "status": 503, "bytes": 26,
                "referer": "http://x", "agent": 'M \\"4\\"',
            },
        },
    ),
    "common": (
        '::1 - - [10/Oct/2000:13:55:37 +0000] "HEAD / HTTP/1.1" 404 -',
        {"level": "warning", "message": "HEAD / HTTP/1.1"},
    ),
    "JSON": (
        '{"ts": 17e8, "lvl": "WARN", "msg": "s", "app": "api", "requestId": 7, "a.": {"$": 1e99}}',
        {
            "timestamp": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
            "level": "warning",
            "service": "api",
            "message": "s",
            "request_id": "7",
            "context": {"a_": {"_": 1e99}},
        },
    ),
    "JSON of structlog": (
        '{"timestamp": "2023-11-14T22:13:20Z", "level": "error", "event": "no \\ud800", "password": "x"}',
        {"level": "error", "message": "no \\ud800", "context": {"password": "[redacted]"}},
    ),
}  # fmt: skip

RAW = [
    "",
    "nothing known",
    '{"no": "time"}',
    "{[",
    '{"ts": "yesterday"}',
    "<999999>x",
    "\x00\x01",
    "é" * 70_000,
]


async def test_each_format_and_what_is_none(db: MultiDB, ingest: Run):
    path = ingest.folder / "mixed.log"
    lines = [line for line, _ in LINES.values()]
    path.write_bytes("\n".join([*lines, *RAW]).encode() + b"\n\xff\xfe broken")
    os.utime(path, (0, datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()))
    assert ingest.to_end(path.name) == [
        "mixed.log: 16 lines (2 JSON, 1 syslog 5424, 2 syslog 3164, 2 access log, 9 kept raw)"
    ]
    found = await entries(db)
    for line, expected in LINES.values():
        matching = [
            each
            for each in found
            if expected.items() <= {**dict(each), "context": expected.get("context", each.context)}.items()
            and expected.get("context", each.context) == each.context
        ]
        assert len(matching) == 1, line
    raw = {each.context.get("raw", each.message) for each in found if "unparsed" in each.context}
    assert raw == {*RAW, "\\xff\\xfe broken"}
    assert len(found) == 16


def access(n: int) -> str:
    at = f"10/Oct/2025:13:{n // 60 % 60:02}:{n % 60:02} +0000"
    return f'10.0.0.{n % 256} - - [{at}] "GET /{n} HTTP/1.1" 200 {n}'


async def test_it_goes_on_where_it_stopped(db: MultiDB, ingest: Run):
    path = ingest.folder / "access.log"
    path.write_text("".join(access(n) + "\n" for n in range(2500)) + access(9998)[:30])
    assert await ingest(path, "--growing") == [
        "access.log: 2,500 lines (2,500 access log, 0 kept raw, 1 without end left)"
    ]
    path.write_text(path.read_text() + access(9998)[30:] + "\n" + access(9999) + "\n")
    assert await ingest(path, "--growing") == ["access.log: 2 lines (2 access log, 0 kept raw)"]
    assert await ingest(path) == ["access.log: 0 lines (0 kept raw)"]
    assert await db.mongo.database["system_logs"].count_documents({}) == 2502

    # Rotated and packed it is the same file still, with or without the state; and another has its name.
    packed = ingest.folder / "access.log.1.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.write_text("".join(access(n) + "\n" for n in range(1, 11)))
    assert await ingest(packed, path) == [
        "access.log.1.gz: 2,502 lines (2,502 access log, 0 kept raw, 2,502 there before)",
        "access.log: 10 lines (10 access log, 0 kept raw)",
    ]
    (ingest.folder / "ingest_logs.json").unlink()
    assert (await ingest(path, packed))[
        0
    ] == "access.log: 10 lines (10 access log, 0 kept raw, 10 there before)"
    assert await db.mongo.database["system_logs"].count_documents({}) == 2512


async def test_killed_in_the_midst_it_stores_each_line_once(db: MultiDB, ingest: Run):
    path = ingest.folder / "api.jsonl"
    line = '{{"ts": {0}, "level": "info", "msg": "m{0}", "n": {0}}}\n'
    path.write_text("".join(line.format(n) for n in range(5_000)))
    state = ingest.folder / "ingest_logs.json"
    with ingest.start(path, "--rate", "4000") as process:
        while not state.exists():
            assert process.poll() is None
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert "kept raw" in (await ingest(path))[0]
    found = await db.mongo.database["system_logs"].distinct("context.n")
    assert len(found) == 5_000
    assert await db.mongo.database["system_logs"].count_documents({}) == 5_000
