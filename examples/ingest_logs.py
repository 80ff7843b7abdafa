"""Log files into `system_logs`: syslog, web servers' access logs, JSON lines; plain or gzip.

    python examples/ingest_logs.py /var/log/syslog access.log.1.gz --rate 5000

It reads files of any size line by line, stores a thousand lines at a time, and notes in a state file
how far it came: run again, it goes on where it stopped, and takes what was written since. A line's id
is made of all that stands before it in its file, so that no line is stored twice even where that
file is lost, moved or packed. Lines of no known format are kept as they are, and counted.

The database is that of MULTIDB_*; or, with --dir, servers of its own that it starts there.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast
from uuid import UUID

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from multidb import AlreadyExistsError, LogLevel, MultiDB, MultiDBError, SystemLog

CHUNK = 1000
#: What an entry's message holds; what a line longer than `LONGEST_LINE` is cut into.
LONGEST_MESSAGE = 100_000
LONGEST_LINE = 1_000_000
LONGEST_PAUSE = 5.0
DEEPEST = 50


def main() -> None:
    """Ingest the files that the command line names."""
    parser = argparse.ArgumentParser(description="Store log files in system_logs.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--dir", type=Path, help="start servers in this folder")
    parser.add_argument("--service", help="what wrote the lines that do not say it; else the file's name")
    parser.add_argument("--rate", type=float, default=0.0, help="at most so many lines a second")
    parser.add_argument("--state", type=Path, default=Path("ingest_logs.json"), help="how far each file is")
    parser.add_argument(
        "--growing", action="store_true", help="leave a last line without end to the next run"
    )
    options = parser.parse_args()
    try:
        asyncio.run(ingest_all(options))
    except (MultiDBError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; run it again to go on.")


async def ingest_all(options: argparse.Namespace) -> None:
    """Open the database, and ingest one file after the other."""
    state = State(options.state)
    opened: AbstractAsyncContextManager[MultiDB] = (
        MultiDB() if options.dir is None else MultiDB.embedded(options.dir)
    )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    async with opened as db:
        with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
            for path in options.files:
                bar = progress.add_task(path.name, total=path.stat().st_size)
                report = await Ingestion(db, path, state, options).run(progress, bar)
                progress.console.print(report, highlight=False, soft_wrap=True)


# --- how far each file is


@dataclass(frozen=True)
class Place:
    """How far a file was read: its bytes, unpacked, the digest of them all, and the last line's length."""

    offset: int = 0
    digest: bytes = b""
    before: bytes = b""
    last: int = 0

    def after(self, line: bytes) -> Place:
        """Return the place behind one more line."""
        digest = hashlib.sha256(self.digest + line).digest()
        return Place(self.offset + len(line), digest, self.digest, len(line))

    @property
    def id(self) -> UUID:
        """The id of the line that ends here: another only if anything before was another."""
        return UUID(bytes=self.digest[:16], version=5)

    def fits(self, file: IO[bytes]) -> bool:
        """Tell whether the last line stands in the file where it stood, and go behind it."""
        file.seek(self.offset - self.last)
        return Place(self.offset - self.last, self.before).after(file.read(self.last)).digest == self.digest


