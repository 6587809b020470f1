"""Consecutive frames on three streams, with events as the only hand-over.

    input    upload, prepare, features, flow of frame n+1
    denoise  guide, the four steps of frame n
    output   temporal features beside them, decode and download of frame n

What cannot overlap is guide(n+1) with decode(n): it needs the frame that decode makes. A slot is
taken again three frames later, when the host has seen the frame that used it, and the one that
used it as its previous frame, to the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engines.device import Device, Event
from .slot import Array, Slot

RUN_AHEAD = 1  # frames that are begun before an earlier one is finished
SLOTS = RUN_AHEAD + 2  # the frames in flight, and the previous frame of the earliest


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a slot's frame is."""

    flowed: Event
    guided: Event
    denoised: Event
    decoded: Event
    downloaded: Event


class Schedule:
    """Which stage of which frame runs where, and what it waits for.

    Args:
        slots: A ring, each linked to the one before it.
    """

    def __init__(self, device: Device, slots: list[Slot]) -> None:
        self._slots = slots
        self._input, self._denoise, self._output = (
            device.stream(name) for name in ("input", "denoise", "output")
        )
        self._progress = [_Progress(*(device.event() for _ in range(5))) for _ in slots]

    def restore(self, hr: Array, lr: Array) -> None:
        """Make the slot before the first frame's as if it had made a frame of earlier.

        Args:
            hr: Its raw output (1, 3, 4h, 4w).
            lr: Its input (h, w, 3) uint8 RGB.
        """
        slot, at = self._slots[-1], self._progress[-1]
        slot.write_hr(hr)
        np.copyto(slot.frame, lr)
        slot.upload(self._input)
        slot.look(self._input)
        self._input.record(at.flowed)
        at.flowed.synchronize()
        self._input.check()

    def begin(self, index: int, *, guided: bool) -> None:
        """Put every stage of a frame on the streams; its slot's host memory is filled.

        Args:
            index: Of the frame; its slot is `index` modulo their number.
            guided: Whether the slot before holds its previous frame.
        """
        count = len(self._slots)
        slot, at = self._slots[index % count], self._progress[index % count]
        before = self._progress[(index - 1) % count]

        slot.upload(self._input)
        slot.look(self._input)
        if guided:
            slot.find_flow(self._input)
        else:
            slot.blank(self._input)
        self._input.record(at.flowed)

        self._denoise.wait(at.flowed)
        if guided:
            self._denoise.wait(before.decoded)
            slot.guide(self._denoise)
        self._denoise.record(at.guided)
        slot.denoise(self._denoise)
        self._denoise.record(at.denoised)

        if guided:
            self._output.wait(at.guided)
            slot.extract_temporal(self._output)
        self._output.wait(at.denoised)
        slot.decode(self._output)
        self._output.record(at.decoded)
        slot.download(self._output)
        self._output.record(at.downloaded)

    def finish(self, index: int) -> Slot:
        """Wait for a frame; its slot holds it until the ring comes round.

        Raises:
            Exception: What a stage of it, or of an earlier frame, raised.
        """
        at = index % len(self._slots)
        self._progress[at].downloaded.synchronize()
        for stream in (self._input, self._denoise, self._output):
            stream.check()
        return self._slots[at]

    def close(self) -> None:
        """Let all that was begun end, and give the streams back."""
        for stream in (self._input, self._denoise, self._output):
            stream.close()
