"""NVIDIA's driver API: calls that raise their errors, their contexts, and handles that are freed.

Only `cuda.bindings.driver`, of 12.8 through 13, is imported from CUDA. Every call of it returns an
error code with its result; this module turns that into an exception.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from functools import cache
from typing import Any

from ..errors import StreamDiffVSRError, option
from ..graphs.spec import MIB

LESS_MEMORY = (
    "close what else uses it, or build with "
    f"{option('tile')}, {option('flow_scale', 2)} or a smaller size"
)
# The values of CU_STREAM_NON_BLOCKING, CU_EVENT_BLOCKING_SYNC and CU_EVENT_DISABLE_TIMING in the
# driver's header. As numbers they need no import, and they are the same in every version.
NON_BLOCKING, BLOCKING_SYNC, DISABLE_TIMING = 1, 1, 2
OUT_OF_MEMORY, INVALID_DEVICE, NO_DEVICE, NOT_READY = 2, 101, 100, 600
# The first release of the bindings in which a call releases Python's interpreter lock.
FIRST_CONCURRENT = (12, 9, 1)


class CudaError(StreamDiffVSRError):
    """A call of the driver that failed.

    Attributes:
        code: The driver's error number (CUresult).
    """

    def __init__(self, code: int, what: str, why: str, remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.code = code


@cache
def _driver() -> Any:
    from cuda.bindings import driver

    return driver


@cache
def stops_other_threads() -> bool:
    """Returns whether a call that waits blocks every other Python thread, as in old bindings."""
    import cuda.bindings

    release = cuda.bindings.__version__.split("+")[0].split(".")[:3]
    return tuple(int(part) for part in release if part.isdecimal()) < FIRST_CONCURRENT


def driver_call(name: str, *arguments: Any) -> Any:
    """Returns the result of a driver function; a tuple if there are several.

    Raises:
        CudaError: The function failed; the message quotes CUDA.
        StreamDiffVSRError: The package or the driver library is missing.
    """
    try:
        code, *results = getattr(_driver(), name)(*arguments)
    except Exception as error:  # no package, no driver library, or one without this function
        raise StreamDiffVSRError(
            "CUDA cannot be used", f"{type(error).__name__}: {error}", "run streamdiffvsr doctor"
        ) from error
    if int(code):
        raise _failure(name, arguments, code)
    return tuple(results) if len(results) > 1 else results[0] if results else None


def _failure(name: str, arguments: tuple[Any, ...], code: Any) -> CudaError:
    number = int(code)
    if number == OUT_OF_MEMORY:
        asked = f"{arguments[0] / MIB:.0f} MiB were needed" if "MemAlloc" in name else name
        if "Host" in name:
            what = "no more of the host's memory can be page-locked"
            return CudaError(number, what, asked, LESS_MEMORY)
        why = f"{asked}, {_free_memory()}"
        return CudaError(number, "the GPU's memory is full", why, LESS_MEMORY)
    failed, text = _driver().cuGetErrorString(code)
    word = getattr(code, "name", str(number))
    why = word if int(failed) or not text else f"{text.decode(errors='replace')} ({word})"
    return CudaError(number, f"CUDA failed in {name}", why)


def _free_memory() -> str:
    """Returns how much memory is free, for an error message; asking may fail as well."""
    failed, free, total = _driver().cuMemGetInfo()
    if int(failed):
        return "and how much is free cannot be asked"
    return f"{free / MIB:.0f} of {total / MIB:.0f} MiB are free"


class Context:
    """The primary context of a GPU, which every library of this process shares.

    Attributes:
        ordinal: The GPU's number among those that CUDA shows.
    """

    def __init__(self, ordinal: int) -> None:
        """Retains the context for as long as the process lives.

        Raises:
            StreamDiffVSRError: There is no such GPU, or no driver.
        """
        self.ordinal = ordinal
        driver_call("cuInit", 0)
        try:
            device = driver_call("cuDeviceGet", ordinal)
        except CudaError as error:
            if error.code != INVALID_DEVICE:
                raise
            count = driver_call("cuDeviceGetCount")
            raise CudaError(
                error.code,
                f"there is no GPU cuda:{ordinal}",
                f"CUDA shows {count}, the first of which is cuda:0",
                "see streamdiffvsr doctor, or set CUDA_VISIBLE_DEVICES",
            ) from error
        self._handle = driver_call("cuDevicePrimaryCtxRetain", device)
        self._address = int(self._handle)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes this the thread's current context inside the body, then restores the last one."""
        if self._is_current():
            yield
            return
        driver_call("cuCtxPushCurrent", self._handle)
        try:
            yield
        finally:
            driver_call("cuCtxPopCurrent")

    def call(self, name: str, *arguments: Any) -> Any:
        """Returns the result of a driver function called in this context; see `driver_call`."""
        if self._is_current():
            return driver_call(name, *arguments)
        with self.current():
            return driver_call(name, *arguments)

    def _is_current(self) -> bool:
        return int(driver_call("cuCtxGetCurrent")) == self._address


_contexts: dict[int, Context] = {}
_contexts_lock = threading.Lock()


def primary_context(ordinal: int) -> Context:
    """Returns this process's one context of a GPU.

    Raises:
        StreamDiffVSRError: There is no such GPU, or no driver.
    """
    with _contexts_lock:
        if ordinal not in _contexts:
            _contexts[ordinal] = Context(ordinal)
        return _contexts[ordinal]


class Handle:
    """An object that the driver has made in a context: memory, a stream, an event, a graph.

    It is freed with its last reference or by `free`, but not when the interpreter exits: the driver
    frees everything then, and nothing may wait for a GPU that hangs.

    Attributes:
        value: The driver's handle or address as an integer.
    """

    def __init__(self, context: Context, made_by: str, *arguments: Any, freed_by: str) -> None:
        """Makes the object.

        Args:
            made_by: The driver function whose result it is.
            freed_by: The driver function that frees it.

        Raises:
            CudaError: It could not be made; nothing is leaked.
        """
        with context.current():
            made = driver_call(made_by, *arguments)
            self.value = int(made)
            # Registered before the context is left, because that may fail too.
            self._free = weakref.finalize(self, _free_made, context, freed_by, made)
            self._free.atexit = False

    def free(self) -> None:
        """Frees it now; a second call does nothing."""
        self._free()


def _free_made(context: Context, freed_by: str, made: Any) -> None:
    """Frees what the driver made. It runs in a finalizer, where a failure cannot be reported."""
    reached = False
    for _ in range(2):  # entering the context is tried twice; the free itself only once
        with contextlib.suppress(StreamDiffVSRError), context.current():
            reached = True
            driver_call(freed_by, made)
        if reached:
            return


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Disables garbage collection in the body: freeing GPU memory would break a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# Held while work is captured, and while engines are opened and bound: libraries synchronise the
# whole device then, which breaks a capture in another thread (NVIDIA/TensorRT issue 2888).
capture_lock = threading.RLock()
