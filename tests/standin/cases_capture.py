"""The rules of stream capture and of graphs, as CUDA documents them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from streamdiffvsr.tests.standin.driving import (
    BLOCKING,
    GLOBAL,
    LEGACY,
    RELAXED,
    THREAD_LOCAL,
    at,
    call,
    capture,
    code,
    device,
    event,
    look,
    memory,
    order,
    pageable,
    pinned,
    stream,
)
from streamdiffvsr.tests.standin.library import Standin

pytestmark = pytest.mark.usefixtures("gpu")
MODES = [GLOBAL, THREAD_LOCAL, RELAXED]


def elsewhere(name: str, *arguments: Any) -> int:
    """The number that a call returns in another thread, on device 0."""

    def work() -> int:
        with device(0):
            return code(name, *arguments)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def capturing(queue: int) -> int:
    """0 for no capture, 1 for one, 2 for one that is invalid."""
    return int(call("cuStreamIsCapturing", queue))


def begun(mode: Any = THREAD_LOCAL, flags: int = 1) -> int:
    """A stream that is captured."""
    queue = stream(flags)
    call("cuStreamBeginCapture", queue, mode)
    return queue


def assert_spoilt(queue: int) -> None:
    """The capture that began in the stream is invalid, and can still be ended."""
    assert capturing(queue) == 2
    assert code("cuMemsetD8Async", memory_kept(), 0, 1, queue) == 901
    assert code("cuStreamBeginCapture", queue, THREAD_LOCAL) == 401
    assert code("cuStreamEndCapture", queue) == 901
    assert capturing(queue) == 0
    assert code("cuMemsetD8Async", memory_kept(), 0, 1, queue) == 0
    assert code("cuStreamSynchronize", queue) == 0


_kept: list[int] = []


def memory_kept() -> int:
    """A block that was made before any capture."""
    return _kept[0]


@pytest.fixture(autouse=True)
def _keep_memory(gpu):
    if not _kept:
        _kept.append(memory(64))


# ---- begin and end ----


@pytest.mark.parametrize("mode", MODES)
def test_a_capture_begins_and_ends(standin: Standin, mode):
    queue, block = stream(), memory(1)
    assert capturing(queue) == 0
    call("cuStreamBeginCapture", queue, mode)
    assert capturing(queue) == 1 and standin.live().captures == 1
    call("cuMemsetD8Async", block, 1, 1, queue)
    assert standin.pending() == 0
    graph = call("cuStreamEndCapture", queue)
    assert capturing(queue) == 0 and standin.live().captures == 0
    call("cuStreamSynchronize", queue)
    assert look(block, 1) == b"\xa5", "a captured work is not carried out"
    executable = call("cuGraphInstantiate", graph, 0)
    call("cuGraphDestroy", graph)
    call("cuGraphUpload", executable, queue)
    call("cuGraphLaunch", executable, queue)
    call("cuStreamSynchronize", queue)
    assert look(block, 1) == b"\1"
    assert code("cuGraphDestroy", graph) == 400
    call("cuGraphExecDestroy", executable)
    assert code("cuGraphLaunch", executable, queue) == 400


def test_the_legacy_stream_is_not_captured():
    assert code("cuStreamBeginCapture", LEGACY, THREAD_LOCAL) == 900
    assert code("cuStreamEndCapture", LEGACY) == 401


def test_the_thread_that_began_ends():
    queue = begun()
    assert elsewhere("cuStreamEndCapture", queue) == 908
    assert code("cuStreamEndCapture", queue) == 0
    queue = begun(RELAXED)
    assert elsewhere("cuStreamEndCapture", queue) == 0


def test_the_stream_that_began_ends():
    queue, other = begun(), stream()
    order(queue, other)
    assert capturing(other) == 1
    assert code("cuStreamEndCapture", other) == 903
    assert_spoilt(queue)
    assert capturing(other) == 0


# ---- what is unsafe ----

UNSAFE: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "cuMemAlloc": lambda block: (1,),
    "cuMemFree": lambda block: (block,),
    "cuMemAllocHost": lambda block: (1,),
    "cuMemHostAlloc": lambda block: (1, 0),
    "cuMemcpy": lambda block: (block, block, 1),
    "cuMemcpyDtoD": lambda block: (block, block, 1),
    "cuMemsetD8": lambda block: (block, 0, 1),
    "cuCtxSynchronize": lambda block: (),
}


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL])
@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_calls_of_the_thread_that_captures(standin: Standin, name, mode):
    arguments = UNSAFE[name](memory_kept())
    queue = begun(mode)
    live = standin.live()
    assert code(name, *arguments) == 900
    assert standin.live() == live
    assert_spoilt(queue)


@pytest.mark.parametrize("name", [name for name in UNSAFE if name != "cuCtxSynchronize"])
def test_unsafe_calls_of_another_thread(name):
    block = memory(4)
    queue = begun(THREAD_LOCAL)
    assert elsewhere(name, *UNSAFE[name](block)) == 0
    assert code("cuStreamEndCapture", queue) == 0
    block = memory(4)
    queue = begun(GLOBAL)
    assert elsewhere(name, *UNSAFE[name](block)) == 900
    assert_spoilt(queue)


@pytest.mark.parametrize("mode", MODES)
def test_a_context_with_a_capture_is_waited_for_by_nobody(mode):
    queue = begun(mode)
    assert elsewhere("cuCtxSynchronize") == 900
    assert_spoilt(queue)


def test_another_context_can_be_waited_for():
    queue = begun()
    with device(1), ThreadPoolExecutor(1) as pool:

        def work() -> int:
            with device(1):
                return code("cuCtxSynchronize")

        assert pool.submit(work).result() == 0
    assert code("cuStreamEndCapture", queue) == 0


def test_a_thread_can_lower_its_guard():
    queue = begun()
    before = call("cuThreadExchangeStreamCaptureMode", RELAXED)
    assert code("cuMemAlloc", 1) == 0
    assert before == GLOBAL and call("cuThreadExchangeStreamCaptureMode", before) == RELAXED
    assert code("cuMemAlloc", 1) == 900
    assert_spoilt(queue)


@pytest.mark.parametrize("name", ["cuStreamSynchronize", "cuStreamQuery", "cuStreamDestroy"])
@pytest.mark.parametrize("where", [code, elsewhere])
def test_a_captured_stream_is_not_waited_for(name, where):
    queue = begun(RELAXED)
    assert where(name, queue) == 900
    assert_spoilt(queue)


def test_safe_calls_while_a_thread_captures(standin: Standin):
    other, block, mark = stream(), memory(1), event(0)
    queue = begun()
    call("cuMemGetInfo")
    call("cuMemsetD8Async", block, 1, 1, other)
    call("cuEventDestroy", event())
    call("cuStreamDestroy", stream())
    call("cuEventRecord", mark, other)
    for name, argument in (("cuStreamSynchronize", other), ("cuEventSynchronize", mark)):
        assert elsewhere(name, argument) == 0
    assert look(block, 1) == b"\1"
    assert code("cuStreamEndCapture", queue) == 0 and standin.illegal() == 0


# ---- several streams ----


def test_events_fork_and_join(standin: Standin):
    first, second, block, other = stream(), stream(), memory(1), memory(1)

    def work() -> None:
        order(first, second)
        call("cuMemsetD8Async", block, 7, 1, second)
        order(second, first)
        call("cuMemcpyDtoDAsync", other, block, 1, first)

    executable = capture(first, work)
    assert capturing(second) == 0
    for seed in range(20):
        standin.seed(seed)
        standin.progress(30)
        call("cuMemsetD8Async", other, 0, 1, first)
        call("cuMemsetD8Async", block, 0, 1, first)
        call("cuGraphLaunch", executable, first)
        call("cuStreamSynchronize", first)
        assert look(other, 1) == b"\7"


def test_work_that_is_not_joined():
    queue, other = begun(), stream()
    order(queue, other)
    call("cuMemsetD8Async", memory_kept(), 0, 1, other)
    assert code("cuStreamEndCapture", queue) == 904
    assert capturing(queue) == capturing(other) == 0
    queue, other = begun(), stream()
    order(queue, other)
    assert code("cuStreamEndCapture", queue) == 0, "a fork without work has nothing to join"


def test_two_captures_are_not_merged():
    queue, other, mark = begun(), begun(), event()
    call("cuEventRecord", mark, other)
    assert code("cuStreamWaitEvent", queue, mark, 0) == 902
    assert capturing(queue) == capturing(other) == 2
    assert code("cuStreamEndCapture", other) == 901
    assert_spoilt(queue)


def test_events_from_outside_are_not_waited_for():
    mark, other = event(), stream()
    call("cuEventRecord", mark, other)
    call("cuEventSynchronize", mark)
    queue = begun()
    assert code("cuStreamWaitEvent", queue, mark, 0) == 905
    assert_spoilt(queue)


@pytest.mark.parametrize("name", ["cuEventSynchronize", "cuEventQuery"])
def test_the_host_does_not_wait_for_captured_events(name):
    mark, queue = event(), begun(RELAXED)
    call("cuEventRecord", mark, queue)
    assert code(name, mark) == 907
    assert_spoilt(queue)
    assert code(name, mark) == 907, "not after the capture either"
    call("cuEventRecord", mark, queue)
    call("cuEventSynchronize", mark)


def test_events_of_an_ended_capture_are_waited_for_by_no_stream():
    mark, queue = event(), begun()
    call("cuEventRecord", mark, queue)
    call("cuStreamEndCapture", queue)
    assert code("cuStreamWaitEvent", stream(), mark, 0) == 907
    queue = begun()
    assert code("cuStreamWaitEvent", queue, mark, 0) == 907
    assert_spoilt(queue)


def test_the_legacy_stream_while_a_blocking_stream_is_captured():
    queue = begun(RELAXED, BLOCKING)
    assert code("cuMemsetD8Async", memory_kept(), 0, 1, LEGACY) == 906
    assert_spoilt(queue)
    queue = begun(THREAD_LOCAL, BLOCKING)
    assert elsewhere("cuMemcpyDtoD", memory_kept(), memory_kept(), 1) == 906
    assert_spoilt(queue)
    mark, queue = event(), begun()
    call("cuEventRecord", mark, queue)
    assert code("cuMemsetD8Async", memory_kept(), 0, 1, LEGACY) == 0
    assert code("cuStreamWaitEvent", LEGACY, mark, 0) == 906
    assert_spoilt(queue)


# ---- graphs ----


def test_a_graph_is_not_launched_into_a_capture():
    queue = stream()
    executable = capture(queue, lambda: None)
    call("cuStreamBeginCapture", queue, RELAXED)
    assert code("cuGraphLaunch", executable, queue) == 900
    assert_spoilt(queue)


@pytest.mark.parametrize("kind", [pinned, pageable])
def test_a_captured_copy_reads_the_host_at_every_launch(kind):
    queue, block, host, back = stream(), memory(4), kind(4), kind(4)

    def work() -> None:
        call("cuMemcpyHtoDAsync", block, at(host), 4, queue)
        call("cuMemcpyDtoHAsync", at(back), block, 4, queue)

    executable = capture(queue, work)
    for value in (1, 2):
        call("cuGraphLaunch", executable, queue)
        ctypes.memset(host, value, 4)
        assert back[0] != value
        call("cuStreamSynchronize", queue)
        assert bytes(back) == bytes([value]) * 4


def test_launches_of_one_graph_follow_each_other(standin: Standin):
    def double() -> None:
        ranges = [(block, 8)], [(block, 8)]
        assert standin.launch(queue, *ranges) == 0

    queue, other, block = stream(), stream(), memory(8, 0)
    executable = capture(queue, double)
    results = set()
    for seed in range(20):
        standin.seed(seed)
        standin.progress(30)
        call("cuMemsetD8Async", block, 0, 8, queue)
        order(queue, other)
        call("cuGraphLaunch", executable, queue)
        call("cuGraphLaunch", executable, other)
        call("cuCtxSynchronize")
        results.add(look(block, 8))
    assert len(results) == 1


def test_branches_of_a_graph_run_in_any_order(standin: Standin):
    first, second, block = stream(), stream(), memory(1)

    def work() -> None:
        order(first, second)
        call("cuMemsetD8Async", block, 1, 1, first)
        call("cuMemsetD8Async", block, 2, 1, second)
        order(second, first)

    executable = capture(first, work)
    seen = set()
    for seed in range(400):  # a slow stream's work comes first once in 65
        standin.seed(seed)
        call("cuGraphLaunch", executable, first)
        call("cuStreamSynchronize", first)
        seen.add(look(block, 1))
    assert seen == {b"\1", b"\2"}


def test_a_graph_over_freed_memory_is_refused(standin: Standin):
    queue, block = stream(), memory(8)
    executable = capture(queue, lambda: call("cuMemsetD8Async", block, 0, 8, queue))
    kernel = capture(queue, lambda: standin.launch(queue, [(block, 8)], []))
    call("cuMemFree", block)
    for graph in (executable, kernel):
        assert code("cuGraphLaunch", graph, queue) == 1
    assert "was freed" in standin.last_illegal()


def test_a_graph_is_launched_in_its_own_context():
    queue = stream()
    executable = capture(queue, lambda: None)
    with device(1):
        assert code("cuGraphLaunch", executable, stream()) == 400


def test_what_outlives_a_graph(standin: Standin):
    queue, block = stream(), memory(1)
    executable = capture(queue, lambda: call("cuMemsetD8Async", block, 5, 1, queue))
    call("cuGraphLaunch", executable, queue)
    call("cuGraphExecDestroy", executable)
    call("cuStreamSynchronize", queue)
    assert look(block, 1) == b"\5"
    assert code("cuGraphExecDestroy", executable) == 400
