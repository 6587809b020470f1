"""Tests what late work on the stand-in does to memory: order, copies, devices, failures."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from cuda.bindings import driver

from streamdiffvsr.tests.standin.driving import (
    BLOCKING,
    LEGACY,
    THREAD_LOCAL,
    at,
    call,
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
SEEDS = range(24)


def in_thread(work: Callable[[], object]) -> object:
    """Runs the work in a thread of its own, and returns its result."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


# ---- devices and contexts ----


def test_two_devices_by_name():
    assert call("cuDeviceGetCount") == 2
    names = [call("cuDeviceGetName", 32, call("cuDeviceGet", i)) for i in range(2)]
    assert [name.rstrip(b"\0 ") for name in names] == [b"Stand-in GPU 0", b"Stand-in GPU 1"]
    assert code("cuDeviceGet", 2) == 101
    assert call("cuDriverGetVersion") == 13040


def test_no_device_and_another_driver(monkeypatch):
    monkeypatch.setenv("STANDIN_DEVICES", "0")
    monkeypatch.setenv("STANDIN_DRIVER_VERSION", "12020")
    assert code("cuInit", 0) == 100
    assert call("cuDriverGetVersion") == 12020


def test_nothing_goes_before_init():
    script = "from cuda.bindings import driver; print(int(driver.cuDeviceGetCount()[0]))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert ran.stdout.split() == [b"3"]


def test_a_thread_begins_without_a_context(standin):
    assert in_thread(lambda: code("cuMemAlloc", 1)) == 201
    assert "cuMemAlloc_v2: 201" in standin.last_illegal()
    assert in_thread(lambda: code("cuCtxPopCurrent")) == 201
    assert in_thread(lambda: int(call("cuCtxGetCurrent"))) == 0


def test_contexts_are_a_stack(gpu):
    with device(1) as other:
        assert int(call("cuCtxGetCurrent")) == other
        assert int(call("cuCtxGetDevice")) == 1
    assert int(call("cuCtxGetCurrent")) == gpu


def test_retained_contexts_are_counted(standin):
    assert (standin.retained(0), standin.retained(1)) == (1, 0)
    with device(1):
        assert standin.retained(1) == 1
    assert standin.retained(1) == 0
    assert code("cuDevicePrimaryCtxRelease", call("cuDeviceGet", 1)) == 201


def test_a_stream_is_used_in_its_own_context():
    mine, mark = stream(), event()
    with device(1):
        assert code("cuStreamSynchronize", mine) == 400
        assert code("cuEventRecord", mark, mine) == 400
        assert code("cuEventRecord", mark, stream()) == 400


def test_memory_of_another_device_is_refused(standin):
    block = memory(16)
    host = pinned(16)
    with device(1):
        foreign = memory(16)
        assert code("cuMemcpyAsync", foreign, at(host), 16, stream()) == 0
    queue = stream()
    assert code("cuMemcpyDtoDAsync", block, foreign, 16, queue) == 1
    assert code("cuMemcpyDtoDAsync", foreign, block, 16, queue) == 1
    assert code("cuMemcpy", foreign, block, 16) == 1
    assert code("cuMemsetD8Async", foreign, 0, 16, queue) == 1
    assert standin.launch(queue, [(foreign, 16)], [(block, 16)]) == 1
    assert standin.launch(queue, [(block, 16)], [(foreign, 16)]) == 1
    assert "memory of device 1" in standin.last_illegal()
    assert standin.launch(queue, [(block, 16)], [(at(host), 16)]) == 0


# ---- memory ----


def test_new_memory_is_rubbish_and_bounds_are_kept():
    block, queue, host = memory(10), stream(), pageable(20)
    assert look(block, 10) == b"\xa5" * 10
    assert code("cuMemsetD8Async", block, 0, 11, queue) == 1
    assert code("cuMemsetD8Async", block + 5, 0, 6, queue) == 1
    assert code("cuMemcpyDtoHAsync", at(host), block, 20, queue) == 1


def test_freed_memory_is_refused(standin):
    block, host, queue = memory(16), pinned(16), stream()
    call("cuMemsetD8Async", block, 1, 16, queue)
    call("cuMemFree", block)
    assert standin.pending() == 0, "freeing waits for the device"
    call("cuMemFreeHost", at(host))
    assert bytes(host) == b"\xdd" * 16
    assert code("cuMemsetD8Async", block, 0, 16, queue) == 1
    assert code("cuMemcpyHtoDAsync", memory(16), at(host), 16, queue) == 1
    assert code("cuMemFree", block) == 1
    assert "was freed already" in standin.last_illegal()


