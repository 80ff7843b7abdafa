"""Working on jobs: handlers, and the worker that calls them."""

from multidb.worker.handlers import Discard, Handlers, Snooze
from multidb.worker.run import Run
from multidb.worker.worker import Worker

__all__ = ["Discard", "Handlers", "Run", "Snooze", "Worker"]
