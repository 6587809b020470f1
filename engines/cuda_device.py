"""CUDA's device 0 behind `device.Device`: streams and events of cuda.core, memory by address.

The host waits in `CudaEvent.synchronize` alone, and nothing is allocated after the buffers are.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StreamDiffVSRError
from .cuda_memory import CudaMemory, cuda_call
from .device import Event, Stream, Work
from .protocol import Buffer, DeviceArray


class CudaEvent:
    """A `cuda.core.Event` without timing."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def synchronize(self) -> None:
        self.event.sync()


class CudaStream:
    """A `cuda.core.Stream` that does not wait for the default stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.handle = int(stream.handle)

    def call(self, work: Work) -> None:
        """Right but slow: the host waits for the stream, then works."""
        self.stream.sync()
        work()

    def record(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        self.stream.record(event.event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        self.stream.wait(event.event)

    def check(self) -> None:
        """CUDA reports a failed work at the next call; nothing is kept here."""

    def close(self) -> None:
        self.stream.sync()
        self.stream.close()


class CudaDevice:
    """Buffers are `DeviceArray`s; host memory is page-locked, so that copies run beside work."""

    name = "cuda"

    def __init__(self) -> None:
        """Take device 0, which CUDA_VISIBLE_DEVICES chooses.

        Raises:
            StreamDiffVSRError: cuda.core is not installed, or finds no GPU or driver.
        """
        try:
            from cuda.core import Device

            self._device = Device(0)
            self._device.set_current()
        except Exception as error:  # no package, no driver library, no GPU: kinds of their own
            raise StreamDiffVSRError(
                "no GPU can be used",
                f"{type(error).__name__}: {error}",
                "run streamdiffvsr doctor, or use --device cpu",
            ) from error

    def stream(self, name: str) -> CudaStream:
        return CudaStream(self._device.create_stream())

    def event(self) -> CudaEvent:
        return CudaEvent(self._device.create_event())

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        kind = np.dtype(dtype)
        nbytes = prod(shape) * kind.itemsize
        memory = CudaMemory(nbytes)
        cuda_call("cudaMemset", memory.address, 0, nbytes)
        return DeviceArray(memory.address, shape, kind, memory)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        locked = _LockedMemory(prod(shape) * kind.itemsize)
        return np.frombuffer(locked.view(), kind, prod(shape)).reshape(shape)

    def copy(self, target: Buffer, source: Buffer, stream: Stream | None = None) -> None:
        from cuda.bindings import runtime as cudart

        if target.shape != source.shape or target.dtype != source.dtype:
            raise ValueError(f"{source.dtype} {source.shape} to {target.dtype} {target.shape}")
        arguments = (_address(target), _address(source), _nbytes(target))
        kind = cudart.cudaMemcpyKind.cudaMemcpyDefault
        if stream is None:
            cuda_call("cudaMemcpy", *arguments, kind)
        else:
            cuda_call("cudaMemcpyAsync", *arguments, kind, stream.handle)

    def zero(self, target: Buffer, stream: Stream) -> None:
        cuda_call("cudaMemsetAsync", _address(target), 0, _nbytes(target), stream.handle)


class _LockedMemory:
    """A block of page-locked host memory, freed with the last array on it."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(1, nbytes)
        self.address = int(cuda_call("cudaMallocHost", self.nbytes))

    def view(self) -> Any:
        """A ctypes array over the block that keeps it alive."""
        block: Any = (ctypes.c_ubyte * self.nbytes).from_address(self.address)
        block.owner = self
        ctypes.memset(self.address, 0, self.nbytes)
        return block

    def __del__(self) -> None:
        address, self.address = getattr(self, "address", 0), 0
        if address:
            cuda_call("cudaFreeHost", address)


def _address(buffer: Buffer) -> int:
    return buffer.address if isinstance(buffer, DeviceArray) else buffer.ctypes.data


def _nbytes(buffer: Buffer) -> int:
    return prod(buffer.shape) * buffer.dtype.itemsize