def test_pageable_memory_is_no_device_memory():
    host = pageable(16)
    assert code("cuMemcpyHtoD", at(host), at(host), 16) == 1
    assert code("cuMemsetD8Async", at(host), 0, 16, stream()) == 1


def test_pointers_tell_what_they_are():
    def ask(address: int) -> object:
        return call("cuPointerGetAttributes", len(asked), asked, address)

    prefix = "CU_POINTER_ATTRIBUTE_"
    names = ("MEMORY_TYPE", "DEVICE_ORDINAL", "RANGE_SIZE")
    asked = [getattr(driver.CUpointer_attribute, prefix + name) for name in names]
    host, ordinary = pinned(8), pageable(8)
    with device(1):
        assert ask(memory(16) + 4) == [2, 1, 16]
    assert ask(at(host)) == [1, 0, 8] and ask(at(ordinary))[0] == 0
    assert code("cuPointerGetAttribute", asked[0], at(ordinary)) == 1


def test_memory_runs_out_where_a_test_wants(standin):
    used = standin.used(0)
    standin.limit(used + 100, 0)
    assert call("cuMemGetInfo") == [100, used + 100]
    block = memory(80)
    assert code("cuMemAlloc", 21) == 2
    call("cuMemFree", block)
    assert code("cuMemAlloc", 100) == 0
    standin.limit(standin.used(-1) + 10, -1)
    assert code("cuMemAllocHost", 11) == 2 and code("cuMemHostAlloc", 10, 0) == 0
    with device(1):
        assert code("cuMemAlloc", 1 << 20) == 0


# ---- what is late ----


@pytest.mark.parametrize("name", ["cuMemcpyHtoD", "cuMemcpy"])
def test_a_small_pageable_copy_is_staged_and_lands_late(standin, name):
    block, host = memory(64 << 10), pageable(64 << 10, 1)
    call(name, block, at(host), len(host))
    ctypes.memset(host, 2, len(host))
    assert look(block, 2) == b"\xa5\xa5" and standin.pending() == 1
    call("cuStreamSynchronize", LEGACY)
    assert look(block, len(host)) == b"\1" * len(host)


def test_a_large_pageable_copy_is_waited_for(standin):
    host = pageable((64 << 10) + 1)
    call("cuMemcpyHtoD", memory(len(host)), at(host), len(host))
    assert standin.pending() == 0


def test_a_stream_does_not_wait_for_a_late_copy():
    block, got, host, queue = memory(4), pinned(4), pageable(4, 7), stream()
    call("cuMemcpyHtoD", block, at(host), 4)
    call("cuMemcpyDtoHAsync", at(got), block, 4, queue)
    call("cuStreamSynchronize", queue)
    assert bytes(got) == b"\xa5" * 4


def test_an_asynchronous_pageable_copy_is_staged(standin):
    block, host, queue = memory(4), pageable(4, 1), stream()
    call("cuMemcpyHtoDAsync", block, at(host), 4, queue)
    ctypes.memset(host, 2, 4)
    call("cuStreamSynchronize", queue)
    assert look(block, 4) == b"\1" * 4


def test_pinned_memory_is_read_late():
    block, host, queue = memory(4), pinned(4, 1), stream()
    call("cuMemcpyHtoDAsync", block, at(host), 4, queue)
    ctypes.memset(host, 2, 4)
    call("cuStreamSynchronize", queue)
    assert look(block, 4) == b"\2" * 4


def test_copies_to_the_host():
    block, late, now, queue = memory(4, 9), pinned(4), pageable(4), stream()
    call("cuMemcpyDtoHAsync", at(late), block, 4, queue)
    assert bytes(late) == b"\0" * 4
    call("cuMemcpyDtoHAsync", at(now), block, 4, queue)
    assert bytes(now) == bytes(late) == b"\t" * 4


def test_fills_and_device_copies_are_late_by_any_name(standin):
    block, other = memory(4), memory(4)
    call("cuMemsetD8", block, 0, 4)
    call("cuMemcpyDtoD", other, block, 4)
    assert look(block, 4) == look(other, 4) == b"\xa5" * 4
    call("cuCtxSynchronize")
    assert look(block, 4) == look(other, 4) == b"\0" * 4


# ---- order ----


