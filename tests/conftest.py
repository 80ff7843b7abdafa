import os

import pytest

pytest_plugins = ["multidb.testing"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms to `make torture`: deselected and not skipped, for nothing is missing."""
    if os.environ.get("MULTIDB_TORTURE"):
        return
    if long := [item for item in items if item.get_closest_marker("torture")]:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
