"""Opens a sink by the name of its target: the one place the session asks.

What can be known at once is checked at once; whatever is found later is the sink's own to tell and
to mend. It knows nothing of the preview.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .frame import OutputFrame, Sink
from .targets import parse_target
from .writer import EncodedSink


def open_sink(
    target: str,
    *,
    overwrite: bool = False,
    fps: float | None = None,
    encoder: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Sink:
    """Open a sink; it waits for its first frame before it encodes or connects.

    Args:
        target: FILE.mp4, .mov, .mkv or .ts; FILE.m3u8 (HLS); FOLDER/ or FOLDER/%06d.png, .jpg;
            rtsp, rtsps, rtmp, rtmps, udp or tcp://...; "null".
        overwrite: Replace existing files.
        fps: Frames per second, roughly: it bounds the bit rate; times are the frames' own.
        encoder: The H.264 encoder; None for one in hardware if it works here, else x264.
        tell: Receives one line, without credentials, for whatever a user should know.

    Raises:
        UsageError: It names no kind of output that there is.
        StreamDiffVSRError: Its folder is missing or not writable, or it exists and may not be
            overwritten.
    """
    parsed = parse_target(target, overwrite=overwrite)
    if parsed.kind == "null":
        return NullSink()
    return EncodedSink(parsed, fps=fps, encoder=encoder, tell=tell)


class NullSink:
    """Takes every frame and keeps none: for measuring, and for running the preview alone."""

    def __init__(self) -> None:
        self.name = "null"
        self._state = "waiting"
        self._written = self._dropped = 0

    def offer(self, frame: OutputFrame) -> None:
        """As `Sink`."""
        if self._state == "closed":
            self._dropped += 1
            return
        self._state = "open"
        self._written += 1

    def status(self) -> dict[str, Any]:
        """As `Sink`."""
        return {
            "name": self.name,
            "state": self._state,
            "written": self._written,
            "dropped": self._dropped,
            "reopened": 0,
            "error": "",
        }

    def close(self, deadline_s: float) -> None:
        """As `Sink`."""
        self._state = "closed"
