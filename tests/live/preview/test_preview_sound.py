"""The page plays the sound of a camera, muted at first, and in time with the picture it shows."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.benchmarks import clock_code
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.tab import BOTH_SIZES, PHONE, Tab, save
from streamdiffvsr.tests.live.receivers import children, wait_until
from streamdiffvsr.tests.live.rtsp import RtspServer, needs_rtsp_server
from streamdiffvsr.tests.live.sounding import Sounding, sounding

pytestmark = [needs_rtsp_server, pytest.mark.slow]
SCALE = 4
HEARD = """
window.heard = []; window.seen = []; window.silenced = 0;
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const { contextTime, performanceTime } = this.context.getOutputTimestamp();
  const samples = this.buffer.getChannelData(0);
  const loud = samples.findIndex((sample) => Math.abs(sample) > 0.1);
  const at = performanceTime / 1000 + when - contextTime;
  window.heard.push([at, this.buffer.duration, loud < 0 ? -1 : loud / this.buffer.sampleRate]);
  return start.call(this, when);
};
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...drawn) {
  draw.apply(this, drawn);
  if (this.canvas.id !== "after") return;
  const row = (y) => {
    const pixels = this.getImageData(0, y, this.canvas.width, 1).data;
    return btoa(String.fromCharCode(...pixels.filter((_, n) => n % 4 === 1)));
  };
  window.seen.push([performance.now() / 1000, row(16), row(48)]);
};
"""


@contextmanager
def shown(codec: str = "aac") -> Iterator[tuple[Preview, Sounding, RtspServer]]:
    """A preview of a session with a camera that beeps."""
    sessions: list[Sounding] = []

    def status() -> dict[str, Any]:
        return sessions[0].session.status() if sessions else {"state": "connecting"}

    preview = Preview("127.0.0.1", 0, token=None, status=status)
    with (
        RtspServer(size="160x90", fps=15, gop=15, beep=codec) as server,
        sounding(server.url, [preview]) as session,
    ):
        sessions.append(session)
        yield preview, session, server


def open_page(tab: Tab, preview: Preview) -> None:
    tab.page.add_init_script(HEARD)
    tab.page.goto(preview.url)
    tab.shows()
    tab.wait_for("!document.getElementById('sound').hidden")


def beeps(tab: Tab) -> list[float]:
    """The times at which the page has begun to beep, by its own clock."""
    found: list[float] = []
    for at, _, loud in tab.page.evaluate("window.heard"):
        if loud >= 0 and (not found or at + loud > found[-1] + 0.3):
            found.append(at + loud)
    return found


def picture_delays(tab: Tab) -> list[tuple[float, float]]:
    """(time at which it was drawn, that time minus its clock) of each picture."""
    found = []
    for at, *rows in tab.page.evaluate("window.seen"):
        lines = [np.frombuffer(base64.b64decode(row), np.uint8) for row in rows]
        half = clock_code.LINES * SCALE // 2
        image = np.concatenate([np.tile(line[None, :, None], (half, 1, 3)) for line in lines])
        clock = clock_code.read(image, scale=SCALE)
        if clock is not None:
            found.append((at, at - clock / 1e6))
    return found


def offsets(found: list[float], delays: list[tuple[float, float]]) -> list[float]:
    """By how many seconds each beep is heard after its picture."""
    late = []
    for beep in found:
        clock = beep - statistics.median(one for at, one in delays if abs(at - beep) < 1)
        late.append(clock - round(clock))
    return late


@pytest.mark.parametrize("tab", BOTH_SIZES, indirect=True)
def test_the_page_is_silent_until_asked_and_then_plays_in_time(tab):
    with shown() as (preview, _, _):
        open_page(tab, preview)
        tab.page.wait_for_timeout(1000)
        assert tab.page.evaluate("window.heard.length") == 0
        assert tab.page.get_attribute("#sound", "aria-pressed") == "false"
        processes = len(children())
        tab.page.click("#sound")
        tab.wait_for("window.heard.length > 350", 40)  # seven seconds
        assert tab.page.get_attribute("#sound", "aria-pressed") == "true"
        assert len(children()) == processes + 1
        width = tab.page.evaluate("document.documentElement.scrollWidth")
        assert width == tab.page.viewport_size["width"]
        save(tab, f"sound-{width}")
        found, delays = beeps(tab), picture_delays(tab)
        tab.page.keyboard.press("m")
        tab.page.wait_for_timeout(300)
        before = tab.page.evaluate("window.heard.length")
        tab.page.wait_for_timeout(700)
        assert tab.page.evaluate("window.heard.length") == before
    late = offsets(found[2:], delays)  # once it has settled
    assert len(late) >= 4
    assert abs(statistics.median(late)) <= 0.04, late
    assert sum(abs(one) > 0.06 for one in late) <= 1, late  # of a busy machine
    assert tab.complaints == []


@pytest.mark.parametrize("tab", [pytest.param(PHONE, id="phone")], indirect=True)
def test_sound_goes_on_after_the_camera_comes_back_with_another_codec(tab):
    with shown("pcmu") as (preview, session, server):
        open_page(tab, preview)
        tab.page.click("#sound")
        tab.wait_for("window.heard.length > 50")
        server.kill()
        session.until(lambda status: status["state"] == "waiting")
        server.options["beep"] = "opus"
        server.start()
        session.until(lambda status: status["source"]["sound"][0]["codec"] == "opus")
        heard = tab.page.evaluate("window.heard.length")
        tab.wait_for(f"window.heard.length > {heard + 300}", 40)
        found, delays = beeps(tab)[-3:], picture_delays(tab)
    late = offsets(found, delays)
    assert abs(statistics.median(late)) <= 0.04, late
    assert tab.complaints == []


def test_nothing_is_encoded_while_no_one_listens():
    with shown() as (preview, session, _):
        session.frames(20)
        assert len(children()) == 1  # the camera's
        assert preview.status()["viewers"] == 0
    wait_until(lambda: not children())
