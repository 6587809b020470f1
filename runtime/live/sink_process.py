"""Runs the child process that encodes for one target, from its opening to its end.

Each frame is sent and answered, so at most one is under way. Every wait has a deadline, and `kill`
ends any wait from another thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError
from ..media.encoder_trial import live_encoder
from ..media.encoders import HARDWARE
from ..media.formats import check_size
from ..processes.child import Child
from ..processes.messages import pack
from .frame import OutputFrame
from .sink_targets import Target

LISTEN_S = 60.0
_BASE_MEMORY_BYTES = 4 << 30
_MEMORY_FRAMES = 60  # x264 holds little more than its references without a lookahead


class LastingError(StreamDiffVSRError):
    """Raised for a failure that lasts: a full disk, a size that cannot be encoded."""


class RefusedError(StreamDiffVSRError):
    """Raised when the receiver refused (401, 403, 404), as it will for a while."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The longest that each message may take, in seconds."""

    open_s: float
    frame_s: float
    close_s: float


NETWORK = Deadlines(open_s=10, frame_s=5, close_s=5)
LOCAL = Deadlines(open_s=20, frame_s=20, close_s=20)  # a disk that slept needs ten


class SinkProcess:
    """A child that writes frames of one size to one place.

    Args:
        target: The place to write to.
        size: The size (H, W) of the frames.
        path: The file to write, where the target is one.
        rate: Frames per second, roughly.
        encoder: The H.264 encoder; None for the best that works here.
        first: The number of the first image.
        resumed: Whether this goes on with what an earlier opening wrote.

    Raises:
        StreamDiffVSRError: No process could be started.
        LastingError: Such frames cannot be encoded.
    """

    def __init__(
        self,
        target: Target,
        size: tuple[int, int],
        *,
        path: Path,
        rate: Fraction,
        encoder: str | None,
        first: int,
        resumed: bool,
        deadlines: Deadlines,
    ) -> None:
        self.size, self.path = size, path
        self._target, self._deadlines = target, deadlines
        open_s = LISTEN_S if target.listens else deadlines.open_s
        name = self._encoder(encoder)
        self._open_s = open_s
        self._child = Child(
            "runtime.live.sink_child",
            {
                "kind": target.kind,
                "remote": target.traits.remote,
                "format": target.format,
                "where": target.where if target.traits.remote else f"file:{path}",
                "path": str(path),
                "size": list(size),
                "rate": pack(rate),
                "encoder": name,
                "crf": target.traits.crf,
                "overwrite": target.overwrite and (not resumed or target.traits.numbered),
                "first": first,
                "resumed": resumed,
                "open_s": open_s,
                "frame_s": deadlines.frame_s,
                "close_s": deadlines.close_s,
            },
            failure=target.failure,
            deadline_s=deadlines.frame_s,
            memory_bytes=self._memory_bytes(name),
        )

    def open(self) -> str:
        """Waits until the target is open; returns the encoder in use.

        Raises:
            StreamDiffVSRError: It could not be opened; may be one of the two kinds above.
        """
        encoder: str = self._receive(self._open_s)["encoder"]
        return encoder

    def write(self, frame: OutputFrame, ticks: int) -> None:
        """Writes one frame, shown at that many 1/90000 s; returns when it is written.

        Raises:
            StreamDiffVSRError: It was not written; may be one of the two kinds above.
        """
        self._child.send({"kind": "frame", "ticks": ticks}, np.ascontiguousarray(frame.image).data)
        self._receive(self._deadlines.frame_s)

    def finish(self, deadline_s: float | None = None) -> None:
        """Writes what the encoder still holds, and ends the child.

        Raises:
            StreamDiffVSRError: The output is not finished; may be one of the two kinds above.
        """
        try:
            self._child.send({"kind": "end"})
            self._receive(self._deadlines.close_s if deadline_s is None else deadline_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the child at once. Safe from any thread, and twice."""
        self._child.close()

    def _receive(self, deadline_s: float) -> dict[str, Any]:
        answer, _ = self._child.receive(deadline_s)
        if answer["kind"] == "failed":
            kind = {"lasting": LastingError, "refused": RefusedError}.get(answer["cause"])
            raise (kind or StreamDiffVSRError)(self._target.failure, answer["why"])
        return answer

    def _encoder(self, asked: str | None) -> str:
        if self._target.traits.numbered:
            return self._target.format
        try:
            check_size(self.size, "h264", self._target.failure)
        except StreamDiffVSRError as error:
            raise LastingError(error.what, error.why, error.remedy) from error
        return asked or live_encoder(self.size).name

    def _memory_bytes(self, encoder: str) -> int | None:
        """Returns the limit of the child's address space; None with a driver, which maps a lot."""
        if encoder in HARDWARE["h264"]:
            return None
        return _BASE_MEMORY_BYTES + _MEMORY_FRAMES * self.size[0] * self.size[1] * 3
