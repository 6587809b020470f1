"""Waiting on a live source in tests: for frames, for states, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.frame import LiveFrame
from streamdiffvsr.runtime.live.source import Backoff, LiveSource

PATIENCE_S = 60.0  # of a machine that does other things too


class Watched(LiveSource):
    """A source that keeps the lines it reports, and their times in ``told_at``."""

    def __init__(
        self,
        text: str,
        options: dict[str, str] | None = None,
        *,
        rtsp_transport: str = "auto",
        **more: Any,
    ) -> None:
        self.told_at: list[tuple[float, str]] = []
        address = parse_source(text, options, rtsp_transport=rtsp_transport)
        super().__init__(address, tell=self._keep_line, **more)

    @property
    def told(self) -> list[str]:
        """The lines alone."""
        return [line for _, line in self.told_at]

    def _keep_line(self, line: str) -> None:
        self.told_at.append((time.monotonic(), line))

    def frame(self, wanted: Callable[[LiveFrame], bool] = lambda frame: True) -> LiveFrame:
        """The first frame from now on that is wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            frame = self.newest(0.5)
            if frame is not None and wanted(frame):
                return frame
        raise AssertionError(f"no such frame; {self.status()}, {self.told}")

    def until(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look at the status until it is as wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            status = self.status()
            if reached(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"{self.status()}, {self.told}")


def ended(source: LiveSource) -> Exception:
    """Returns the error that the source raises in the end."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            source.newest(0.5)
    except (EOFError, StreamDiffVSRError) as error:
        return error
    raise AssertionError(source.status())


def impatient() -> Backoff:
    """A back-off for tests with real servers."""
    return Backoff(0.3, 0.6, refused_s=0.5)


@contextmanager
def watch(text: str, options: dict[str, str] | None = None, **more: Any) -> Iterator[Watched]:
    """A source, closed in the end within its promise, with no process of it left."""
    before = set(psutil.Process().children(recursive=True))
    source = Watched(text, options, **{"backoff": impatient(), **more})
    try:
        yield source
    finally:
        began = time.monotonic()
        source.close()
        took = time.monotonic() - began
    assert took < 2
    gone = [child for child in psutil.Process().children(recursive=True) if child not in before]
    assert not [child for child in gone if "bootstrap" in " ".join(child.cmdline())]
