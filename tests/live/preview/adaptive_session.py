"""A session that refines tiles, as the preview sees it, and its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.rig import Told, output
from streamdiffvsr.tests.live.preview.tab import BOTH_SIZES, Tab

GREY = 100
LOOKS = [*BOTH_SIZES, pytest.param((900, 500), id="low", marks=pytest.mark.slow)]


class Session:
    """The status of an adaptive session, and its regions."""

    told: Told

    def __init__(self) -> None:
        self.regions: list[list[int]] = []
        self.calls = 0

    def watched_by(self, told: Told) -> None:
        """Begins to report to a preview."""
        self.told = told
        self.run()

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
        adaptive_or_none = None if running == "exact" else adaptive
        self.told.more = {"mode": mode, "running": running, "adaptive": adaptive_or_none}


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
