"""CUDA's device 0 behind `device.Device`: streams and events of cuda.core, memory by address.

The host waits in `CudaEvent.synchronize` alone, and nothing is allocated after the buffers are.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StreamDiffVSRError
from .cuda_memory import CudaMemory, cuda_call
from .device import Event, Stream, Work
from .protocol import Buffer, DeviceArray

try:
    import nvtx
except ImportError:  # profilers then show kernels without the names of their stages
    nvtx = None


class CudaEvent:
    """A `cuda.core.Event` without timing."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def synchronize(self) -> None:
        self.event.sync()


class CudaMark:
    """A CUDA event with timing, which resolves half a microsecond."""

    def __init__(self) -> None:
        self.event = cuda_call("cudaEventCreate")

    def ms_after(self, earlier: CudaMark) -> float:
        return float(cuda_call("cudaEventElapsedTime", earlier.event, self.event))

    def __del__(self) -> None:
        event, self.event = getattr(self, "event", None), None
        if event is not None:
            cuda_call("cudaEventDestroy", event)


class CudaStream:
    """A `cuda.core.Stream` that does not wait for the default stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.handle = int(stream.handle)
        self._closed = False

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
        if not self._closed:
            self._closed = True
            self.stream.sync()
            self.stream.close()


class CudaLaunch:
    """A CUDA graph, ready to be launched."""

    def __init__(self, graph: Any) -> None:
        self._executable = 0
        try:
            self._executable = int(cuda_call("cudaGraphInstantiate", graph, 0))
        finally:
            cuda_call("cudaGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        cuda_call("cudaGraphLaunch", self._executable, stream.handle)

    def __del__(self) -> None:
        executable, self._executable = getattr(self, "_executable", 0), 0
        if executable:
            cuda_call("cudaGraphExecDestroy", executable)


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

    def capture(self, streams: Sequence[Stream], work: Work) -> CudaLaunch:
        from cuda.bindings import runtime as cudart

        first, *others = streams
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda_call("cudaStreamBeginCapture", first.handle, mode)
        try:
            for other in others:
                _hand_over(first, other, self.event())
            work()
            for other in others:
                _hand_over(other, first, self.event())
        except BaseException:
            with contextlib.suppress(StreamDiffVSRError):  # it tells of the failure once more
                cuda_call("cudaStreamEndCapture", first.handle)
            raise
        return CudaLaunch(cuda_call("cudaStreamEndCapture", first.handle))

    def mark(self, stream: Stream) -> CudaMark:
        mark = CudaMark()
        cuda_call("cudaEventRecord", mark.event, stream.handle)
        return mark

    def range(
        self, name: str, stream: Stream | None = None
    ) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if nvtx is None else nvtx.annotate(name)

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


def _hand_over(giver: Stream, taker: Stream, event: Event) -> None:
    giver.record(event)
    taker.wait(event)


def _address(buffer: Buffer) -> int:
    return buffer.address if isinstance(buffer, DeviceArray) else buffer.ctypes.data


def _nbytes(buffer: Buffer) -> int:
    return prod(buffer.shape) * buffer.dtype.itemsize
