"""Fixtures for the tests of the preview, one of them a preview without frames yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from streamdiffvsr.runtime.live.preview.preview import Preview
    from streamdiffvsr.tests.live.preview.rig import Told


def pytest_collect_file() -> None:
    """Skip this folder, with its reason, where the extra is not installed."""
    for name in ("aiohttp", "prometheus_client"):
        pytest.importorskip(name, reason="the preview needs the extra live")


@pytest.fixture
def shown() -> Iterator[tuple[Preview, Told]]:
    from streamdiffvsr.tests.live.preview.rig import preview

    with preview() as pair:
        yield pair
