"""A GPU as a `Device`: streams, events, graphs and memory from CUDA's driver.

The host waits only in `CudaEvent.synchronize`, and in copies without a stream. Nothing is allocated
once the buffers exist.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StreamDiffVSRError
from .cuda_driver import (
    BLOCKING_SYNC,
    DISABLE_TIMING,
    NON_BLOCKING,
    NOT_READY,
    Context,
    CudaError,
    Handle,
    capture_lock,
    driver_call,
    no_collection,
    primary_context,
    stops_other_threads,
)
from .interface import Buffer, DeviceArray, Event, Stream, Work

try:
    import nvtx
except ImportError:  # profilers then show kernels without stage names
    nvtx = None

POLL_S = 0.0005  # a frame takes 10 ms or more
THREAD_LOCAL = "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"


class CudaEvent:
    """A CUDA event without timing. The host sleeps while it waits: encoders need the core."""

    def __init__(self, context: Context) -> None:
        self._context = context
        flags = BLOCKING_SYNC | DISABLE_TIMING
        self._handle = Handle(context, "cuEventCreate", flags, freed_by="cuEventDestroy")
        self.handle = self._handle.value

    def synchronize(self) -> None:
        while stops_other_threads() and not self._is_reached():
            time.sleep(POLL_S)
        self._context.call("cuEventSynchronize", self.handle)

    def _is_reached(self) -> bool:
        try:
            self._context.call("cuEventQuery", self.handle)
        except CudaError as error:
            if error.code != NOT_READY:
                raise
            return False
        return True


class CudaMark:
    """A CUDA event with timing, which resolves half a microsecond."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handle = Handle(context, "cuEventCreate", 0, freed_by="cuEventDestroy")
        self.handle = self._handle.value

    def ms_after(self, earlier: CudaMark) -> float:
        return float(self._context.call("cuEventElapsedTime", earlier.handle, self.handle))


