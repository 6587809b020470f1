"""The preview's page in a real browser while tiles are refined: freshness, numbers and regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright")

from playwright.sync_api import sync_playwright

from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.rig import SIZE, Told, output, playing, preview, wait_until
from streamdiffvsr.tests.live.preview.tab import (
    BOTH_SIZES,
    CHROMIUM,
    DESKTOP,
    PHONE,
    Tab,
    picture_of,
    save,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

MODEL, CARRIED, BICUBIC = (18, 184, 134), (245, 194, 17), (224, 49, 49)
OPACITY = 0.45
GREY = 100
LOOKS = [*BOTH_SIZES, pytest.param((900, 500), id="low", marks=pytest.mark.slow)]


class Session:
    """The status of an adaptive session, and its regions."""

    def __init__(self, told: Told | None = None) -> None:
        self.regions: list[list[int]] = []
        self.calls = 0
        self.told = told

    def prefer(self, regions: Sequence[tuple[int, int, int, int]]) -> None:
        if any(x < 8 for x, *_ in regions):
            raise UsageError("the region at 0 is outside the frame", remedy="draw it again")
        self.calls += 1
        self.regions = [list(region) for region in regions]
        self.run()

    def run(self, running: str = "adaptive", mode: str = "auto") -> None:
        adaptive = {
            "fresh": 0.141,
            "carried": 0.799,
            "bicubic": 0.06,
            "tiles_per_frame": 3.96,
            "tiles_per_s": 15.8,
            "tile_ms": 61.2,
            "tile_count": 28,
            "oldest_s": 6.24,
            "regions": self.regions,
        }
        assert self.told is not None
        adaptive_or_none = None if running == "exact" else adaptive
        self.told.more = {"mode": mode, "running": running, "adaptive": adaptive_or_none}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    param = getattr(request, "param", DESKTOP)
    size, options = param if isinstance(param[0], tuple) else (param, {})
    opened = Tab(browser, size, **options)
    yield opened
    opened.context.close()


@pytest.fixture
def adaptive() -> Iterator[tuple[Preview, Session]]:
    session = Session()
    with preview(prefer=session.prefer) as (opened, told):
        session.told = told
        session.run()
        yield opened, session


def grey(index: int) -> OutputFrame:
    """A grey frame: fresh at the left, carried in the middle, and bicubic at the right."""
    frame = output(index)
    cells = np.zeros((9, 16), np.uint8)
    cells[:, :12], cells[:, :6] = 128, 255
    cells[6:, :6] = 0
    image = np.full_like(frame.image, GREY)
    source = replace(frame.source, image=np.full_like(frame.source.image, GREY))
    return replace(frame, image=image, source=source, freshness=cells)


def open_page(tab: Tab, opened: Preview) -> None:
    tab.page.goto(opened.url)
    tab.shows()
    tab.wait_for("document.getElementById('snapshot').getAttribute('aria-disabled') === 'false'")
    tab.wait_for("document.getElementById('facts').innerText !== ''")


def is_close(pixel: np.ndarray, colour: Sequence[float], opacity: float = OPACITY) -> bool:
    wanted = (1 - opacity) * GREY + opacity * np.asarray(colour)
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


@pytest.mark.parametrize("tab", LOOKS, indirect=True)
@pytest.mark.parametrize("webcodecs", [True, False], ids=["h264", "jpeg"])
def test_the_overlay_colours_what_it_is_about(
    tab: Tab, adaptive: tuple[Preview, Session], webcodecs: bool
) -> None:
    opened, session = adaptive
    assert session.told is not None
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


def test_the_overlay_is_there_in_fullscreen_and_after_a_reconnection(
    tab: Tab, adaptive: tuple[Preview, Session]
) -> None:
    opened, session = adaptive
    assert session.told is not None
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
    tab.wait_for("document.getElementById('state').textContent === 'Server lost'")
    with (
        preview(opened.port, prefer=session.prefer) as (again, told),
        playing(again, told, make=grey),
    ):
        session.told = told
        session.run()
        tab.wait_for("document.getElementById('state').textContent === 'Live'")
        assert_coloured(tab)


def test_the_numbers_are_shown_in_adaptive_mode_alone(
    tab: Tab, adaptive: tuple[Preview, Session]
) -> None:
    opened, session = adaptive
    assert session.told is not None
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


def drag(
    tab: Tab, begin: tuple[float, float], end: tuple[float, float], *, drop: bool = True
) -> None:
    """Moves the mouse from one place of the picture to another, each from 0 to 1."""
    box = tab.page.locator("#picture").bounding_box()
    places = [
        (box["x"] + across * box["width"], box["y"] + down * box["height"])
        for across, down in (begin, end)
    ]
    tab.page.mouse.move(*places[0])
    tab.page.mouse.down()
    tab.page.mouse.move(*places[1], steps=4)
    if drop:
        tab.page.mouse.up()


def outlines(tab: Tab) -> list[list[float]]:
    """Left, top, width and height of each outline, as shares of the picture."""
    return tab.page.evaluate(
        """() => {
            const picture = document.getElementById("picture").getBoundingClientRect();
            return [...document.querySelectorAll("#outlines i")].map((outline) => {
                const box = outline.getBoundingClientRect();
                return [(box.x - picture.x) / picture.width, (box.y - picture.y) / picture.height,
                        box.width / picture.width, box.height / picture.height];
            });
        }"""
    )


def assert_outlined(tab: Tab, regions: list[list[int]]) -> None:
    wait_until(lambda: len(outlines(tab)) == len(regions))
    scale = np.asarray([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    wanted = np.asarray(regions, float).reshape(-1, 4) / scale
    np.testing.assert_allclose(np.reshape(outlines(tab), (-1, 4)), wanted, atol=0.004)


SCALED = [
    *LOOKS,
    pytest.param((DESKTOP, {"device_scale_factor": 1.5}), id="dpr"),
    pytest.param((PHONE, {"is_mobile": True, "has_touch": True}), id="mobile"),
]


@pytest.mark.parametrize("tab", SCALED, indirect=True)
@pytest.mark.parametrize("zoom", [1.0, 1.6])
def test_a_dragged_rectangle_is_a_region(
    tab: Tab, adaptive: tuple[Preview, Session], zoom: float
) -> None:
    opened, session = adaptive
    assert session.told is not None
    with playing(opened, session.told, make=grey):
        open_page(tab, opened)
        if zoom != 1.0:
            tab.page.evaluate("document.documentElement.style.zoom = 1.6")
        tab.page.click("#draw")
        tab.page.locator("#picture").scroll_into_view_if_needed()
        split = tab.page.locator("#divider").get_attribute("aria-valuenow")
        drag(tab, (0.25, 2 / 3), (0.5, 1 / 3))  # from any corner
        wait_until(lambda: session.regions)
        assert session.regions == [[24, 18, 24, 18]]
        assert_outlined(tab, session.regions)
        drag(tab, (0.75, 0.5), (1.1, 0.999))  # beyond the edge
        wait_until(lambda: len(session.regions) == 2)
        assert session.regions[1] == [72, 27, 24, 27]
        assert_outlined(tab, session.regions)
        assert tab.page.locator("#divider").get_attribute("aria-valuenow") == split
        save(tab, f"page-regions-{tab.page.viewport_size['width']}-{zoom}")
        tab.page.click("#clear")
        wait_until(lambda: not session.regions)
        assert_outlined(tab, [])
        tab.page.click("#draw")  # and now the slider slides again
        drag(tab, (0.5, 0.2), (0.8, 0.2))
        assert tab.page.locator("#divider").get_attribute("aria-valuenow") == "80"
        assert session.calls == 3
    assert tab.complaints == [] or all("WebSocket" in line for line in tab.complaints)


@pytest.mark.parametrize("tab", SCALED[-1:], indirect=True)
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_finger_draws_also_in_a_magnified_page(
    tab: Tab, adaptive: tuple[Preview, Session], scale: float, cancelled: bool
) -> None:
    opened, session = adaptive
    assert session.told is not None
    protocol = tab.context.new_cdp_session(tab.page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = tab.page.evaluate(
            """places => places.map(([across, down]) => {
                const box = document.getElementById("picture").getBoundingClientRect();
                return { x: box.x + across * box.width, y: box.y + down * box.height };
            })""",
            places,
        )
        protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    with playing(opened, session.told, make=grey):
        open_page(tab, opened)
        tab.page.locator("#draw").tap()
        protocol.send("Emulation.setPageScaleFactor", {"pageScaleFactor": scale})
        tab.wait_for(f"visualViewport.scale === {scale}")
        touch("touchStart", (0.125, 1 / 6))
        touch("touchMove", (0.2, 0.3))
        touch("touchMove", (0.375, 0.5))
        assert len(outlines(tab)) == 1  # it is seen while it is drawn
        touch("touchCancel" if cancelled else "touchEnd")
        if cancelled:
            wait_until(lambda: not outlines(tab))
            assert session.calls == 0
        else:
            wait_until(lambda: session.regions)
            assert session.regions == [[12, 9, 24, 18]]
        assert tab.page.evaluate("scrollY") == 0


def test_a_pen_draws_and_escape_gives_up(tab: Tab, adaptive: tuple[Preview, Session]) -> None:
    opened, session = adaptive
    assert session.told is not None
    protocol = tab.context.new_cdp_session(tab.page)
    with playing(opened, session.told, make=grey):
        open_page(tab, opened)
        box = tab.page.locator("#picture").bounding_box()

        def pen(kind: str, across: float, down: float) -> None:
            place = {"x": box["x"] + across * box["width"], "y": box["y"] + down * box["height"]}
            button = {"button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen"}
            protocol.send("Input.dispatchMouseEvent", {"type": kind, **place, **button})

        tab.page.keyboard.press("r")
        pen("mousePressed", 0.25, 1 / 3)
        pen("mouseMoved", 0.5, 2 / 3)
        pen("mouseReleased", 0.5, 2 / 3)
        wait_until(lambda: session.regions == [[24, 18, 24, 18]])
        drag(tab, (0.6, 0.6), (0.9, 0.9), drop=False)
        wait_until(lambda: len(outlines(tab)) == 2)
        tab.page.keyboard.press("Escape")
        wait_until(lambda: len(outlines(tab)) == 1)
        tab.page.mouse.up()
        drag(tab, (0.6, 0.6), (0.601, 0.9))  # too thin to be meant
        assert tab.page.locator("#draw").get_attribute("aria-pressed") == "true"
        tab.page.keyboard.press("Escape")
        assert tab.page.locator("#draw").get_attribute("aria-pressed") == "false"
        assert session.calls == 1


def test_regions_are_entered_by_keyboard_and_refusals_are_shown(
    tab: Tab, adaptive: tuple[Preview, Session]
) -> None:
    opened, session = adaptive
    assert session.told is not None
    keys = tab.page.keyboard

    def enter(*numbers: int) -> None:
        tab.page.locator("#regions input").first.focus()
        for number in numbers:
            keys.type(str(number))
            keys.press("Tab")
        keys.press("Enter")  # on "Add"

    with playing(opened, session.told, make=grey):
        open_page(tab, opened)
        tab.page.locator("#enter").press("Enter")
        assert "(96\u00d754)" in tab.text("regions")
        assert tab.page.evaluate("document.activeElement.name") == "x"
        enter(10, 5, 40, 30)
        wait_until(lambda: session.regions == [[10, 5, 40, 30]])
        assert_outlined(tab, session.regions)
        enter(90, 50, 6, 4)
        wait_until(lambda: len(session.regions) == 2)
        enter(0, 5, 40, 30)
        tab.wait_for("document.getElementById('dialog-said').textContent !== ''")
        assert tab.text("dialog-said") == "the region at 0 is outside the frame; draw it again"
        save(tab, "page-regions-dialog")
        tab.page.get_by_role("button", name="Remove 40\u00d730 at 10, 5").press("Enter")
        wait_until(lambda: session.regions == [[90, 50, 6, 4]])
        keys.press("Escape")
        assert not tab.page.locator("#regions").is_visible()
        keys.press("n")
        assert tab.page.locator("#regions").is_visible()
        keys.press("c")  # a letter there, not the page's key
        keys.press("Escape")
        assert len(session.regions) == 1
        keys.press("r")
        drag(tab, (0, 0.2), (0.3, 0.4))
        tab.wait_for("document.getElementById('regions-said').className === 'error'")
        assert tab.text("regions-said") == "the region at 0 is outside the frame; draw it again"
        assert_outlined(tab, session.regions)
        keys.press("c")
        wait_until(lambda: session.regions == [])


def test_regions_of_others_are_seen_and_cannot_be_set_where_nothing_takes_them(
    tab: Tab,
) -> None:
    session = Session()
    with preview() as (opened, told), playing(opened, told, make=grey):
        session.told, session.regions = told, [[8, 8, 16, 16], [48, 0, 48, 54]]
        session.run()
        open_page(tab, opened)
        assert_outlined(tab, session.regions)
        for name in ("draw", "enter", "clear"):
            assert tab.page.locator(f"#{name}").is_hidden()
        for key in "rnc":
            tab.page.keyboard.press(key)
        assert not tab.page.locator("#regions").is_visible()
        assert tab.page.locator("#draw").get_attribute("aria-pressed") == "false"
        session.regions = session.regions[1:]
        session.run()
        assert_outlined(tab, session.regions)
        session.run("exact", "exact")
        assert_outlined(tab, [])


def test_two_viewers_with_a_token_share_the_regions(browser: Any) -> None:
    session = Session()
    with (
        preview(token="only for us", prefer=session.prefer) as (opened, told),
        playing(opened, told, make=grey),
    ):
        session.told = told
        session.run()
        tabs = [Tab(browser, DESKTOP), Tab(browser, PHONE)]
        for tab in tabs:
            open_page(tab, opened)
        tabs[0].page.keyboard.press("r")
        drag(tabs[0], (0.25, 1 / 3), (0.5, 2 / 3))
        wait_until(lambda: session.regions)
        for tab in tabs:
            assert_outlined(tab, [[24, 18, 24, 18]])
            tab.context.close()
