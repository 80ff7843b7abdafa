"""System logs: what the services of an application report. MongoDB `system_logs`."""

from multidb.models.system_logs import SystemLog
from multidb.repositories.logs import LogRepository

__all__ = ["SystemLogRepository"]


class SystemLogRepository(LogRepository[SystemLog]):
    """The calls on system logs. `find` gives the newest first."""

    collection = "system_logs"
    order_by = "-timestamp"
    severity = "level"
