"""System logs: what the services of an application report. MongoDB `system_logs`."""

from multidb.models.system_logs import SystemLog
from multidb.repositories.append_only import AppendOnlyRepository

__all__ = ["SystemLogRepository"]


class SystemLogRepository(AppendOnlyRepository[SystemLog]):
    """The calls on system logs. `find` gives the newest first."""

    collection = "system_logs"
    order_by = "-timestamp"
