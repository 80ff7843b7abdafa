"""What workers are told: which queues have something to do, and which running jobs are to stop."""

from multidb.repositories.job_statements import CHANNEL
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.postgres.notifying import Notifying

__all__ = ["CANCEL", "Wakeups"]

#: What precedes the id of a running job that is to stop.
CANCEL = "cancel\t"


class Wakeups(Notifying):
    """What a process has to tell the workers."""

    def __init__(self, postgres: PostgresStore) -> None:
        super().__init__(postgres, CHANNEL)
