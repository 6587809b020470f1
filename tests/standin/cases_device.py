"""The project's CUDA device on the stand-in: memory, copies, contexts, captures, errors, exit."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.engines.cuda_device import CudaDevice
from streamdiffvsr.engines.cuda_driver import CudaError, driver_call
from streamdiffvsr.engines.host import cuda_gpu, why_no_gpu
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.standin.library import Standin

MIB = 2**20


@pytest.fixture
def device(standin: Standin) -> CudaDevice:
    return CudaDevice()


def read(device: CudaDevice, buffer: Any, stream: Any) -> Any:
    """A buffer as a stream of frames sees it now."""
    host = device.pinned(buffer.shape, buffer.dtype.name)
    device.copy(host, buffer, stream)
    stream.synchronize()
    return host.copy()


def test_new_buffers_are_zero_for_a_stream_that_waits_for_no_other(device: CudaDevice) -> None:
    stream = device.stream("input")
    for _ in range(20):
        assert not read(device, device.empty((3, 50), "float32"), stream).any()


def test_a_copy_without_a_stream_is_done_when_it_returns(device: CudaDevice) -> None:
    stream = device.stream("input")
    for number in range(20):
        buffer, array = device.empty((100,), "int32"), np.full(100, number, np.int32)
        device.copy(buffer, array)
        array[:] = -1  # the caller's again
        assert (read(device, buffer, stream) == number).all()
        back = np.empty(100, np.int32)
        device.copy(back, buffer)
        assert (back == number).all()


def test_copies_of_other_shapes_and_types_are_refused(device: CudaDevice) -> None:
    with pytest.raises(ValueError, match="int32"):
        device.copy(device.empty((4,), "float32"), np.zeros(4, np.int32))


def test_marks_tell_times_in_order(device: CudaDevice) -> None:
    stream = device.stream("input")
    marks = [device.mark(stream) for _ in range(3)]
    stream.synchronize()
    assert marks[2].ms_after(marks[0]) >= marks[2].ms_after(marks[1]) >= 0


def test_urgent_streams_have_the_higher_priority(device: CudaDevice) -> None:
    usual, urgent = device.stream("input"), device.stream("denoise", urgent=True)
    priorities = [
        device.context.call("cuStreamGetPriority", stream.handle) for stream in (usual, urgent)
    ]
    assert priorities == [0, -5]  # lower numbers go first


# Contexts and threads.


def test_every_thread_can_use_the_device_and_keeps_its_own_context(device: CudaDevice) -> None:
    second = CudaDevice(1)
    results: list[Any] = []

    def work() -> None:
        with second.context.current():
            ours = int(driver_call("cuCtxGetCurrent"))
            buffer = device.empty((10,), "uint8")
            results.append(read(device, buffer, device.stream("input")).any())
            results.append(int(driver_call("cuCtxGetCurrent")) == ours)
        results.append(int(driver_call("cuCtxGetCurrent")) == 0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [False, True, True]


def test_memory_of_another_gpu_is_refused_in_one_line(device: CudaDevice) -> None:
    other = CudaDevice(1).empty((10,), "uint8")
    with pytest.raises(CudaError, match="cuMemcpyAsync") as raised:
        device.copy(device.empty((10,), "uint8"), other)
    assert len(str(raised.value).splitlines()) == 1


def test_a_gpu_that_is_not_there(standin: Standin) -> None:
    with pytest.raises(StreamDiffVSRError, match=r"no GPU cuda:7.*CUDA shows 2"):
        CudaDevice(7)
    assert why_no_gpu(7) == "there is no cuda:7, CUDA shows 2"
    second = cuda_gpu(1)
    assert second is not None and (second.name, second.sm) == ("Stand-in GPU 1", "sm89")


def test_a_context_is_retained_once(device: CudaDevice, standin: Standin) -> None:
    for _ in range(5):
        CudaDevice().empty((1,), "uint8")
    assert standin.retained(0) == 1


def test_other_threads_run_while_the_host_waits(device: CudaDevice) -> None:
    """Decoders, sinks and the preview page live in them; old bindings let none run."""
    stream, event, ran = device.stream("input"), device.event(), []
    library, microseconds = ctypes.CDLL("libcuda.so.1"), 300_000
    sleeps = ctypes.cast(ctypes.CDLL(None).usleep, ctypes.c_void_p)
    with device.context.current():  # not by the bindings, whose own callback takes the lock
        library.cuLaunchHostFunc(
            ctypes.c_void_p(stream.handle), sleeps, ctypes.c_void_p(microseconds)
        )
    stream.record(event)
    done = threading.Event()

    def count() -> None:
        while not done.wait(0.01):
            ran.append(time.perf_counter())

    thread = threading.Thread(target=count)
    thread.start()
    started = time.perf_counter()
    event.synchronize()
    ended = time.perf_counter()
    done.set()
    thread.join()
    assert ended - started > 0.2
    assert sum(started < at < ended for at in ran) > 5


# Out of memory, and errors inside of handling it.


def test_full_memory_is_one_line_with_what_is_free(device: CudaDevice, standin: Standin) -> None:
    standin.limit(standin.used(0) + 2 * MIB)
    with pytest.raises(StreamDiffVSRError) as raised:
        device.empty((5 * MIB,), "uint8")
    told = str(raised.value)
    assert "the GPU's memory is full" in told and "5 MiB were needed" in told
    assert "2 of" in told and "tile=" in told and len(told.splitlines()) == 1


def test_full_page_locked_memory_says_so(device: CudaDevice, standin: Standin) -> None:
    standin.limit(MIB, device=-1)
    with pytest.raises(StreamDiffVSRError, match=r"can be page-locked: 5 MiB were needed; close"):
        device.pinned((5 * MIB,), "uint8")


def test_full_memory_is_told_where_what_is_free_cannot_be_asked(
    device: CudaDevice, standin: Standin
) -> None:
    standin.limit(0)
    with device.context.current(), pytest.raises(StreamDiffVSRError) as raised:
        standin.fail(2)  # what asks, after cuMemAlloc
        driver_call("cuMemAlloc", MIB)
    assert standin.injected() == 1
    assert "memory is full" in str(raised.value) and "cannot be asked" in str(raised.value)


# Captures.


def test_a_capture_that_fails_leaves_streams_as_they_were(
    device: CudaDevice, standin: Standin
) -> None:
    streams = [device.stream(name) for name in ("input", "denoise")]
    buffer = device.empty((10,), "uint8")

    def allocates() -> None:
        device.copy(buffer, buffer, streams[1])
        device.empty((10,), "uint8")

    def raises() -> None:
        device.copy(buffer, buffer, streams[1])
        raise ValueError("no")

    gc.collect()
    before = standin.live()
    with pytest.raises(StreamDiffVSRError, match="capturing"):
        device.capture(streams, allocates)
    with pytest.raises(ValueError, match="no"):
        device.capture(streams, raises)
    for stream in streams:
        assert int(device.context.call("cuStreamIsCapturing", stream.handle)) == 0
    gc.collect()
    assert standin.live() == before
    assert not read(device, buffer, streams[1]).any()


def test_work_on_any_stream_of_a_capture_runs_when_it_is_launched(device: CudaDevice) -> None:
    streams = [device.stream(name) for name in ("input", "denoise", "output")]
    host = device.pinned((10,), "uint8")
    for stream in streams:
        buffer = device.empty((10,), "uint8")
        launch = device.capture(streams, partial(device.copy, buffer, host, stream))
        host[:] = 7
        assert not read(device, buffer, stream).any()
        for number in (3, 4):
            host[:] = number
            launch.launch(streams[0])
            assert (read(device, buffer, streams[0]) == number).all()


def test_garbage_is_not_collected_in_the_middle_of_a_capture(
    device: CudaDevice, standin: Standin
) -> None:
    """A dropped ring is a cycle; freeing its memory would break the capture."""

    class Cycle:
        def __init__(self) -> None:
            self.me, self.memory = self, device.empty((10,), "uint8")

    streams = [device.stream("input")]
    buffer = device.empty((10,), "uint8")
    gc.collect()
    Cycle()

    def work() -> None:
        device.copy(buffer, buffer, streams[0])
        kept = [[i] for i in range(100_000)]  # more than what starts a collection
        assert kept

    launch = device.capture(streams, work)
    launch.launch(streams[0])
    assert gc.isenabled() and standin.illegal() == 0, standin.last_illegal()


# The interpreter's end.

SCRIPT = """
from pathlib import Path
import sys, tempfile
from streamdiffvsr.tests.standin.engines import make_upscaler, some_frames
from streamdiffvsr.tests.standin.library import Standin

upscaler = make_upscaler(Standin(), sys.argv[1], Path(tempfile.mkdtemp()))
state = upscaler.initial_state(seed=0)
for frame in some_frames(8):
    out, state = upscaler.step(frame, state)
stream = upscaler.stream(some_frames(8))
next(stream)
print(state.frame_index)
"""


@pytest.mark.parametrize("kind", ["plans", "sessions", "graphs"])
def test_the_loop_of_the_readme_as_a_script_says_nothing_at_its_end(
    standin: Standin, kind: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error::ResourceWarning"},
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("8\n", "", 0)
