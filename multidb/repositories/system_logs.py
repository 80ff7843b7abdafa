"""System logs: what the services of an application report. MongoDB `system_logs`."""

from uuid import UUID

from multidb.models.system_logs import SystemLog
from multidb.repositories.mongo import MongoRepository

__all__ = ["SystemLogRepository"]


class SystemLogRepository(MongoRepository[SystemLog]):
    """The calls on system logs. `find` gives the newest first."""

    collection = "system_logs"
    order_by = "-timestamp"

    async def append(self, entry: SystemLog) -> UUID:
        """Store an entry and return its id once a majority has journalled it.

        Raises: AlreadyExistsError if an entry with this id is stored: appending the same entry
        again after a lost answer never stores it twice.
        """
        operation = self._operation("append")
        document = self._document_of(entry, operation)
        await self._resources.mongo.insert(self.collection, document, operation=operation)
        return entry.id
