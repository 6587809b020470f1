"""One opening of a target: the child process that encodes, and the messages to it.

Each frame is sent and answered, so at most one is under way. Every wait has a deadline, and `kill`
ends any of them from another thread. It neither opens again nor decides what a failure means.
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
from ..media.preflight import check_size
from ..processes.child import Child
from ..processes.messages import pack
from .frame import Image
from .sink_targets import Target

LISTEN_S = 60.0
_CRF = {"file": 20, "hls": 22, "network": 23, "images": 0}
_BASE_MEMORY_BYTES = 4 << 30
_MEMORY_FRAMES = 60  # x264 holds little more than its references without a lookahead


class LastingError(StreamDiffVSRError):
    """A failure that trying again does not mend: a full disk, a size nobody can encode."""


class RefusedError(StreamDiffVSRError):
    """The receiver understood and said no (401, 403, 404): it will do so for a while."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The longest each message may take, in seconds."""

    open_s: float
    frame_s: float
    close_s: float


NETWORK = Deadlines(open_s=10, frame_s=5, close_s=5)
LOCAL = Deadlines(open_s=20, frame_s=20, close_s=20)  # a disk that slept needs ten


class SinkProcess:
    """A child that writes frames of one size to one place.

    Args:
        target: Where to.
        size: (H, W) of the frames.
        path: The file to write, if that is not the target's own name.
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
                "format": target.format,
                "where": target.where if target.kind == "network" else f"file:{path}",
                "path": str(path),
                "size": list(size),
                "rate": pack(rate),
                "encoder": name,
                "crf": _CRF[target.kind],
                "overwrite": target.overwrite and (not resumed or target.kind == "images"),
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
        """Wait until it is open; returns the encoder that is used.

        Raises:
            StreamDiffVSRError: Of whichever of these kinds: it could not be opened.
        """
        told: str = self._receive(self._open_s)["encoder"]
        return told

    def write(self, image: Image, ticks: int) -> None:
        """Write one frame (H, W, 3), shown at that many 1/90000 s; returns when it is written.

        Raises:
            StreamDiffVSRError: Of whichever of these kinds: it was not.
        """
        self._child.send({"kind": "frame", "ticks": ticks}, np.ascontiguousarray(image).data)
        self._receive(self._deadlines.frame_s)

    def finish(self, deadline_s: float | None = None) -> None:
        """Write what is held back and end the child.

        Raises:
            StreamDiffVSRError: Of whichever of these kinds: what was written is not finished.
        """
        try:
            self._child.send({"kind": "end"})
            self._receive(self._deadlines.close_s if deadline_s is None else deadline_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once. Safe from any thread, and twice."""
        self._child.close()

    def _receive(self, deadline_s: float) -> dict[str, Any]:
        told, _ = self._child.receive(deadline_s)
        if told["kind"] == "failed":
            kind = {"lasting": LastingError, "refused": RefusedError}.get(told["cause"])
            raise (kind or StreamDiffVSRError)(self._target.failure, told["why"])
        return told

    def _encoder(self, asked: str | None) -> str:
        if self._target.kind == "images":
            return self._target.format
        try:
            check_size(self.size, self._target.failure)
        except StreamDiffVSRError as error:
            raise LastingError(error.what, error.why, error.remedy) from error
        return asked or live_encoder(self.size).name

    def _memory_bytes(self, encoder: str) -> int | None:
        """The limit of the child's address space; a driver maps what it likes."""
        if encoder in HARDWARE["h264"]:
            return None
        return _BASE_MEMORY_BYTES + _MEMORY_FRAMES * self.size[0] * self.size[1] * 3
