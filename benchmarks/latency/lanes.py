"""The ways to run one set of engines that are timed: one by one, overlapped, and watched.

A lane stays open from round to round: its buffers are allocated and its launches captured once. Two
lanes that are run frame by frame in turn see the same machine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...engines.timed import timed
from ...runtime.frames import OverlappedFrames
from ...runtime.upscaler import FRAMES_AHEAD, Image, Mode, Upscaler
from .frames import endless
from .observed import ObservedDevice, Recorder


@dataclass(slots=True)
class Times:
    """What frames took, in ms.

    Attributes:
        frame: From asking for a frame to having it; in a loop that is the time between two.
        latency: From handing a frame in to having it upscaled.
    """

    frame: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)


class Lane:
    """An endless clip through an upscaler.

    Args:
        upscaler: Its engines may be another lane's too: lanes are not run at once.
        mode: As of `Upscaler.stream`.
        overlap: As of `Upscaler.stream`.
        recorder: Is told which frame's stages come.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        mode: Mode = "latency",
        *,
        overlap: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self._handed: deque[float] = deque()
        self._recorder = recorder
        self._ahead = FRAMES_AHEAD[mode] if overlap else 0
        frames = self._frames(upscaler)
        self._stream = upscaler.stream(frames, overlap=overlap, mode=mode)
        self.output: Image | None = None

    def frame(self, times: Times) -> None:
        """Run one frame more."""
        started = time.perf_counter()
        self.output = next(self._stream)
        ended = time.perf_counter()
        times.frame.append(1e3 * (ended - started))
        times.latency.append(1e3 * (ended - self._handed.popleft()))

    def frames(self, count: int) -> Times:
        """Run some in a loop, and leave nothing on the device.

        Not counted are frames that waited since an earlier call, and the one that takes the device
        back from another lane.
        """
        times, uncounted = Times(), Times()
        for _ in range(self._ahead + 1):
            self.frame(uncounted)
        for _ in range(count):
            self.frame(times)
        if isinstance(self._stream, OverlappedFrames):
            self._stream.pause()
        return times

    def close(self) -> None:
        """Let what was begun end."""
        self._stream.close()

    def _frames(self, upscaler: Upscaler) -> Iterator[Image]:
        for index, frame in enumerate(endless(upscaler.size)):
            if self._recorder is not None:
                self._recorder.frame = index
            self._handed.append(time.perf_counter())
            yield frame


def plain_lane(upscaler: Upscaler, recorder: Recorder | None = None) -> Lane:
    """Stages one after another, nothing beside anything, nothing captured.

    Args:
        recorder: Is told what each stage takes.
    """
    if not upscaler.in_slots:
        engines = upscaler.engines if recorder is None else timed(upscaler.engines, recorder)
        variant = Upscaler(upscaler.manifest, engines, upscaler.device)
        return Lane(variant, overlap=False, recorder=recorder)
    device = ObservedDevice(upscaler.device, recorder, one_stream=True)
    variant = Upscaler(upscaler.manifest, upscaler.engines, device)
    return Lane(variant, overlap=True, recorder=recorder)


def overlapped_lane(upscaler: Upscaler, mode: Mode) -> Lane:
    """On three streams, captured where that is possible: as files and live sources are run."""
    return Lane(upscaler, mode, overlap=True)


def watched(upscaler: Upscaler, recorder: Recorder) -> Upscaler:
    """The same, overlapped but not captured, so that each stage shows on its stream.

    Tiles do not overlap: the host shows them one after another.
    """
    engines, device = upscaler.engines, upscaler.device
    if upscaler.manifest.graphs.geometry.tile is not None:
        return Upscaler(upscaler.manifest, timed(engines, recorder), device)
    return Upscaler(upscaler.manifest, engines, ObservedDevice(device, recorder))
