"""One browser for the tests of a module, a tab for each report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.tests.benchmarks.report.browsing import CHROMIUM, Report


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    opened: list[Report] = []

    def make(result: dict[str, Any], size: str = "desktop", theme: str = "light") -> Report:
        opened.append(Report(browser, result, tmp_path, size, theme))
        return opened[-1]

    yield make
    for report in opened:
        report.context.close()
