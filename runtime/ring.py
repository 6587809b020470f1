"""The buffers of an Upscaler's frames, and runs: frames from a state on, a state after each.

Every stream, step and live source of an Upscaler uses the one ring, since the engines have one
scratch memory and captures are dear. Runs take turns: who begins a frame while another run has some
on the device lets those be finished first.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..engines.interface import Device, Engine
from ..errors import StreamDiffVSRError
from .frame_slot import Array, Slot
from .overlap import Schedule
from .state import HeldOutput, HeldState, StreamState

Image: TypeAlias = npt.NDArray[np.uint8]
# The noise of the frame after a state, or the given one, as the engines take it.
InitialLatent = Callable[[StreamState, Array | None], Array]
HeldBySlot = list["weakref.ref[HeldOutput] | None"]
# Two frames in flight, and the previous one of the earlier.
SLOTS = 3


class Ring:
    """Slots of one set of engines, and their schedule."""

    def __init__(
        self, device: Device, engines: Mapping[str, Engine], steps: int, latent: InitialLatent
    ) -> None:
        self._latent = latent
        self._slots = _linked_slots(device, engines, steps)
        self.schedule = Schedule(device, self._slots)
        self._failure = ""
        self._begun = self._finished = 0  # of all runs: a frame's slot is its number modulo SLOTS
        self._user: weakref.ref[Run] | None = None
        self._held: HeldBySlot = [None] * SLOTS
        self._drawn: tuple[tuple[int, int], Array] | None = None  # by seed and frame
        # A ring that is dropped halfway must not leave its streams behind.
        self.close = weakref.finalize(self, _close, self.schedule, self._slots, self._held)
        # At the interpreter's end nothing waits for a GPU, which may hang; threads are let end.
        self.close.atexit = device.name == "cpu"

    @property
    def is_open(self) -> bool:
        """Whether frames can be begun; a new ring may work where this one has failed."""
        return self.close.alive

    def enter(self, run: Run, tip: StreamState) -> None:
        """Let a run put its next frame on the slots.

        Args:
            tip: After the last frame that the device has made of it.

        Raises:
            StreamDiffVSRError: The ring was closed, or has failed.
        """
        self._check_open()
        user = self._user() if self._user is not None else None
        if user is not run:
            if user is not None:
                user.give_way()
            while self._finished < self._begun:  # of a run that was dropped
                self._wait()
            self._restore(tip)
            self._user = weakref.ref(run)

    def holds(self, tip: StreamState) -> bool:
        """Whether the frame before a state lies in the slot before the next frame's."""
        last = self._held[(self._begun - 1) % SLOTS]
        return isinstance(tip, HeldState) and last is not None and last() is tip.held

    def latent(self, before: StreamState, noise: Array | None) -> Array:
        """The noise of a frame by its state, or the given one, as the engines take it.

        Raises:
            ValueError: The given noise is of another shape.
        """
        if noise is not None:
            return self._latent(before, noise)
        self._draw(before)
        assert self._drawn is not None
        return self._drawn[1]

    def begin(self, frame: Image, latent: Array, strength: float, *, alone: bool) -> None:
        """Put a frame of the engines' size on the streams.

        Args:
            strength: Of the guidance by the frame before it; 0 for none.
        """
        slot = self._slots[self._begun % SLOTS]
        self._let_go(self._begun)
        np.copyto(slot.frame, frame)
        slot.guided_by(strength)
        slot.noise[:] = latent
        self.schedule.begin(self._begun, guided=strength > 0, alone=alone)
        self._begun += 1

    def finish(self, following: StreamState) -> tuple[Image, HeldOutput, Array]:
        """Wait for the earliest frame in flight.

        Args:
            following: Of the next frame to be begun: its noise is drawn while the device works.

        Returns:
            The frame (4h, 4w, 3) uint8 RGB, its raw output, and its input.
        """
        self._check_open()
        self._draw(following)  # milliseconds of the host's
        index = self._finished
        slot = self._wait()
        held = HeldOutput(slot.read_hr)
        self._held[index % SLOTS] = weakref.ref(held)
        return slot.out.copy(), held, slot.frame.copy()

    def _wait(self) -> Slot:
        slot = self.schedule.finish(self._finished)
        self._finished += 1
        return slot

    def _restore(self, tip: StreamState) -> None:
        """Have the frame before the next in its slot, if it is not there already."""
        if not tip.has_previous or self.holds(tip):
            return
        assert tip.previous_hr is not None and tip.previous_lr is not None
        self._let_go(self._begun - 1)
        self.schedule.restore(self._begun - 1, tip.previous_hr, tip.previous_lr)

    def _let_go(self, index: int) -> None:
        """Copy a slot's output to the host for whoever still has it; the slot is taken again."""
        held = self._held[index % SLOTS]
        if held is not None and (output := held()) is not None:
            output.read()
        self._held[index % SLOTS] = None

    @contextlib.contextmanager
    def whole_or_closed(self) -> Iterator[None]:
        """What is done inside is done whole, or no more frames are taken.

        A frame that is half on the streams, or counted here and not by its run, would be the wrong
        one for all that come after it. An interruption can fall between any two lines.
        """
        try:
            yield
        except BaseException as error:
            if self.is_open:
                self._failure = " ".join(str(error).split()) or type(error).__name__
                self.close()
            raise

    def _check_open(self) -> None:
        if self.is_open:
            return
        if not self._failure:
            raise StreamDiffVSRError(
                "the stream is closed", "its Upscaler was closed", "make a new stream"
            )
        raise StreamDiffVSRError(
            "an earlier frame failed or was interrupted",
            self._failure,
            "go on from the last state with a new stream",
        )

    def _draw(self, before: StreamState) -> None:
        """Have the noise of a frame; a run that goes on from its own state has it already."""
        key = before.seed, before.frame_index
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, self._latent(before, None)


