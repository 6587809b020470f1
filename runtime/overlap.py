"""Runs consecutive frames on three streams that wait for each other by events alone.

    input    upload, prepare, features, flow of frame n+1
    denoise  guide, the four steps of frame n
    output   temporal features meanwhile, decode and download of frame n

guide(n+1) cannot overlap decode(n), as it needs the frame that decode makes. A slot is used again
once the host has waited for the frame that used it, and for the next frame, which reads it.

What runs between two waits is captured as one launch. A frame that is alone, begun after the one
before it was finished, is one launch as a whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..engines.interface import Device, Event, Stream
from ..graphs.spec import GRAPHS, LANES
from .frame_slot import Array, CapturedWork, Slot


@dataclass(frozen=True, slots=True)
class _Progress:
    """Events that say how far a slot's frame is."""

    flowed: Event
    guided: Event
    denoised: Event
    decoded: Event
    downloaded: Event


@dataclass(frozen=True, slots=True)
class _Lane:
    """A slot, its events, and the parts of a guided frame: three if overlapped, one if alone."""

    slot: Slot
    at: _Progress
    enter: CapturedWork
    refine: CapturedWork
    decode: CapturedWork
    whole: CapturedWork


class Schedule:
    """Decides which stage of which frame runs on which stream, and what it waits for.

    Args:
        slots: A ring of slots, each linked to the one before it.
    """

    def __init__(self, device: Device, slots: Sequence[Slot]) -> None:
        self._input = device.stream("input")
        # Work of the earlier frame goes before work of the later one.
        self._denoise = device.stream("denoise", urgent=True)
        self._output = device.stream("output", urgent=True)
        self._lanes = [self._make_lane(device, slot) for slot in slots]

    def plain(self, *, alone: bool) -> dict[str, str]:
        """Returns the parts of a frame that are not captured, and why; empty if all are captured.

        Args:
            alone: Whether to report on frames that are alone, or on overlapped ones.
        """
        names = ("whole",) if alone else ("enter", "refine", "decode")
        found = ((name, getattr(lane, name)) for lane in self._lanes for name in names)
        return {name: part.obstacle for name, part in found if part.obstacle}

    def restore(self, index: int, hr: Array, lr: Array) -> None:
        """Fills a slot as if it had just made an earlier frame; the streams must be empty.

        Args:
            index: The index of the frame.
            hr: Its raw output (1, 3, 4h, 4w).
            lr: Its input (h, w, 3) uint8 RGB.
        """
        slot = self._lane(index).slot
        slot.write_hr(hr)
        np.copyto(slot.frame, lr)
        slot.upload(self._input)
        slot.extract_features(self._input)

    def begin(self, index: int, *, guided: bool, alone: bool) -> None:
        """Puts every stage of a frame on the streams; its slot's host memory must be filled.

        Args:
            index: The index of the frame; its slot is `index` modulo the number of slots.
            guided: Whether the slot before holds its previous frame.
            alone: Whether the frame before it has been finished.
        """
        lane = self._lane(index)
        if guided and alone:
            lane.whole.run()
            # Outside the capture: the host waits for these, and a frame that is not alone.
            self._input.record(lane.at.decoded)
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
        """Waits for a frame and returns its slot, which holds it until the slot is used again.

        Raises:
            Exception: A stage of this frame or of an earlier one failed.
        """
        lane = self._lane(index)
        lane.at.downloaded.synchronize()
        for stream in (self._input, self._denoise, self._output):
            stream.check()
        return lane.slot

    def close(self) -> None:
        """Waits for all that was begun, and frees the streams and the slots."""
        with contextlib.ExitStack() as always:
            # Lanes refer back to this object: only the garbage collector would free their memory.
            always.callback(self._lanes.clear)
            for stream in (self._output, self._denoise, self._input):
                always.callback(_closed, stream)

    def _lane(self, index: int) -> _Lane:
        return self._lanes[index % len(self._lanes)]

    # The parts, in the order of a frame.

    def _enter(self, slot: Slot, *, guided: bool) -> None:
        slot.upload(self._input)
        slot.extract_features(self._input)
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
        """Puts all stages in the same order; the host has waited for the previous frame."""
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
            CapturedWork(
                device,
                "enter",
                [into],
                partial(self._enter, slot, guided=True),
                partial(self._why_not, slot, "prepare", "features", "flow"),
            ),
            CapturedWork(
                device,
                "refine",
                [denoise, output],
                partial(self._refine, slot, at),
                partial(self._why_not, slot, "guide", "temporal", "denoise"),
            ),
            CapturedWork(
                device,
                "decode",
                [output],
                partial(slot.decode, output),
                partial(self._why_not, slot, "decode"),
            ),
            CapturedWork(
                device,
                "whole",
                [into, denoise, output],
                partial(self._whole, slot, at),
                partial(self._why_not, slot, *GRAPHS),
            ),
        )

    def _why_not(self, slot: Slot, *graphs: str) -> str:
        """Returns why an engine of these graphs must not be captured, or an empty string."""
        streams = zip(LANES, (self._input, self._denoise, self._output), strict=True)
        found = (
            slot.why_not_captured(graph, stream)
            for lane, stream in streams
            for graph in lane
            if graph in graphs
        )
        return next((why for why in found if why), "")


def _closed(stream: Stream) -> None:
    """Closes a stream and ignores errors: its device may have failed before."""
    with contextlib.suppress(Exception):
        stream.close()