class CudaStream:
    """A CUDA stream that does not wait for the default stream."""

    def __init__(self, context: Context, priority: int = 0) -> None:
        self._context = context
        self._handle = Handle(
            context,
            "cuStreamCreateWithPriority",
            NON_BLOCKING,
            priority,
            freed_by="cuStreamDestroy",
        )
        self.handle = self._handle.value

    def call(self, work: Work) -> None:
        """Waits for the stream, then runs `work` on the host: correct, but slow."""
        self.synchronize()
        work()

    def record(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        self._context.call("cuEventRecord", event.handle, self.handle)

    def wait(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        self._context.call("cuStreamWaitEvent", self.handle, event.handle, 0)

    def synchronize(self) -> None:
        """Waits for all the work on this stream."""
        self._context.call("cuStreamSynchronize", self.handle)

    def check(self) -> None:
        """Does nothing: CUDA itself reports failed work at the next call."""

    def close(self) -> None:
        try:
            self.synchronize()
        finally:
            self._handle.free()


class CudaLaunch:
    """A CUDA graph that is ready to be launched."""

    def __init__(self, context: Context, graph: Handle, stream: Stream) -> None:
        """Instantiates a graph, and uploads what it needs to the device in advance, on `stream`."""
        self._context = context
        self._handle = Handle(
            context, "cuGraphInstantiate", graph.value, 0, freed_by="cuGraphExecDestroy"
        )
        context.call("cuGraphUpload", self._handle.value, stream.handle)

    def launch(self, stream: Stream) -> None:
        self._context.call("cuGraphLaunch", self._handle.value, stream.handle)


class CudaDevice:
    """A GPU: buffers are `DeviceArray`s; host memory is page-locked, so that copies overlap work.

    Attributes:
        context: The GPU's context; current in any calling thread for the duration of a call.
    """

    name = "cuda"

    def __init__(self, ordinal: int = 0) -> None:
        """Uses a GPU by its number among those that CUDA_VISIBLE_DEVICES allows.

        Raises:
            StreamDiffVSRError: There is no such GPU, no driver, or cuda-bindings is not installed.
        """
        self.context = primary_context(ordinal)
        # For work that the host waits for; the default stream would make other libraries' streams
        # wait.
        self._waited = CudaStream(self.context)
        self._priorities = self.context.call("cuCtxGetStreamPriorityRange")

    def stream(self, name: str, *, urgent: bool = False) -> CudaStream:
        least, greatest = self._priorities
        return CudaStream(self.context, greatest if urgent else least)

    def event(self) -> CudaEvent:
        return CudaEvent(self.context)

    def capture(self, streams: Sequence[Stream], work: Work) -> CudaLaunch:
        first, *others = streams
        with capture_lock, no_collection(), self.context.current():
            # Other threads may allocate while this one captures.
            driver_call("cuStreamBeginCapture", first.handle, _capture_mode())
            try:
                for other in others:
                    _hand_over(first, other, self.event())
                work()
                for other in others:
                    _hand_over(other, first, self.event())
                graph = Handle(
                    self.context, "cuStreamEndCapture", first.handle, freed_by="cuGraphDestroy"
                )
            except BaseException:
                _end_failed_capture(first)
                raise
            return CudaLaunch(self.context, graph, first)

    def mark(self, stream: Stream) -> CudaMark:
        mark = CudaMark(self.context)
        self.context.call("cuEventRecord", mark.handle, stream.handle)
        return mark

    def range(
        self, name: str, stream: Stream | None = None
    ) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if nvtx is None else nvtx.annotate(name)

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        kind = np.dtype(dtype)
        nbytes = prod(shape) * kind.itemsize
        memory = Handle(self.context, "cuMemAlloc", max(1, nbytes), freed_by="cuMemFree")
        buffer = DeviceArray(memory.value, shape, kind, memory)
        self.zero(buffer, self._waited)
        self._waited.synchronize()  # no stream of frames waits for this one
        return buffer

    def pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        nbytes = max(1, prod(shape) * kind.itemsize)
        memory = Handle(self.context, "cuMemAllocHost", nbytes, freed_by="cuMemFreeHost")
        block: Any = (ctypes.c_ubyte * nbytes).from_address(memory.value)
        block.owner = memory  # freed with the last array on it
        ctypes.memset(memory.value, 0, nbytes)
        return np.frombuffer(block, kind, prod(shape)).reshape(shape)

    def copy(self, target: Buffer, source: Buffer, stream: Stream | None = None) -> None:
        if target.shape != source.shape or target.dtype != source.dtype:
            raise ValueError(f"{source.dtype} {source.shape} to {target.dtype} {target.shape}")
        on = self._waited if stream is None else stream
        addresses = (_address(target), _address(source))
        self.context.call("cuMemcpyAsync", *addresses, _nbytes(target), on.handle)
        if stream is None:
            self._waited.synchronize()

    def zero(self, target: Buffer, stream: Stream) -> None:
        arguments = (_address(target), 0, _nbytes(target), stream.handle)
        self.context.call("cuMemsetD8Async", *arguments)


def _capture_mode() -> Any:
    from cuda.bindings import driver

    return getattr(driver.CUstreamCaptureMode, THREAD_LOCAL)


def _end_failed_capture(first: Stream) -> None:
    """Ends a failed capture, so that its streams are as they were before it."""
    for _ in range(2):  # ending it may fail as well
        with contextlib.suppress(StreamDiffVSRError):
            if int(driver_call("cuStreamIsCapturing", first.handle)):
                graph = driver_call("cuStreamEndCapture", first.handle)
                driver_call("cuGraphDestroy", graph)


def _hand_over(giver: Stream, taker: Stream, event: Event) -> None:
    giver.record(event)
    taker.wait(event)


def _address(buffer: Buffer) -> int:
    return buffer.address if isinstance(buffer, DeviceArray) else buffer.ctypes.data


def _nbytes(buffer: Buffer) -> int:
    return prod(buffer.shape) * buffer.dtype.itemsize
