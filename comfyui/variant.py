"""An Upscaler with what a node can turn: guidance strength, temporal processors, a look at frames.

Serves where an Upscaler's `stream` does, of images and of files. With nothing turned it is that
very stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from ..engines.device import Device
from ..engines.protocol import Bound, Buffer, Engine
from ..runtime.frames import Cuts, FrameStream, Image, SteppedFrames
from ..runtime.state import StreamState
from ..runtime.upscaler import Upscaler
from ..spec import GraphSpec, Size

FrameCallback = Callable[[Image], None]


class GuidedUpscaler:
    """What a node upscales with.

    Args:
        upscaler: Its engines are used as they are.
        strength: Of the ControlNet; 0 runs every frame without its previous one.
        temporal: Whether the decoder's temporal processors run.
        see: Called with every output frame; what it raises ends the stream.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        *,
        strength: float = 1.0,
        temporal: bool = True,
        see: FrameCallback,
    ) -> None:
        self._upscaler = upscaler if temporal else without_temporal(upscaler)
        self._strength, self._temporal, self._see = strength, temporal, see

    @property
    def size(self) -> Size:
        """(h, w) of the LR frames."""
        return self._upscaler.size

    @property
    def identity(self) -> str:
        """Of another identity, it may make other frames."""
        return f"{self._upscaler.identity} {self._strength} {self._temporal}"

    def stream(
        self, frames: Iterable[Image], state: StreamState | None = None, *, cuts: Cuts | None = None
    ) -> FrameStream:
        """See `Upscaler.stream`."""
        if self._strength == 1:
            outputs = self._upscaler.stream(frames, state, cuts=cuts)
        else:
            step = partial(self._upscaler.step, guidance_scale=self._strength)
            outputs = SteppedFrames(step, frames, state or StreamState(), cuts)
        return _Seen(outputs, self._see)


class _Seen:
    """A stream whose frames are shown to someone as they pass."""

    def __init__(self, frames: FrameStream, see: FrameCallback) -> None:
        self._frames, self._see = frames, see

    @property
    def state(self) -> StreamState:
        return self._frames.state

    def __iter__(self) -> _Seen:
        return self

    def __next__(self) -> Image:
        out = next(self._frames)
        self._see(out)
        return out

    def close(self) -> None:
        self._frames.close()


def without_temporal(upscaler: Upscaler) -> Upscaler:
    """The same engines; the decoder's gate is held at zero."""
    engines = dict(upscaler.engines)
    engines["decode"] = _Ungated(engines["decode"], upscaler.device)
    return Upscaler(upscaler.manifest, engines, upscaler.device)


class _Ungated:
    """A `decode` engine to which the gate is always zero: no temporal processor has a say."""

    def __init__(self, engine: Engine, device: Device) -> None:
        self._engine, self._device = engine, device

    def describe(self) -> GraphSpec:
        return self._engine.describe()

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        gate = buffers["gate"]
        zero: Buffer
        if isinstance(gate, np.ndarray):
            zero = np.zeros_like(gate)
        else:
            zero = self._device.empty(gate.shape, gate.dtype.name)
        return self._engine.bind({**buffers, "gate": zero})
