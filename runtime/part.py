"""A part of a frame that is put on streams again and again: plainly at first, then as one launch.

The host pays for each of the hundreds of launches of a frame, and on a fast GPU that is most of the
time at small sizes. What is captured once (a CUDA graph) is launched as one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ..engines.device import Device, Launch, Stream, Work

# An engine may allocate and compile when it first meets its buffers; none of that can be captured.
PLAIN_RUNS = 1
# Another thread that waits for the whole device breaks a capture, and no lock of ours keeps other
# libraries from it.
TRIES = 3
# Set to 0 where a driver or a library does not bear it.
CAPTURE = "STREAMDIFFVSR_CAPTURE"


class CapturedWork:
    """Work of one slot, the same every time.

    Args:
        name: What profilers show.
        streams: All that the work puts something on; the first is where it begins. When captured,
            the others' parts of it wait for nothing that was put on them before.
        work: Puts it on them.
        why_not: Why an engine in it must not be captured, or an empty string.

    Attributes:
        obstacle: Why it is not captured, or an empty string.
    """

    def __init__(
        self,
        device: Device,
        name: str,
        streams: Sequence[Stream],
        work: Work,
        why_not: Callable[[], str] = lambda: "",
    ) -> None:
        self._device, self._name, self._streams, self._work = device, name, streams, work
        self._why_not = why_not
        self._plain_runs = 0
        self._tries = TRIES
        self._launch: Launch | None = None
        self.obstacle = "it has not run often enough"

    def run(self) -> None:
        """Put it on the streams."""
        with self._device.range(self._name):
            if self._launch is None and self._plain_runs >= PLAIN_RUNS and self._tries:
                self._capture()
            if self._launch is not None:
                self._launch.launch(self._streams[0])
                return
            self._plain_runs += 1
            self._work()

    def _capture(self) -> None:
        """Try it; work that cannot be captured is right, only slower to put there."""
        off = os.environ.get(CAPTURE) == "0"
        self.obstacle = f"{CAPTURE} is 0" if off else self._why_not()
        if self.obstacle:
            self._tries = 0
            return
        self._tries -= 1
        try:
            self._launch = self._device.capture(self._streams, self._work)
        except Exception as error:  # an engine's or the driver's own kinds
            self.obstacle = " ".join(str(error).split())
