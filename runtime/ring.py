"""The buffers of an Upscaler's frames, and the runs that share them.

A run makes frames from a state on, with a state after each. All runs of an Upscaler use one ring,
since the engines have one scratch memory and captures are expensive. Runs take turns: a run that
begins a frame while another has frames on the device waits until those are finished.
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
from .frame_slot import Array, Slot, step_numbers
from .overlap import Schedule
from .state import HeldOutput, HeldState, StreamState

Image: TypeAlias = npt.NDArray[np.uint8]
# Returns the noise of the frame after a state, or the given noise, as the engines take it.
InitialLatent = Callable[[StreamState, Array | None], Array]
HeldBySlot = list["weakref.ref[HeldOutput] | None"]
# Two frames in flight, and the frame before the earlier one.
SLOTS = 3


class Ring:
    """The slots of one set of engines, and their schedule."""

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
        # A ring that is dropped halfway must not leak its streams.
        self.close = weakref.finalize(self, _close, self.schedule, self._slots, self._held)
        # At exit nothing waits for a GPU, which may hang; threads of a CPU are ended.
        self.close.atexit = device.name == "cpu"

    @property
    def is_open(self) -> bool:
        """Returns whether frames can be begun; after a failure a new ring may work."""
        return self.close.alive

    def enter(self, run: Run, tip: StreamState) -> None:
        """Gives the slots to a run, for its next frame.

        Args:
            tip: The run's state after the last frame that the device has made.

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
        """Returns whether the slot before the next frame's holds the frame before a state."""
        last = self._held[(self._begun - 1) % SLOTS]
        return isinstance(tip, HeldState) and last is not None and last() is tip.held

    def latent(self, before: StreamState, noise: Array | None) -> Array:
        """Returns a frame's noise by its state, or the given noise, as the engines take it.

        Raises:
            ValueError: The given noise has another shape.
        """
        if noise is not None:
            return self._latent(before, noise)
        self._draw(before)
        assert self._drawn is not None
        return self._drawn[1]

    def begin(self, frame: Image, latent: Array, strength: float, *, alone: bool) -> None:
        """Puts a frame of the engines' size on the streams.

        Args:
            strength: The strength of the guidance by the frame before it; 0 for none.
        """
        slot = self._slots[self._begun % SLOTS]
        self._let_go(self._begun)
        np.copyto(slot.frame, frame)
        slot.guided_by(strength)
        slot.noise[:] = latent
        self.schedule.begin(self._begun, guided=strength > 0, alone=alone)
        self._begun += 1

    def finish(self, following: StreamState) -> tuple[Image, HeldOutput, Array]:
        """Waits for the earliest frame in flight.

        Args:
            following: The state before the next frame: its noise is drawn while the device works.

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
        """Puts the frame before the next one into its slot, if it is not there already."""
        if not tip.has_previous or self.holds(tip):
            return
        assert tip.previous_hr is not None and tip.previous_lr is not None
        self._let_go(self._begun - 1)
        self.schedule.restore(self._begun - 1, tip.previous_hr, tip.previous_lr)

    def _let_go(self, index: int) -> None:
        """Frees a slot: its output is copied to the host if a state still uses it."""
        held = self._held[index % SLOTS]
        if held is not None and (output := held()) is not None:
            output.read()
        self._held[index % SLOTS] = None

    @contextlib.contextmanager
    def whole_or_closed(self) -> Iterator[None]:
        """Closes the ring if what is done inside is not done completely.

        A frame that is half on the streams, or counted here and not by its run, would spoil all
        later ones. An interruption can fall between any two lines.
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
        """Draws the noise of a frame, unless it was drawn last."""
        key = before.seed, before.frame_index
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, self._latent(before, None)


class Run:
    """Makes frames from a state on: begun in order, finished in order.

    Args:
        ahead: How many frames are begun before an earlier one is finished.

    Attributes:
        state: The state after the last frame that was returned.
    """

    def __init__(self, ring: Ring, state: StreamState, *, ahead: int) -> None:
        self._ring, self.state, self.ahead = ring, state, ahead
        self._tip = state  # after the last frame that the device has made
        self._on_device = 0
        self._made: deque[tuple[Image, StreamState]] = deque()  # before they were asked for

    @property
    def in_flight(self) -> int:
        """The number of frames that were begun and not yet returned."""
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
        """Puts a frame of the engines' size on the streams; at most `ahead` + 1 are in flight.

        Args:
            cut: Whether the frame begins a new epoch, without guidance by the one before it.
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
        """Waits for the earliest frame in flight and returns it, (4h, 4w, 3) uint8 RGB."""
        if not self._made:
            self._finish_one()
        image, self.state = self._made.popleft()
        return image

    def whole_or_closed(self) -> contextlib.AbstractContextManager[None]:
        """See `Ring.whole_or_closed`."""
        return self._ring.whole_or_closed()

    def give_way(self) -> None:
        """Finishes the frames that were begun, and keeps them; another run takes the slots."""
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
    numbers = step_numbers(device, steps)
    first = Slot(device, engines)
    slots = [first, *(Slot(device, engines, first.transfer) for _ in range(SLOTS - 1))]
    for index, slot in enumerate(slots):
        slot.link(slots[index - 1], numbers)
    return slots


def _close(schedule: Schedule, slots: list[Slot], held: HeldBySlot) -> None:
    """Waits for all that was begun, and frees streams and buffers; outputs still in use are read.

    The garbage collector can call this in the middle of such a reading, whose locks this thread
    has: then an output keeps its slot until it is read.
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
