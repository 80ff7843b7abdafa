import os

import pytest

from .integration.pooler import pgbouncer

pytest_plugins = ["multidb.testing"]


def pytest_report_header() -> str:
    return (
        f"PgBouncer: {pgbouncer() or 'none to be had, its tests are left out; `make pgbouncer` fetches it'}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms to `make torture`: deselected and not skipped, for nothing is missing.

    So are the tests of a PgBouncer where there is none, which the header says.
    """
    left_out = set() if os.environ.get("MULTIDB_TORTURE") else {"torture"}
    left_out |= set() if pgbouncer() else {"pgbouncer"}
    if out := [item for item in items if any(map(item.get_closest_marker, left_out))]:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
