"""Consecutive frames on three streams, with events as the only hand-over.

    input    upload, prepare, features, flow of frame n+1
    denoise  guide, the four steps of frame n
    output   temporal features beside them, decode and download of frame n

What cannot overlap is guide(n+1) with decode(n): it needs the frame that decode makes. A slot is
taken again when the host has seen the frame that used it, and the one that used it as its previous
frame, to the end.

What runs between two hand-overs is captured as one launch. Where each frame is finished before the
next begins (`ahead` 0), nothing is handed over between frames and a whole frame is one launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..engines.device import Device, Event
from .part import Part
from .slot import Array, Slot


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a slot's frame is."""

    flowed: Event
    guided: Event
    denoised: Event
    decoded: Event
    downloaded: Event


@dataclass(frozen=True, slots=True)
class _Lane:
    """A slot, how far its frame is, and its guided frame in parts: overlapped, and as a whole."""

    slot: Slot
    at: _Progress
    enter: Part
    refine: Part
    decode: Part
    whole: Part


class Schedule:
    """Which stage of which frame runs where, and what it waits for.

    Args:
        slots: A ring, each linked to the one before it.
        ahead: Frames that are begun before an earlier one is finished.
    """

    def __init__(self, device: Device, slots: list[Slot], ahead: int) -> None:
        self._ahead = ahead
        self._input, self._denoise, self._output = (
            device.stream(name) for name in ("input", "denoise", "output")
        )
        self._lanes = [self._make_lane(device, slot) for slot in slots]

    @property
    def plain(self) -> dict[str, str]:
        """The parts of a frame that are not captured, and why; empty where all of them are."""
        names = ("whole",) if self._ahead == 0 else ("enter", "refine", "decode")
        found = ((name, getattr(lane, name)) for lane in self._lanes for name in names)
        return {name: part.obstacle for name, part in found if part.obstacle}

    def restore(self, hr: Array, lr: Array) -> None:
        """Make the slot before the first frame's as if it had made a frame of earlier.

        Args:
            hr: Its raw output (1, 3, 4h, 4w).
            lr: Its input (h, w, 3) uint8 RGB.
        """
        slot, at = self._lanes[-1].slot, self._lanes[-1].at
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
        lane = self._lane(index)
        if guided and self._ahead == 0:
            lane.whole.run()
            self._input.record(lane.at.downloaded)
            return
        if guided:
            lane.enter.run()
        else:
            self._enter(lane.slot, guided=False)
        self._input.record(lane.at.flowed)
        self._denoise.wait(lane.at.flowed)
        if guided:
            self._denoise.wait(self._lane(index - 1).at.decoded)
            lane.refine.run()
        else:
            lane.slot.denoise(self._denoise)
        self._denoise.record(lane.at.denoised)
        self._output.wait(lane.at.denoised)
        lane.decode.run()
        self._output.record(lane.at.decoded)
        lane.slot.download(self._output)
        self._output.record(lane.at.downloaded)

    def finish(self, index: int) -> Slot:
        """Wait for a frame; its slot holds it until the ring comes round.

        Raises:
            Exception: What a stage of it, or of an earlier frame, raised.
        """
        lane = self._lane(index)
        lane.at.downloaded.synchronize()
        for stream in (self._input, self._denoise, self._output):
            stream.check()
        return lane.slot

    def close(self) -> None:
        """Let all that was begun end, and give the streams back."""
        for stream in (self._input, self._denoise, self._output):
            stream.close()

    def _lane(self, index: int) -> _Lane:
        return self._lanes[index % len(self._lanes)]

    # The parts, in the order of a frame.

    def _enter(self, slot: Slot, *, guided: bool) -> None:
        slot.upload(self._input)
        slot.look(self._input)
        if guided:
            slot.find_flow(self._input)
        else:
            slot.blank(self._input)

    def _refine(self, slot: Slot, at: _Progress) -> None:
        slot.guide(self._denoise)
        self._denoise.record(at.guided)
        self._output.wait(at.guided)
        slot.extract_temporal(self._output)
        slot.denoise(self._denoise)

    def _whole(self, slot: Slot, at: _Progress) -> None:
        """The same order of stages; the host has seen the previous frame to its end."""
        self._enter(slot, guided=True)
        self._input.record(at.flowed)
        self._denoise.wait(at.flowed)
        self._refine(slot, at)
        self._denoise.record(at.denoised)
        self._output.wait(at.denoised)
        slot.decode(self._output)
        slot.download(self._output)
        self._output.record(at.decoded)
        self._input.wait(at.decoded)

    def _make_lane(self, device: Device, slot: Slot) -> _Lane:
        into, denoise, output = self._input, self._denoise, self._output
        at = _Progress(*(device.event() for _ in range(5)))
        return _Lane(
            slot,
            at,
            Part(device, "enter", [into], partial(self._enter, slot, guided=True)),
            Part(device, "refine", [denoise, output], partial(self._refine, slot, at)),
            Part(device, "decode", [output], partial(slot.decode, output)),
            Part(device, "whole", [into, denoise, output], partial(self._whole, slot, at)),
        )
