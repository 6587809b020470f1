"""Fixtures for the tests of the preview: previews without frames yet, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from streamdiffvsr.runtime.live.preview.preview import Preview
    from streamdiffvsr.tests.live.preview.adaptive_session import Session
    from streamdiffvsr.tests.live.preview.rig import Told
    from streamdiffvsr.tests.live.preview.tab import Tab


def pytest_collect_file() -> None:
    """Skip this folder, with its reason, where the extra is not installed."""
    for name in ("aiohttp", "prometheus_client"):
        pytest.importorskip(name, reason="the preview needs the extra live")


@pytest.fixture
def shown() -> Iterator[tuple[Preview, Told]]:
    from streamdiffvsr.tests.live.preview.rig import preview

    with preview() as pair:
        yield pair


@pytest.fixture
def adaptive() -> Iterator[tuple[Preview, Session]]:
    """A preview of a session that refines tiles, and that session."""
    from streamdiffvsr.tests.live.preview.adaptive_session import Session
    from streamdiffvsr.tests.live.preview.rig import preview

    session = Session()
    with preview(prefer=session.prefer) as (opened, told):
        session.watched_by(told)
        yield opened, session


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from streamdiffvsr.tests.live.preview.tab import CHROMIUM

    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab of the size, and perhaps the options, that a test is parametrized with."""
    from streamdiffvsr.tests.live.preview.tab import DESKTOP, Tab

    param = getattr(request, "param", DESKTOP)
    size, options = param if isinstance(param[0], tuple) else (param, {})
    opened = Tab(browser, size, **options)
    yield opened
    opened.context.close()