def test_the_legacy_stream_and_streams_that_wait_for_it():
    block, waits, does_not = memory(1), stream(BLOCKING), stream()
    call("cuMemsetD8", block, 1, 1)
    call("cuMemsetD8Async", block, 2, 1, does_not)
    call("cuStreamSynchronize", does_not)
    assert look(block, 1) == b"\2"
    call("cuMemsetD8Async", block, 3, 1, waits)
    call("cuStreamSynchronize", waits)
    assert look(block, 1) == b"\3"
    call("cuMemsetD8Async", block, 4, 1, waits)
    call("cuMemsetD8", block, 5, 1)
    call("cuStreamSynchronize", LEGACY)
    assert look(block, 1) == b"\5"


@pytest.mark.parametrize("ordered", [False, True])
def test_order_is_random_among_what_is_legal(standin, ordered):
    block, first, second = memory(1), stream(), stream()
    seen = set()
    for seed in SEEDS:
        standin.seed(seed)
        standin.progress(30)
        call("cuMemsetD8Async", block, 0, 1, first)
        call("cuMemsetD8Async", block, 1, 1, first)
        if ordered:
            order(first, second)
        call("cuMemsetD8Async", block, 2, 1, second)
        call("cuCtxSynchronize")
        seen.add(look(block, 1))
    assert seen == ({b"\2"} if ordered else {b"\1", b"\2"})


def test_a_seed_gives_the_same_order_again(standin):
    def run() -> list[bytes]:
        seen = []
        for seed in SEEDS:
            standin.seed(seed)
            for i, queue in enumerate(streams):
                call("cuMemsetD8Async", block, i, 1, queue)
            call("cuCtxSynchronize")
            seen.append(look(block, 1))
        return seen

    block, streams = memory(1), [stream() for _ in range(4)]
    standin.progress(30)
    first = run()
    assert run() == first and len(set(first)) > 2


def test_work_goes_on_while_the_host_asks(standin):
    mark, queue, block = event(), stream(), memory(1)
    standin.progress(50)
    call("cuMemsetD8Async", block, 0, 1, queue)
    call("cuEventRecord", mark, queue)
    answers = {code("cuEventQuery", mark) for _ in range(200)}
    answers |= {code("cuStreamQuery", queue)}
    assert 0 in answers and answers <= {0, 600}
    assert code("cuStreamQuery", queue) == 0


def test_events(standin):
    start, end, mute, never = event(0), event(0), event(), event(0)
    queue = stream()
    for mark in (start, mute, end):
        call("cuEventRecord", mark, queue)
    assert code("cuEventElapsedTime", start, end) == 600
    assert code("cuEventQuery", end) == 600
    call("cuEventSynchronize", end)
    assert call("cuEventElapsedTime", start, end) > 0
    assert code("cuEventElapsedTime", start, mute) == 400
    assert code("cuEventElapsedTime", start, never) == 400
    assert code("cuEventSynchronize", never) == code("cuEventQuery", never) == 0
    call("cuEventDestroy", end)
    assert code("cuEventSynchronize", end) == code("cuEventDestroy", end) == 400


def test_streams():
    least, greatest = call("cuCtxGetStreamPriorityRange")
    assert (least, greatest) == (0, -5)
    queue = int(call("cuStreamCreateWithPriority", 1, -9))
    assert call("cuStreamGetPriority", queue) == -5
    assert call("cuStreamGetPriority", stream()) == 0
    block = memory(1)
    call("cuMemsetD8Async", block, 1, 1, queue)
    call("cuStreamDestroy", queue)
    assert code("cuMemsetD8Async", block, 2, 1, queue) == 400
    call("cuCtxSynchronize")
    assert look(block, 1) == b"\1", "a destroyed stream ends its work"


def test_a_host_function_runs_in_order(standin):
    seen: list[object] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def note(argument: int | None) -> None:
        seen.append((argument, look(block, 1), code("cuCtxSynchronize")))

    block, queue = memory(1), stream()
    call("cuMemsetD8Async", block, 3, 1, queue)
    call("cuLaunchHostFunc", queue, ctypes.cast(note, ctypes.c_void_p).value, 5)
    assert not seen
    call("cuStreamSynchronize", queue)
    assert seen == [(5, b"\3", 800)]


# ---- kernels ----


