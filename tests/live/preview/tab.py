"""The preview's page in a tab of a real browser, and what is seen of it."""

from __future__ import annotations

import base64
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

DESKTOP, PHONE = (1280, 860), (390, 844)

BOTH_SIZES = [
    pytest.param(DESKTOP, id="desktop"),
    pytest.param(PHONE, id="phone", marks=pytest.mark.slow),
]

PIXELS = """name => {
    const canvas = document.getElementById(name);
    const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let text = "";
    for (const byte of image.data) text += String.fromCharCode(byte);
    const { index } = document.getElementById("after").dataset;
    return [index, canvas.width, canvas.height, btoa(text)];
}"""


class Tab:
    """A page, and the complaints of its console."""

    def __init__(self, browser: Any, size: tuple[int, int], **options: Any) -> None:
        viewport = {"width": size[0], "height": size[1]}
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda m: m.type == "error" and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def wait_for(self, expression: str, deadline_s: float = 30) -> None:
        """Until the expression is true; not by `wait_for_function`, as the page forbids `eval`."""
        until = time.monotonic() + deadline_s
        while not self.page.evaluate(f"() => {expression}"):
            assert time.monotonic() < until, f"it did not come true: {expression}"
            self.page.wait_for_timeout(50)

    def shows(self, deadline_s: float = 30) -> None:
        self.wait_for("document.getElementById('after').dataset.index !== undefined", deadline_s)

    def pixels(self, name: str) -> tuple[int, np.ndarray]:
        """The index of the frame on the canvas, and its pixels."""
        index, width, height, text = self.page.evaluate(PIXELS, name)
        pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
        return int(index), pixels[..., :3]

    def text(self, name: str) -> str:
        return str(self.page.inner_text(f"#{name}"))


def error(image: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(image.astype(int) - wanted).mean())


def picture_of(tab: Tab) -> np.ndarray:
    """Returns a screenshot of the picture's part of the page."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    import io

    shot = tab.page.locator("#picture").screenshot()
    return np.asarray(image.open(io.BytesIO(shot)).convert("RGB"))


def save(tab: Tab, name: str) -> None:
    """Keep a screenshot where the environment names a folder for it."""
    folder = os.environ.get("STREAMDIFFVSR_SCREENSHOTS")
    if folder:
        tab.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
