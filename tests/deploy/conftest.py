"""Skips this folder where the extras `live` and `dev` are not installed."""

from __future__ import annotations

import pytest


def pytest_collect_file() -> None:
    """Skip this folder, with its reason, where something that every test needs is missing."""
    for name in ("aiohttp", "prometheus_client", "yaml"):
        pytest.importorskip(name, reason="needs the extras live and dev")
