"""CUDA's driver as the cases use it: calls by name whose failures are exceptions, and memory."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

from cuda.bindings import driver

BLOCKING, NON_BLOCKING = 0, 1
LEGACY = 0
NO_TIMING = 2
GLOBAL, THREAD_LOCAL, RELAXED = (
    driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL,
    driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
    driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED,
)


class Failed(Exception):
    """A call failed; `code` is CUDA's number for it."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name}: {driver.cuGetErrorName(driver.CUresult(code))[1]} ({code})")
        self.code = code


def call(name: str, *arguments: Any) -> Any:
    """The result of a function of CUDA's driver; several are a list.

    Raises:
        Failed: it did not succeed.
    """
    result, *values = getattr(driver, name)(*arguments)
    if int(result):
        raise Failed(name, int(result))
    return values if len(values) > 1 else values[0] if values else None


def code(name: str, *arguments: Any) -> int:
    """The number that a function of CUDA's driver returns, 0 for success."""
    return int(getattr(driver, name)(*arguments)[0])


@contextlib.contextmanager
def device(ordinal: int) -> Iterator[int]:
    """Make a device's primary context current in this thread; gives the context."""
    context = call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", ordinal))
    call("cuCtxPushCurrent", context)
    try:
        yield int(context)
    finally:
        call("cuCtxPopCurrent")
        call("cuDevicePrimaryCtxRelease", call("cuDeviceGet", ordinal))


def stream(flags: int = NON_BLOCKING) -> int:
    """A new stream."""
    return int(call("cuStreamCreate", flags))


def event(flags: int = NO_TIMING) -> int:
    """A new event."""
    return int(call("cuEventCreate", flags))


def memory(nbytes: int, fill: int | None = None) -> int:
    """A new block of device memory; filled by now, if it is."""
    address = int(call("cuMemAlloc", nbytes))
    if fill is not None:
        call("cuMemsetD8", address, fill, nbytes)
        call("cuStreamSynchronize", LEGACY)
    return address


def pinned(nbytes: int, fill: int = 0) -> Any:
    """A new block of page-locked memory, as an array."""
    block = (ctypes.c_ubyte * nbytes).from_address(int(call("cuMemAllocHost", nbytes)))
    ctypes.memset(block, fill, nbytes)
    return block


def pageable(nbytes: int, fill: int = 0) -> Any:
    """An array in ordinary memory."""
    block = (ctypes.c_ubyte * nbytes)()
    ctypes.memset(block, fill, nbytes)
    return block


def at(block: Any) -> int:
    """The address of an array."""
    return ctypes.addressof(block)


def look(address: int, nbytes: int) -> bytes:
    """Returns what device memory holds now, before late work is done; CUDA does not show this."""
    return ctypes.string_at(address, nbytes)


def order(first: int, then: int) -> None:
    """Let a stream wait for all that another has to do."""
    mark = event()
    call("cuEventRecord", mark, first)
    call("cuStreamWaitEvent", then, mark, 0)
    call("cuEventDestroy", mark)


def capture(origin: int, work: Callable[[], None], mode: Any = THREAD_LOCAL) -> int:
    """An executable graph of what the work puts on a stream."""
    call("cuStreamBeginCapture", origin, mode)
    work()
    graph = call("cuStreamEndCapture", origin)
    executable = int(call("cuGraphInstantiate", graph, 0))
    call("cuGraphDestroy", graph)
    return executable
