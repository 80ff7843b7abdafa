"""What became of jobs, stored together: while one round trip is under way, the next one gathers."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from multidb.client import MultiDB
from multidb.errors import MultiDBError
from multidb.repositories.job_endings import Ending
from multidb.stores.pauses import Pauses, nap
from multidb.worker.held import Held

__all__ = ["Finisher"]

_log = logging.getLogger("multidb.worker")

#: Endings a round trip.
_TOGETHER = 1000
#: After a round trip few wait for more, up to so many, and so many seconds: a statement costs as ten rows do.
_ENOUGH = 200
_GATHERED = 0.004


class Finisher:
    """Stores how jobs ended; `stored` is told of each, once it is stored or no longer can be."""

    def __init__(self, db: MultiDB, stored: Callable[[Held], None]) -> None:
        self._db = db
        self._stored = stored
        self._due: list[tuple[Held, Ending]] = []
        self._something = asyncio.Event()
        self._enough = asyncio.Event()
        self._nothing = asyncio.Event()
        self._nothing.set()

    def put(self, held: Held, ending: Ending) -> None:
        """Have an ending stored. Never waits."""
        self._due.append((held, ending))
        self._something.set()
        self._nothing.clear()
        if len(self._due) >= _ENOUGH:
            self._enough.set()

    async def done(self) -> None:
        """Wait until all is stored that was put."""
        await self._nothing.wait()

    async def run(self) -> None:
        """Store what there is, without end."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._due:
                some, self._due = self._due[:_TOGETHER], self._due[_TOGETHER:]
                self._enough.clear()
                await self._store(some)
                if 0 < len(self._due) < _ENOUGH:
                    await nap(self._enough, _GATHERED)
            self._nothing.set()

    async def _store(self, some: Sequence[tuple[Held, Ending]]) -> None:
        """Store endings, again and again while PostgreSQL is away and the claims may still stand."""
        loop = asyncio.get_running_loop()
        pauses = Pauses()
        while some:
            try:
                over = await self._db.jobs.finish([ending for _, ending in some])
            except MultiDBError as error:
                _log.warning("what became of %d jobs is stored later: %s", len(some), error)
                standing = [each for each in some if each[0].reason != "lost" and loop.time() < each[0].until]
                for held in {held for held, _ in some} - {held for held, _ in standing}:
                    self._stored(held)
                some = standing
                await asyncio.sleep(pauses.next())
                continue
            if over:
                _log.warning("%d jobs were other workers' by now, and are theirs to finish", len(over))
            for held, _ in some:
                self._stored(held)
            return