def test_outputs_follow_from_all_inputs(standin):
    def run(values: bytes, salt: int = 0) -> bytes:
        call("cuMemsetD8Async", inputs[0], values[0], 9, queue)
        call("cuMemsetD8Async", inputs[1] + 8, values[1], 1, queue)
        ranges = [(address, 9) for address in inputs]
        assert standin.launch(queue, ranges, [(output, 13)], salt=salt) == 0
        call("cuStreamSynchronize", queue)
        return look(output, 13)

    inputs, output, queue = [memory(9, 0), memory(9, 0)], memory(13), stream()
    results = [run(b"\0\0"), run(b"\0\1"), run(b"\1\0"), run(b"\0\0", salt=1)]
    assert len(set(results)) == 4 and run(b"\0\0") == results[0]


@pytest.mark.parametrize("sharing", ["nothing", "engine", "scratch"])
def test_kernels_that_share_scratch_memory_spoil_each_other(standin, sharing):
    sources = [memory(8, i) for i in range(2)]
    targets = [memory(8) for _ in sources]
    scratch = memory(16) if sharing == "scratch" else 0
    queues = [stream() for _ in sources]
    seen = set()
    for seed in SEEDS:
        standin.seed(seed)
        for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
            engine = 0 if sharing == "engine" else i
            ranges = [(source, 8)], [(target, 8)]
            assert standin.launch(queues[i], *ranges, engine=engine, scratch=scratch) == 0
        call("cuCtxSynchronize")
        seen.add(tuple(look(target, 8) for target in targets))
    assert (len(seen) > 1) == (sharing != "nothing")


def test_a_kernel_keeps_to_its_device_and_to_device_memory(standin):
    block, queue, host = memory(8), stream(), pageable(8)
    assert standin.launch(queue, [(block, 9)], []) == 1
    assert standin.launch(queue, [(at(host), 8)], []) == 1
    assert standin.launch(queue, [], [], scratch=block) == 1
    with device(1):
        assert standin.launch(queue, [], []) == 400
    assert in_thread(lambda: standin.launch(queue, [], [])) == 201


# ---- failures and leaks ----


def test_the_nth_call_fails_once_without_its_effect(standin: Standin):
    before = standin.live()
    standin.fail(2)
    assert code("cuDeviceGetCount") == 0
    assert code("cuMemAlloc", 1) == 999
    assert standin.live() == before and standin.injected() == 1
    assert code("cuMemAlloc", 1) == 0
    standin.fail(1, 719)
    block = memory(1) if code("cuDeviceGetCount") == 719 else 0
    standin.fail()
    assert code("cuMemFree", block) == 999 and standin.injected_releases() == 1
    assert standin.live().blocks == before.blocks + 2
    assert code("cuMemFree", block) == 0
    assert standin.illegal() == 0


def test_all_calls_fail_from_the_nth_on(standin: Standin):
    standin.fail(2, 700, sticky=True)
    assert [code("cuCtxSynchronize") for _ in range(4)] == [0, 700, 700, 700]
    standin.fail(0)
    assert code("cuCtxSynchronize") == 0


def test_calls_are_counted(standin: Standin):
    before = standin.calls()
    memory(1)
    call("cuCtxSynchronize")
    call("cuGetErrorName", driver.CUresult(1))
    assert standin.calls("cuMemAlloc") == standin.calls("cuMemAlloc_v2") == 1
    assert standin.calls("cuMemFree") == 0
    assert standin.calls() == before + 2
    standin.reset()
    assert standin.calls() == standin.calls("cuMemAlloc") == 0


def test_what_lives_is_counted(standin: Standin):
    def more() -> dict[str, int]:
        now = vars(standin.live())
        return {kind: now[kind] - before[kind] for kind in now if now[kind] != before[kind]}

    before, used = vars(standin.live()), standin.used()
    queue, mark, block, host = stream(), event(), memory(10), pinned(3)
    assert more() == {"streams": 1, "events": 1, "blocks": 1, "pinned": 1}
    assert standin.used() == used + 10
    call("cuStreamBeginCapture", queue, THREAD_LOCAL)
    assert more()["captures"] == 1
    graph = call("cuStreamEndCapture", queue)
    executable = call("cuGraphInstantiate", graph, 0)
    assert (more()["graphs"], more()["execs"]) == (1, 1) and "captures" not in more()
    for name, handle in (
        ("cuGraphExecDestroy", executable),
        ("cuGraphDestroy", graph),
        ("cuStreamDestroy", queue),
        ("cuEventDestroy", mark),
        ("cuMemFree", block),
        ("cuMemFreeHost", at(host)),
    ):
        call(name, handle)
    assert more() == {} and standin.used() == used
