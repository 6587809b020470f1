"""Frames in flight from a state on: begun in order, finished in order, a state after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..engines.device import Device
from ..engines.protocol import Engine
from .overlap import Schedule
from .slot import Array, Slot
from .state import StreamState

Image: TypeAlias = npt.NDArray[np.uint8]
# The noise of the frame after a state, or the given one, as the engines take it.
InitialLatent = Callable[[StreamState, Array | None], Array]


class Ring:
    """Slots of one set of engines, and their schedule.

    Args:
        ahead: Frames that are begun before an earlier one is finished.

    Attributes:
        schedule: To be closed when the ring is no longer used.
    """

    def __init__(
        self,
        device: Device,
        engines: Mapping[str, Engine],
        steps: int,
        latent: InitialLatent,
        *,
        ahead: int,
    ) -> None:
        self._latent, self.ahead = latent, ahead
        # Those in flight, and the previous frame of the earliest.
        self._slots = _linked_slots(device, engines, steps, count=ahead + 2)
        self.schedule = Schedule(device, self._slots, ahead)
        self._start = StreamState()
        self._drawn: tuple[tuple[int, int], Array] | None = None  # by seed and frame
        self._begun = self._finished = 0

    @property
    def in_flight(self) -> int:
        """Frames that were begun and not finished."""
        return self._begun - self._finished

    def start(self, state: StreamState) -> None:
        """Go on from a state; nothing is in flight."""
        assert not self.in_flight
        self._start, self._begun, self._finished = state, 0, 0
        if state.previous_hr is not None and state.previous_lr is not None:
            self.schedule.restore(state.previous_hr, state.previous_lr)

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
        index, start = self._begun, self._start
        slot = self._slots[index % len(self._slots)]
        guided = (index > 0 or start.has_previous) and guidance_scale > 0 and not cut
        np.copyto(slot.frame, frame)
        slot.guided_by(guidance_scale if guided else 0)
        slot.noise[:] = self._initial_latent(index, noise)
        self.schedule.begin(index, guided=guided)
        self._begun += 1

    def finish(self) -> Image:
        """Wait for the earliest frame in flight: (4h, 4w, 3) uint8 RGB."""
        self._draw(self._begun)  # milliseconds of the host's, while the device works
        slot = self.schedule.finish(self._finished)
        self._finished += 1
        return slot.out.copy()

    def _initial_latent(self, index: int, noise: Array | None) -> Array:
        if noise is not None:
            return self._latent(self._before(index), noise)
        self._draw(index)
        assert self._drawn is not None
        return self._drawn[1]

    def _draw(self, index: int) -> None:
        """Have the noise of a frame; a step that goes on from its own state has it already."""
        state = self._before(index)
        key = state.seed, state.frame_index
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, self._latent(state, None)

    def _before(self, index: int) -> StreamState:
        return StreamState(self._start.seed, self._start.frame_index + index)

    @property
    def state(self) -> StreamState:
        """After the last frame that was finished, copied from the device now."""
        if self._finished == 0:
            return self._start
        slot = self._slots[(self._finished - 1) % len(self._slots)]
        return StreamState(
            seed=self._start.seed,
            frame_index=self._start.frame_index + self._finished,
            previous_hr=slot.read_hr(),
            previous_lr=slot.frame.copy(),
        )


def _linked_slots(
    device: Device, engines: Mapping[str, Engine], steps: int, count: int
) -> list[Slot]:
    numbers = [device.empty((1,), "int32") for _ in range(steps)]
    for number, buffer in enumerate(numbers):
        device.copy(buffer, np.array([number], np.int32))
    slots = [Slot(device, engines) for _ in range(count)]
    for index, slot in enumerate(slots):
        slot.link(slots[index - 1], numbers)
    return slots
