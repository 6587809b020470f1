"""The longest test starts first, so that with several workers all others run at the same time."""

from __future__ import annotations

import pytest

LONGEST = "test_a_live_session_does_not_grow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move it to the front; the others stay in their order."""
    items.sort(key=lambda item: item.name != LONGEST)
