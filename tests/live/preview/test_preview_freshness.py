"""The preview's page in a real browser: colours and numbers say how fresh the picture is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.adaptive_session import GREY, LOOKS, Session, grey, open_page
from streamdiffvsr.tests.live.preview.rig import playing, preview, wait_until
from streamdiffvsr.tests.live.preview.tab import Tab, picture_of, save

MODEL, CARRIED, BICUBIC = (18, 184, 134), (245, 194, 17), (224, 49, 49)
OPACITY, DARKER = 0.5, 0.6  # of the colours, and the picture below them


def is_close(pixel: np.ndarray, colour: Sequence[float], opacity: float = OPACITY) -> bool:
    below = DARKER * GREY if opacity else GREY
    wanted = (1 - opacity) * below + opacity * np.asarray(colour)
    return bool(np.abs(pixel - wanted).max() < 9)


def seen(tab: Tab, across: float, down: float) -> np.ndarray:
    """The colour at a place of the picture, each from 0 to 1."""
    image = picture_of(tab).astype(int)
    y, x = round(down * (image.shape[0] - 1)), round(across * (image.shape[1] - 1))
    return np.asarray(image[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean(axis=(0, 1)))


def assert_coloured(tab: Tab) -> None:
    tab.page.locator("#divider").press("Home")  # the output alone
    wait_until(lambda: is_close(seen(tab, 0.15, 0.3), MODEL), what="no freshness is seen")
    assert is_close(seen(tab, 0.32, 0.3), MODEL)
    assert is_close(seen(tab, 0.44, 0.3), CARRIED)
    assert is_close(seen(tab, 0.70, 0.3), CARRIED)
    assert is_close(seen(tab, 0.82, 0.3), BICUBIC)
    assert is_close(seen(tab, 0.15, 0.8), BICUBIC)
    between = seen(tab, 6 / 16, 0.3)  # smoothly: half of each of its neighbours
    assert is_close(between, (np.asarray(MODEL) + CARRIED) / 2)
    tab.page.locator("#divider").press("End")  # the input alone has none
    assert is_close(seen(tab, 0.15, 0.3), (0, 0, 0), 0)
    tab.page.locator("#divider").press("Home")


@pytest.mark.slow
@pytest.mark.parametrize("tab", LOOKS, indirect=True)
@pytest.mark.parametrize("webcodecs", [True, False], ids=["h264", "jpeg"])
def test_the_overlay_colours_what_it_is_about(
    tab: Tab, adaptive: tuple[Preview, Session], webcodecs: bool
) -> None:
    opened, session = adaptive
    if not webcodecs:
        tab.page.add_init_script("delete window.VideoDecoder")
    with playing(opened, session.told, make=grey):
        open_page(tab, opened)
        how = "by WebCodecs" if webcodecs else "by JPEG"
        tab.wait_for(f"document.getElementById('transport').textContent === '{how}'")
        button = tab.page.locator("#show-cells")
        assert button.get_attribute("aria-pressed") == "false"
        assert is_close(seen(tab, 0.7, 0.3), (0, 0, 0), 0)  # off at the start
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert_coloured(tab)
        assert tab.text("cells-key").split() == ["model", "carried", "bicubic"]
        save(tab, f"page-freshness-{tab.page.viewport_size['width']}")
        tab.page.keyboard.press("o")
        wait_until(lambda: is_close(seen(tab, 0.15, 0.3), (0, 0, 0), 0))
        assert tab.page.locator("#cells-key").is_hidden()
    assert tab.complaints == [] or all("WebSocket" in line for line in tab.complaints)


@pytest.mark.slow
def test_the_overlay_is_there_in_fullscreen_and_after_a_reconnection(
    tab: Tab, adaptive: tuple[Preview, Session]
) -> None:
    opened, session = adaptive
    with playing(opened, session.told, make=grey):
        open_page(tab, opened)
        tab.page.keyboard.press("f")
        tab.wait_for("document.fullscreenElement !== null")
        tab.wait_for("document.getElementById('picture').clientWidth === innerWidth")
        tab.page.click("#show-cells")  # the buttons are there as well
        assert_coloured(tab)
        save(tab, "page-freshness-fullscreen")
        tab.page.keyboard.press("f")
        tab.wait_for("document.fullscreenElement === null")
    opened.close(2.0)
    tab.wait_for("document.getElementById('state').textContent === 'Session ended'")
    with (
        preview(opened.port, prefer=session.prefer) as (again, told),
        playing(again, told, make=grey),
    ):
        session.watched_by(told)
        tab.wait_for("document.getElementById('state').textContent === 'Live'")
        assert_coloured(tab)


def test_the_numbers_are_shown_in_adaptive_mode_alone(
    tab: Tab, adaptive: tuple[Preview, Session]
) -> None:
    opened, session = adaptive
    with playing(opened, session.told, make=grey):
        open_page(tab, opened)
        tab.wait_for("!document.getElementById('made').hidden")
        assert tab.text("mode") == "adaptive (asked: auto)"
        shares = [tab.text(f"share-{name}") for name in ("model", "carried", "bicubic")]
        assert shares == ["14 %", "80 %", "6 %"]
        assert tab.page.locator("#shares").get_attribute("aria-label") == (
            "model 14 %, carried 80 %, bicubic 6 %"
        )
        widths = "[...document.querySelectorAll('#shares i')].map(i => i.clientWidth)"
        parts = np.asarray(tab.page.evaluate(widths))
        np.testing.assert_allclose(parts / parts.sum(), [0.141, 0.799, 0.06], atol=0.003)
        assert tab.text("tiles") == "4.0 of 28"
        assert tab.text("tile-rate") == "15.8 · 61 ms each"
        assert tab.text("oldest") == "6.2 s"

        tab.page.click("#show-cells")
        session.run("exact", "auto")
        tab.wait_for("document.getElementById('made').hidden")
        for name in ("tools", "made"):
            assert tab.page.locator(f"#{name}").is_hidden()
        assert "exact (asked: auto)" in tab.text("facts")
    with playing(opened, session.told):  # frames that are made whole have no cells
        tab.wait_for("document.getElementById('cells').hidden")
    session.told.more = {}  # a status without any of it
    with playing(opened, session.told):
        tab.wait_for("!document.getElementById('facts').innerText.includes('asked')")
        assert tab.page.locator("#made").is_hidden()
