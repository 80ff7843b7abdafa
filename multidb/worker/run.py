"""`Run`: one attempt at a job, as its handler sees it."""

from collections import deque
from typing import TYPE_CHECKING

from multidb.models.ai_processing_results import AiProcessingLog
from multidb.models.system_logs import LogLevel
from multidb.repositories.ai_processing_results import MAX_LOGS

if TYPE_CHECKING:
    from multidb.client import MultiDB
    from multidb.models.jobs import Job

__all__ = ["Run"]

_LONGEST = 2000


class Run:
    """An attempt at a job. What it logs goes to `ai_processing_results`, under the job and its lease."""

    def __init__(self, db: "MultiDB", job: "Job") -> None:
        self.db = db
        self.job = job
        #: What is not stored yet, if anything was logged.
        self.lines: deque[AiProcessingLog] | None = None

    async def progress(self, share: float) -> None:
        """Tell how much of the job is done, from 0 to 1, and store what was logged.

        Raises: ConflictError if the job is another worker's by now; DataError.
        """
        await self.db.jobs.progress(self.job, share)
        await self.store_log()

    def log(self, message: str, *, level: LogLevel = LogLevel.INFO) -> None:
        """Add a line to the job's log; it is stored with the next progress, or with the end of the run.

        Never waits. Of a run, as of a job, the last 1,000 lines are kept, and of a line 2,000 characters.
        """
        text = message.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode()
        if self.lines is None:
            self.lines = deque(maxlen=MAX_LOGS)
        self.lines.append(AiProcessingLog(lease=self.job.lease, level=level, message=text[:_LONGEST]))

    async def store_log(self) -> None:
        """Store what was logged. Raises: UnavailableError if MongoDB cannot be reached; nothing is lost."""
        if self.lines:
            lines = list(self.lines)
            await self.db.ai_processing_results.log(self.job.id, lines)
            for line in lines:
                if self.lines and self.lines[0] is line:
                    self.lines.popleft()
