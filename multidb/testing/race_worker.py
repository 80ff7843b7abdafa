"""The processes of a race: each reads and writes until its time is over, or it is killed and begins anew.

This one imports everything, once, and lets forks of itself do the work: one that was killed has its
successor at once.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from multidb.errors import MultiDBError
from multidb.settings import Settings
from multidb.testing.race_board import ERRORS, READS, WRITES, Board
from multidb.testing.race_subjects import RaceSubject

__all__: list[str] = []


class Worker:
    """The readers and writers of one process."""

    def __init__(self, order: dict[str, Any], process: int) -> None:
        self._order = order
        self._process = process
        self._ids = [UUID(id) for id in order["ids"]]
        self._places = {id: place for place, id in enumerate(self._ids)}
        self._board = Board(Path(order["board"]), processes=order["processes"], keys=len(self._ids))
        self._until: float = order["until"]
        self._tolerance: float = order["tolerance"]
        #: By place, when what was seen to be committed: the last before what is tolerated, and all after it.
        self._seen: list[deque[tuple[float, int]]] = [deque() for _ in self._ids]

    async def run(self) -> None:
        """Read and write until the time is over."""
        order = self._order
        module, _, name = order["subject"].partition(":")
        subject: Callable[..., Any] = getattr(import_module(module), name)
        settings = Settings(_env_file=None, **order["settings"])
        async with subject(settings, self._between) as opened:
            await asyncio.gather(
                *(self._read(opened) for _ in range(order["readers"])),
                *(self._write(opened) for _ in range(order["writers"])),
            )

    async def _read(self, subject: RaceSubject) -> None:
        while time.monotonic() < self._until:
            place, id = random.choice(list(enumerate(self._ids)))
            floor = self._floor(place)
            try:
                number = await subject.read(id)
            except (MultiDBError, OSError):
                self._board.count(self._process, ERRORS)
                await asyncio.sleep(0.01)  # a server is away: others get to run
                continue
            self._board.count(self._process, READS)
            if number < floor:
                _say({"stale": [place, number, floor]})
            await asyncio.sleep(0)

    def _floor(self, place: int) -> int:
        """Return what a read that begins now must be given at least."""
        seen, moment = self._seen[place], time.monotonic()
        seen.append((moment, self._board.floor(place)))
        while len(seen) > 1 and seen[1][0] <= moment - self._tolerance:
            seen.popleft()
        since, floor = seen[0]
        own = self._board.floor_of(self._process, place)
        return max(own, floor) if since <= moment - self._tolerance else own

    async def _write(self, subject: RaceSubject) -> None:
        while time.monotonic() < self._until:
            try:
                await subject.write(random.choice(self._ids))
                self._board.count(self._process, WRITES)
            except (MultiDBError, OSError):
                self._board.count(self._process, ERRORS)
            await asyncio.sleep(random.uniform(0, 2 * self._order["pause"]))

    async def _between(self, id: UUID, number: int) -> None:
        """Note what is committed; and die, at times."""
        self._board.committed(self._process, self._places[id], number)
        if random.random() < self._order["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)


def _say(word: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), json.dumps(word).encode() + b"\n")


class Forks:
    """The processes at work, by pid: which of the race each is."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._at_work: dict[int, int] = {}

    def begin(self, process: int) -> None:
        """Let a fork be this process of the race."""
        pid = os.fork()
        if pid:
            self._at_work[pid] = process
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        random.seed()
        asyncio.run(Worker(self._order, process).run())
        os._exit(0)

    def look_after(self) -> None:
        """Wait until all have ended; let those who were killed begin anew, while there is time."""
        while self._at_work:
            pid, status = os.wait()
            process = self._at_work.pop(pid)
            if os.WIFSIGNALED(status):
                _say({"killed": process})
                if time.monotonic() < self._order["until"]:
                    self.begin(process)
            elif os.WEXITSTATUS(status):
                self.end(os.WEXITSTATUS(status))

    def end(self, code: int, _: FrameType | None = None) -> None:
        """End them all, and this one."""
        for pid in self._at_work:
            os.kill(pid, signal.SIGKILL)
        os._exit(code)


def main() -> None:
    """Wait for the order and for the word, and let forks do the work."""
    order = json.loads(sys.stdin.readline())
    import_module(order["subject"].partition(":")[0])
    _say({"ready": True})
    order["until"] = time.monotonic() + json.loads(sys.stdin.readline())
    forks = Forks(order)
    signal.signal(signal.SIGTERM, forks.end)
    for process in range(order["processes"]):
        forks.begin(process)
    forks.look_after()


if __name__ == "__main__":
    main()