class Run:
    """Frames from a state on: begun in order, finished in order.

    Args:
        ahead: Frames that are begun before an earlier one is finished.

    Attributes:
        state: After the last frame that was given.
    """

    def __init__(self, ring: Ring, state: StreamState, *, ahead: int) -> None:
        self._ring, self.state, self.ahead = ring, state, ahead
        self._tip = state  # after the last frame that the device has made
        self._on_device = 0
        self._made: deque[tuple[Image, StreamState]] = deque()  # before they were asked for

    @property
    def in_flight(self) -> int:
        """Frames that were begun and not given."""
        return self._on_device + len(self._made)

    @property
    def plain(self) -> dict[str, str]:
        """The parts of a frame that are not captured, and why; empty where all of them are."""
        return self._ring.schedule.plain(alone=self.ahead == 0)

    def begin(
        self,
        frame: Image,
        noise: Array | None = None,
        guidance_scale: float = 1.0,
        *,
        cut: bool = False,
    ) -> None:
        """Put a frame of the engines' size on the streams; at most `ahead` + 1 are in flight.

        Args:
            cut: Begin a new epoch: the frame before leaves it nothing.
        """
        tip = self._tip
        if not self._on_device and isinstance(tip, HeldState) and not self._ring.holds(tip):
            _ = tip.previous_hr  # of another's device: what fails there is not this ring's
        with self._ring.whole_or_closed():
            self._ring.enter(self, self._tip)
        has_previous = self._on_device > 0 or self._tip.has_previous
        guided = has_previous and not cut and guidance_scale > 0
        latent = self._ring.latent(self._next(), noise)
        with self._ring.whole_or_closed():
            strength = guidance_scale if guided else 0.0
            self._ring.begin(frame, latent, strength, alone=self.ahead == 0)
            self._on_device += 1

    def finish(self) -> Image:
        """Wait for the earliest frame in flight: (4h, 4w, 3) uint8 RGB."""
        if not self._made:
            self._finish_one()
        image, self.state = self._made.popleft()
        return image

    def whole_or_closed(self) -> contextlib.AbstractContextManager[None]:
        """See `Ring.whole_or_closed`."""
        return self._ring.whole_or_closed()

    def give_way(self) -> None:
        """Let what was begun be made, and keep it; another run takes the slots."""
        while self._on_device:
            self._finish_one()

    def _finish_one(self) -> None:
        with self._ring.whole_or_closed():
            image, held, lr = self._ring.finish(self._next())
            self._on_device -= 1
            self._tip = HeldState(self._tip.seed, self._tip.frame_index + 1, held, lr)
            self._made.append((image, self._tip))

    def _next(self) -> StreamState:
        return StreamState(self._tip.seed, self._tip.frame_index + self._on_device)


def _linked_slots(device: Device, engines: Mapping[str, Engine], steps: int) -> list[Slot]:
    numbers = [device.empty((1,), "int32") for _ in range(steps)]
    for number, buffer in enumerate(numbers):
        device.copy(buffer, np.array([number], np.int32))
    first = Slot(device, engines)
    slots = [first, *(Slot(device, engines, first.transfer) for _ in range(SLOTS - 1))]
    for index, slot in enumerate(slots):
        slot.link(slots[index - 1], numbers)
    return slots


def _close(schedule: Schedule, slots: list[Slot], held: HeldBySlot) -> None:
    """Let all that was begun end, and give back streams and buffers; held outputs are read.

    A collection can bring us here in the middle of such a reading, whose locks this thread has:
    then an output keeps its slot until it is read.
    """
    with contextlib.ExitStack() as always:
        always.callback(slots.clear)
        always.callback(schedule.close)
        reading = any(slot.transfer.lock.locked() for slot in slots)
        for output in held:
            kept = None if output is None or reading else output()
            if kept is not None and not kept.lock.locked():
                with contextlib.suppress(Exception):
                    kept.read()
