"""The preview's page in a real browser: regions of interest are drawn, entered and outlined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.adaptive_session import LOOKS, Session, grey, open_page
from streamdiffvsr.tests.live.preview.rig import SIZE, playing, preview, wait_until
from streamdiffvsr.tests.live.preview.tab import DESKTOP, PHONE, Tab, save


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


@pytest.mark.slow
@pytest.mark.parametrize("tab", SCALED, indirect=True)
@pytest.mark.parametrize("zoom", [1.0, 1.6])
def test_a_dragged_rectangle_is_a_region(
    tab: Tab, adaptive: tuple[Preview, Session], zoom: float
) -> None:
    opened, session = adaptive
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
        assert tab.text("dialog-said") == "The region at 0 is outside the frame; draw it again"
        assert tab.text("regions-said") == ""  # once is enough
        save(tab, "page-regions-dialog")
        for field, number in zip(("x", "y", "width", "height"), (90, 5, 40, 30), strict=True):
            tab.page.fill(f"#regions [name={field}]", str(number))
        keys.press("Enter")
        assert tab.text("dialog-said") == (
            "Left and Width reach 130, and the frame is 96 pixels wide"
        )
        assert len(session.regions) == 2
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
        assert tab.text("regions-said") == "The region at 0 is outside the frame; draw it again"
        assert_outlined(tab, session.regions)
        keys.press("c")
        wait_until(lambda: session.regions == [])


def test_regions_of_others_are_seen_and_cannot_be_set_where_nothing_takes_them(
    tab: Tab,
) -> None:
    session = Session()
    with preview() as (opened, told), playing(opened, told, make=grey):
        session.regions = [[8, 8, 16, 16], [48, 0, 48, 54]]
        session.watched_by(told)
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
        session.watched_by(told)
        tabs = [Tab(browser, DESKTOP), Tab(browser, PHONE)]
        for tab in tabs:
            open_page(tab, opened)
        tabs[0].page.keyboard.press("r")
        drag(tabs[0], (0.25, 1 / 3), (0.5, 2 / 3))
        wait_until(lambda: session.regions)
        for tab in tabs:
            assert_outlined(tab, [[24, 18, 24, 18]])
            tab.context.close()
