"""Consecutive frames on three streams, with events as the only hand-over.

    input    upload, prepare, features, flow of frame n+1
    denoise  guide, the four steps of frame n
    output   temporal features beside them, decode and download of frame n

What cannot overlap is guide(n+1) with decode(n): it needs the frame that decode makes. A slot is
taken again when the host has seen the frame that used it, and the one that used it as its previous
frame, to the end.

What runs between two hand-overs is captured as one launch. A frame that is alone, begun when the
one before it has been finished, needs no hand-over: the whole of it is one launch.
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
    """How far a slot's frame is."""

    flowed: Event
    guided: Event
    denoised: Event
    decoded: Event
    downloaded: Event


@dataclass(frozen=True, slots=True)
class _Lane:
    """A slot, how far its frame is, and its guided frame in parts: overlapped, and alone."""

    slot: Slot
    at: _Progress
    enter: CapturedWork
    refine: CapturedWork
    decode: CapturedWork
    whole: CapturedWork


class Schedule:
    """Which stage of which frame runs where, and what it waits for.

    Args:
        slots: A ring, each linked to the one before it.
    """

    def __init__(self, device: Device, slots: Sequence[Slot]) -> None:
        self._input = device.stream("input")
        # What the frame that is nearer its end needs goes before what comes after it.
        self._denoise = device.stream("denoise", urgent=True)
        self._output = device.stream("output", urgent=True)
        self._lanes = [self._make_lane(device, slot) for slot in slots]

    def plain(self, *, alone: bool) -> dict[str, str]:
        """The parts of a frame that are not captured, and why; empty where all of them are.

        Args:
            alone: Of frames that are alone, or of overlapped ones.
        """
        names = ("whole",) if alone else ("enter", "refine", "decode")
        found = ((name, getattr(lane, name)) for lane in self._lanes for name in names)
        return {name: part.obstacle for name, part in found if part.obstacle}

    def restore(self, index: int, hr: Array, lr: Array) -> None:
        """Make a slot as if it had made a frame of earlier; nothing is on the streams.

        Args:
            index: Of the frame.
            hr: Its raw output (1, 3, 4h, 4w).
            lr: Its input (h, w, 3) uint8 RGB.
        """
        slot = self._lane(index).slot
        slot.write_hr(hr)
        np.copyto(slot.frame, lr)
        slot.upload(self._input)
        slot.extract_features(self._input)

    def begin(self, index: int, *, guided: bool, alone: bool) -> None:
        """Put every stage of a frame on the streams; its slot's host memory is filled.

        Args:
            index: Of the frame; its slot is `index` modulo their number.
            guided: Whether the slot before holds its previous frame.
            alone: Whether the frame before it has been finished.
        """
        lane = self._lane(index)
        if guided and alone:
            lane.whole.run()
            # Outside of what is captured, for the host and for a frame that is not alone.
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
        """Let all that was begun end, and give the streams and the slots back."""
        with contextlib.ExitStack() as always:
            # Its parts point here: their memory would wait for a collection.
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
        """Why an engine of a part must not be captured on its stream, or an empty string."""
        streams = zip(LANES, (self._input, self._denoise, self._output), strict=True)
        found = (
            slot.why_not_captured(graph, stream)
            for lane, stream in streams
            for graph in lane
            if graph in graphs
        )
        return next((why for why in found if why), "")


def _closed(stream: Stream) -> None:
    """Close a stream, whatever its device says: that may have failed before."""
    with contextlib.suppress(Exception):
        stream.close()
