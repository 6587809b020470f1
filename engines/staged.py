"""Engines of a GPU on host arrays: every run copies its inputs there and its outputs back.

For what the host has a part in: the mixing of tiles, and the parity gate. Whole frames stay on the
GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from ..spec import GraphSpec
from .device import Device
from .protocol import Bound, Buffer, Engine, HostArray, HostBound, check_buffers


class StagedEngine:
    """An engine with device buffers of its own between it and the caller's host arrays."""

    def __init__(self, device: Device, engine: Engine) -> None:
        self._device, self._spec = device, engine.describe()
        tensors = (*self._spec.inputs, *self._spec.outputs)
        self._buffers = {t.name: device.empty(t.shape, t.dtype) for t in tensors}
        self._bound = engine.bind(self._buffers)

    def describe(self) -> GraphSpec:
        """Names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """The engine on these host arrays."""
        check_buffers(self._spec, buffers)
        arrays = {k: v for k, v in buffers.items() if isinstance(v, np.ndarray)}
        return HostBound(partial(self._run, arrays))

    def _run(self, arrays: Mapping[str, HostArray]) -> None:
        """Copy there, run, copy back; all of it is done when this returns."""
        for tensor in self._spec.inputs:
            self._device.copy(self._buffers[tensor.name], arrays[tensor.name])
        self._bound.enqueue()
        for tensor in self._spec.outputs:
            self._device.copy(arrays[tensor.name], self._buffers[tensor.name])
