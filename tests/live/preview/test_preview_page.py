"""The preview's page in a real browser: it moves, it can be compared, and it comes back."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.tests.live.preview.rig import (
    SIZE,
    free_port,
    hr,
    lr,
    output,
    playing,
    preview,
    wait_until,
)
from streamdiffvsr.tests.live.preview.tab import (
    BOTH_SIZES,
    Tab,
    error,
    picture_of,
    save,
)


@pytest.mark.parametrize("tab", BOTH_SIZES, indirect=True)
def test_it_shows_moving_pictures_and_moving_numbers(tab: Tab) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    with preview(token="only for me") as (opened, told), playing(opened, told):
        tab.page.goto(opened.url)
        tab.shows()
        assert "token" not in tab.page.url
        assert "only" not in tab.page.content()
        index, after = tab.pixels("after")
        assert after.shape == hr(0).shape
        assert error(after, hr(index)) < 3
        assert error(after, hr(index)) < error(after, hr(index + 2)) / 2

        tab.wait_for(f"document.getElementById('after').dataset.index > {index + 5}")
        later, before = tab.pixels("before")
        wide = image.fromarray(lr(later)).resize((4 * SIZE[1], 4 * SIZE[0]), image.BICUBIC)
        assert error(before, np.asarray(wide)) < 3
        blocky = image.fromarray(lr(later)).resize((4 * SIZE[1], 4 * SIZE[0]), image.NEAREST)
        assert error(before, np.asarray(wide)) < error(before, np.asarray(blocky))

        tab.wait_for("Number(document.getElementById('p50').textContent) > 40")
        tab.wait_for("document.querySelectorAll('#chart polyline').length >= 2")
        running = tab.text("facts")
        tab.wait_for(f"document.getElementById('facts').innerText !== {running!r}")
        assert (tab.text("fps-out"), tab.text("fps-in")) == ("15.0", "30.0")
        assert tab.text("state") == "Live"
        assert tab.text("transport") == "by WebCodecs"
        assert re.search(r"flow\s+12 ms\s+denoise\s+20 ms\s+to this page", tab.text("stages"))
        assert "3 (cut 1, reconnect 2)" in tab.text("facts")
        assert "camera.example" in tab.text("ends")
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        box = tab.page.locator("#picture").bounding_box()
        assert box["y"] + box["height"] <= tab.page.viewport_size["height"]
        save(tab, f"page-{tab.page.viewport_size['width']}")
    assert tab.complaints == [] or all("WebSocket" in line for line in tab.complaints)


def red_and_blue(index: int) -> OutputFrame:
    """Red before, blue after: which of the two is seen where is beyond doubt."""
    frame = output(index)
    before, after = np.zeros_like(frame.source.image), np.zeros_like(frame.image)
    before[..., 0], after[..., 2] = 220, 220
    return replace(frame, image=after, source=replace(frame.source, image=before))


@pytest.mark.parametrize("tab", BOTH_SIZES, indirect=True)
def test_the_slider_works_by_mouse_and_keyboard(tab: Tab) -> None:
    def split() -> float:
        row = picture_of(tab)[40].astype(int)  # above the handle, below nothing
        return float((row[:, 0] > row[:, 2] + 60).mean())

    with preview() as (opened, told), playing(opened, told, make=red_and_blue):
        tab.page.goto(opened.url)
        tab.shows()
        assert split() == pytest.approx(0.5, abs=0.02)
        box = tab.page.locator("#picture").bounding_box()

        def at(share: float) -> tuple[float, float]:
            return box["x"] + share * box["width"], box["y"] + box["height"] / 2

        tab.page.mouse.move(*at(0.5))
        tab.page.mouse.down()
        tab.page.mouse.move(*at(0.8), steps=4)
        tab.page.mouse.up()
        tab.page.mouse.move(*at(0.1))  # released: it stays
        assert split() == pytest.approx(0.8, abs=0.02)
        tab.page.mouse.click(*at(0.3))
        assert split() == pytest.approx(0.3, abs=0.02)
        divider = tab.page.locator("#divider")
        divider.focus()
        for key, now in (("ArrowRight", 32), ("Shift+ArrowLeft", 22), ("Home", 0), ("End", 100)):
            tab.page.keyboard.press(key)
            assert divider.get_attribute("aria-valuenow") == str(now)
            assert split() == pytest.approx(now / 100, abs=0.02)
        tab.page.keyboard.press("PageDown")
        assert divider.get_attribute("aria-valuetext") == "80 % input, 20 % upscaled"


@pytest.mark.slow
def test_without_webcodecs_it_takes_jpeg(tab: Tab) -> None:
    tab.page.add_init_script("delete window.VideoDecoder")
    with preview() as (opened, told), playing(opened, told):
        tab.page.goto(opened.url)
        tab.shows()
        index, after = tab.pixels("after")
        assert error(after, hr(index)) < 3
        tab.wait_for(f"document.getElementById('after').dataset.index > {index + 5}")
        tab.wait_for("document.getElementById('transport').textContent === 'by JPEG'")
        tab.wait_for("Number(document.getElementById('p50').textContent) > 40")
    assert all("WebSocket" in line for line in tab.complaints)


def test_a_decoder_that_fails_is_replaced_and_then_given_up(tab: Tab) -> None:
    tab.page.add_init_script(
        "VideoDecoder.prototype.decode = function() { throw new Error('broken') }"
    )
    with preview() as (opened, told), playing(opened, told):
        tab.page.goto(opened.url)
        tab.shows()
        tab.wait_for("document.getElementById('transport').textContent === 'by JPEG'")


def test_it_says_that_the_source_is_away(tab: Tab) -> None:
    with preview() as (opened, told):
        with playing(opened, told):
            tab.page.goto(opened.url)
            tab.shows()
            tab.wait_for("document.getElementById('notice').hidden")
        told.state, told.error, told.note = "waiting", "connection refused", "building engines"
        tab.wait_for("document.getElementById('state').textContent === 'Reconnecting'")
        assert tab.text("notice") == (
            "The source is reconnecting\nconnection refused; next attempt in 2 s"
        )
        assert tab.text("note") == "building engines"
        assert tab.page.evaluate("document.getElementById('picture').className") == "stale"
        save(tab, "page-source-away")
        told.state, told.error = "playing", ""
        with playing(opened, told):
            tab.wait_for("document.getElementById('notice').hidden")


@pytest.mark.slow
def test_it_comes_back_by_itself_when_the_server_does(tab: Tab) -> None:
    port = free_port()
    with preview(port, token="t") as (opened, told), playing(opened, told):
        tab.page.goto(opened.url)
        tab.shows()
    tab.wait_for("document.getElementById('state').textContent === 'Session ended'")
    assert "The session has ended" in tab.text("notice")
    save(tab, "page-session-ended")
    last, _ = tab.pixels("after")
    with preview(port, token="t") as (opened, told):
        told.offered = last + 100
        with playing(opened, told):
            tab.wait_for(f"document.getElementById('after').dataset.index > {last + 99}")
            tab.wait_for("document.getElementById('state').textContent === 'Live'")
    tab.wait_for("document.getElementById('state').textContent === 'Session ended'")
    with preview(port, token="another"):  # the old pass is of no use there
        tab.wait_for("document.getElementById('state').textContent === 'Not allowed'")


def test_a_server_that_says_nothing_more_is_lost(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with preview(port, token="t") as (opened, told), playing(opened, told):
        tab.page.goto(opened.url)
        tab.shows()
        monkeypatch.setattr("streamdiffvsr.runtime.live.preview.preview.ENDED", "")
    tab.wait_for("document.getElementById('state').textContent === 'Server lost'")
    assert "The connection to the server is lost" in tab.text("notice")
    save(tab, "page-server-lost")
    with preview(port, token="t") as (opened, told), playing(opened, told):
        tab.wait_for("document.getElementById('state').textContent === 'Live'")


def test_a_size_that_changes_is_followed(tab: Tab) -> None:
    with preview() as (opened, told):
        with playing(opened, told):
            tab.page.goto(opened.url)
            tab.shows()
        small = (27, 41)
        with playing(opened, told, make=lambda index: output(index, small)):
            tab.wait_for("document.getElementById('after').width === 164")
            index, after = tab.pixels("after")
            assert error(after, hr(index, small)) < 4
            assert tab.text("tag-after") == "Upscaled 164\u00d7108"


def test_fullscreen_has_the_picture_and_its_slider(tab: Tab) -> None:
    with preview() as (opened, told), playing(opened, told):
        tab.page.goto(opened.url)
        tab.shows()
        tab.page.click("#fullscreen")
        tab.wait_for("document.fullscreenElement === document.getElementById('stage')")
        tab.wait_for("document.getElementById('picture').clientWidth === innerWidth")
        tab.page.locator("#divider").press("ArrowRight")
        assert tab.page.locator("#divider").get_attribute("aria-valuenow") == "52"
        save(tab, "page-fullscreen")
        tab.page.keyboard.press("f")
        tab.wait_for("document.fullscreenElement === null")


def test_a_hidden_page_costs_nothing_and_a_snapshot_is_saved(tab: Tab) -> None:
    with preview() as (opened, told), playing(opened, told):
        tab.page.goto(opened.url)
        tab.shows()
        tab.wait_for("document.getElementById('snapshot').getAttribute('aria-disabled') !== 'true'")
        with tab.page.expect_download() as download:
            tab.page.keyboard.press("s")
        assert re.fullmatch(r"streamdiffvsr-\d{6}\.png", download.value.suggested_filename)
        tab.page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        wait_until(lambda: opened.status()["state"] == "waiting")
        tab.page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: false});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        index, _ = tab.pixels("after")
        tab.wait_for(f"document.getElementById('after').dataset.index > {index + 5}")