class State:
    """The places, in a JSON file that is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def place(self, file: Path) -> Place:
        """Return how far a file was read."""
        noted = self._places.get(str(file.resolve()))
        if noted is None:
            return Place()
        return Place(
            noted["offset"], bytes.fromhex(noted["digest"]), bytes.fromhex(noted["before"]), noted["last"]
        )

    def note(self, file: Path, place: Place) -> None:
        """Write down how far a file was read."""
        self._places[str(file.resolve())] = {
            "offset": place.offset,
            "digest": place.digest.hex(),
            "before": place.before.hex(),
            "last": place.last,
        }
        written = self._path.with_name(f"{self._path.name}.new")
        written.write_text(json.dumps(self._places, indent=1))
        written.replace(self._path)


# --- storing


@dataclass
class Ingestion:
    """One file on its way into the database."""

    db: MultiDB
    path: Path
    state: State
    options: argparse.Namespace
    counts: Counter[str] = field(default_factory=Counter)

    async def run(self, progress: Progress, bar: TaskID) -> str:
        """Store what is new in the file, and return what there was to tell."""
        began = time.perf_counter()
        reader = LineReader(self.path, self.options.service)
        with self.path.open("rb") as raw:
            file = cast(IO[bytes], gzip.open(raw) if _is_packed(self.path) else raw)  # noqa: SIM115 - of `raw`
            place = self.state.place(self.path)
            if place.offset and not place.fits(file):
                place = Place()  # another file has its name now
                file.seek(0)
            for lines in self._chunks(file):
                entries = []
                for line in lines:
                    place = place.after(line)
                    entry, kind = reader.entry(line, place.id)
                    entries.append(entry)
                    self.counts[kind] += 1
                await self._store(entries)
                self.state.note(self.path, place)
                progress.update(bar, completed=raw.tell())
                await self._keep_pace(began)
        return self._report(time.perf_counter() - began)

    def _chunks(self, file: IO[bytes]) -> Iterator[list[bytes]]:
        lines: list[bytes] = []
        while line := file.readline(LONGEST_LINE):
            if self.options.growing and not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                self.counts["left"] += 1
                break
            lines.append(line)
            if len(lines) == CHUNK:
                yield lines
                lines = []
        if lines:
            yield lines

    async def _store(self, entries: Sequence[SystemLog]) -> None:
        """Append entries, which share their messages; while MongoDB is away, try again."""
        pause = 0.1
        while entries:
            outcomes = await asyncio.gather(*map(self.db.system_logs.append, entries), return_exceptions=True)
            again = []
            for entry, outcome in zip(entries, outcomes, strict=True):
                if isinstance(outcome, AlreadyExistsError):
                    self.counts["there"] += 1
                elif isinstance(outcome, MultiDBError) and outcome.retryable:
                    again.append(entry)
                elif isinstance(outcome, BaseException):
                    raise outcome
            if again:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            entries = again

    @property
    def _lines(self) -> int:
        return sum(self.counts[kind] for kind in (*KINDS, "raw"))

    async def _keep_pace(self, began: float) -> None:
        if self.options.rate > 0:
            await asyncio.sleep(self._lines / self.options.rate - (time.perf_counter() - began))

    def _report(self, seconds: float) -> str:
        counts = self.counts
        told = [f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind]]
        told.append(f"{counts['raw']:,} kept raw")
        if counts["there"]:
            told.append(f"{counts['there']:,} there before")
        if counts["left"]:
            told.append("1 without end left")
        rate = f"{self._lines / seconds:,.0f} lines/s"
        return f"{self.path.name}: {self._lines:,} lines ({', '.join(told)}), {rate}"


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


# --- reading lines

KINDS = ("JSON", "syslog 5424", "syslog 3164", "access log")

_SYSLOG_5424 = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<at>\S+) (?P<host>\S+) (?P<service>\S+) (?P<process>\S+) (?P<kind>\S+) "
    r'(?P<data>-|(?:\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\])+) ?(?P<message>.*)',
    re.DOTALL,
)
_SYSLOG_3164 = re.compile(
    r"(?:<(?P<priority>\d{1,3})>)?(?P<at>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (?P<host>\S+) "
    r"(?P<service>[^\s:\[]{1,100})(?:\[(?P<process>[^\]]*)\])?: (?P<message>.*)",
    re.DOTALL,
)
_ACCESS = re.compile(
    r'(?P<client>\S+) \S+ (?P<user>\S+) \[(?P<at>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) '
    r'(?P<bytes>\d+|-)(?: "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)")?'
)
#: By syslog's severities: https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1
_SEVERITIES = (
    *[LogLevel.CRITICAL] * 3,
    LogLevel.ERROR,
    LogLevel.WARNING,
    *[LogLevel.INFO] * 2,
    LogLevel.DEBUG,
)
_LEVELS = {
    **{level.value: level for level in LogLevel},
    **dict.fromkeys(("trace", "verbose"), LogLevel.DEBUG),
    **dict.fromkeys(("warn",), LogLevel.WARNING),
    **dict.fromkeys(("err", "severe"), LogLevel.ERROR),
    **dict.fromkeys(("fatal", "crit", "emerg", "alert", "panic"), LogLevel.CRITICAL),
}


class LineReader:
    """Makes entries of the lines of one file."""

    def __init__(self, path: Path, service: str | None) -> None:
        self._service = (service or path.name.split(".")[0])[:100] or "file"
        # What RFC 3164 leaves out: the year. No line is newer than the file.
        self._newest = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        self._at = self._newest

    def entry(self, line: bytes, id: UUID) -> tuple[SystemLog, str]:
        """Return the entry of a line, and what kind of line it was: one of `KINDS`, or `raw`."""
        text = line.decode(errors="backslashreplace").rstrip("\r\n")
        for kind, read in zip(KINDS, (_json, _syslog_5424, self._syslog_3164, _access), strict=True):
            try:
                values = read(text)
                if values is not None:
                    values.setdefault("service", self._service)
                    values["message"] = values["message"][:LONGEST_MESSAGE]
                    entry = SystemLog(id=id, **values)
                    self._at = entry.timestamp
                    return entry, kind
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                continue  # it only looks like one
        context = {"raw": text} if len(text) > LONGEST_MESSAGE else {}
        # When it was written nobody knows; its neighbour's time is near.
        entry = SystemLog(
            id=id,
            timestamp=self._at,
            level=LogLevel.INFO,
            service=self._service,
            message=text[:LONGEST_MESSAGE],
            context={"unparsed": True, **context},
        )
        return entry, "raw"

    def _syslog_3164(self, line: str) -> dict[str, Any] | None:
        found = _SYSLOG_3164.fullmatch(line)
        if found is None:
            return None
        at = datetime.strptime(f"{self._newest.year} {found['at']}", "%Y %b %d %H:%M:%S").replace(tzinfo=UTC)
        if at > self._newest + timedelta(days=1):
            at = at.replace(year=at.year - 1)
        return {"timestamp": at, **_syslog(found)}


def _syslog(found: re.Match[str]) -> dict[str, Any]:
    named = {name: value for name, value in found.groupdict().items() if value not in {None, "-"}}
    priority = int(named.pop("priority", 14))  # user.info
    values: dict[str, Any] = {"level": _SEVERITIES[priority % 8], "message": named.pop("message", "")}
    del named["at"]
    if service := named.pop("service", ""):
        values["service"] = service[:100]
    return {**values, "context": {"facility": priority // 8, **named}}


def _syslog_5424(line: str) -> dict[str, Any] | None:
    found = _SYSLOG_5424.fullmatch(line) if line.startswith("<") else None
    if found is None:
        return None
    return {"timestamp": datetime.fromisoformat(found["at"]), **_syslog(found)}


def _access(line: str) -> dict[str, Any] | None:
    found = _ACCESS.match(line)
    if found is None:
        return None
    status = int(found["status"])
    level = LogLevel.ERROR if status >= 500 else LogLevel.WARNING if status >= 400 else LogLevel.INFO
    named = {name: value for name, value in found.groupdict().items() if value not in {None, "-"}}
    at = datetime.strptime(named.pop("at"), "%d/%b/%Y:%H:%M:%S %z")
    named |= {"status": status, "bytes": int(named.get("bytes", 0))}
    return {"timestamp": at, "level": level, "message": named.pop("request"), "context": named}


def _json(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    fields: dict[str, Any] = _fit(json.loads(line))

    def taken(*names: str) -> Any:
        return next((fields.pop(name) for name in names if name in fields), None)

    values = {
        "timestamp": _moment(taken("timestamp", "time", "ts", "@timestamp", "date")),
        "level": _LEVELS[str(taken("level", "severity", "lvl", "levelname") or "info").lower()],
        "message": str(taken("message", "msg", "event") or ""),
    }
    if service := taken("service", "app", "logger", "name"):
        values["service"] = str(service)[:100]
    if (request_id := taken("request_id", "requestId", "trace_id")) is not None:
        values["request_id"] = str(request_id)[:200]
    return {**values, "context": fields}


def _moment(value: Any) -> datetime:
    """Return a moment told as ISO text, or in seconds or milliseconds since 1970."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
    at = datetime.fromisoformat(value)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _fit(value: Any, depth: int = 0) -> Any:
    """Return a JSON value as MongoDB takes it: no `$` or dot in its keys, no number beyond 64 bits."""
    if depth > DEEPEST:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {
            re.sub(r"^\$", "_", _fit(key).replace(".", "_").replace("\0", "")): _fit(each, depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_fit(each, depth + 1) for each in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


if __name__ == "__main__":
    main()
