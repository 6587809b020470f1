"""Tests what frames on a GPU cost and leave behind, and which part of them is captured."""

from __future__ import annotations

import contextlib
import copy
import gc
import linecache
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdiffvsr import StreamState
from streamdiffvsr.engines.cuda_device import CudaDevice
from streamdiffvsr.engines.cuda_driver import primary_context
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import LANES, Geometry
from streamdiffvsr.runtime.upscaler import FRAMES_AHEAD, Image, Upscaler
from streamdiffvsr.tests.standin.engines import (
    FRAMES,
    SIZE,
    START,
    Library,
    SessionEngine,
    different,
    expected_frames,
    kernels_of,
    make_upscaler,
    plan_engines,
    some_frames,
    steps,
)
from streamdiffvsr.tests.standin.library import Standin

# What a frame costs.


def test_a_steady_step_is_one_launch(standin: Standin, tmp_path: Path) -> None:
    """The README's loop, where all is captured, allocates nothing and copies no raw output."""
    up, state = make_upscaler(standin, "plans", tmp_path), START
    for frame in FRAMES:
        _, state = up.step(frame, state)
    assert up.run(state).plain == {}
    names = ("cuMemAlloc", "cuMemAllocHost", "cuMemFree", "cuMemFreeHost", "cuMemcpyAsync")
    before = {name: standin.calls(name) for name in (*names, "cuGraphLaunch")}
    for frame in FRAMES:
        _, state = up.step(frame, state)
    made = {name: standin.calls(name) - count for name, count in before.items()}
    assert made == dict.fromkeys(names, 0) | {"cuGraphLaunch": len(FRAMES)}


def test_a_stream_captures_nothing_that_an_earlier_one_has(
    standin: Standin, tmp_path: Path
) -> None:
    up = make_upscaler(standin, "plans", tmp_path)
    for mode in FRAMES_AHEAD:
        list(up.stream(FRAMES, START, mode=mode))
    gc.collect()
    before = standin.live(), standin.calls("cuStreamBeginCapture"), standin.used()
    for mode in FRAMES_AHEAD:
        list(up.stream(FRAMES, START, mode=mode))
    after = standin.live(), standin.calls("cuStreamBeginCapture"), standin.used()
    assert after == before


def test_overlapped_frames_are_three_launches(standin: Standin, tmp_path: Path) -> None:
    stream = make_upscaler(standin, "plans", tmp_path).stream(FRAMES, START)
    for _ in range(8):
        next(stream)
    before = standin.calls("cuGraphLaunch")
    next(stream)
    assert standin.calls("cuGraphLaunch") - before == 3


def test_states_that_are_kept_hold_no_page_locked_memory(up: Upscaler, standin: Standin) -> None:
    steps(up, FRAMES, START)
    gc.collect()
    before = standin.live().pinned
    state, kept = START, []
    for frame in FRAMES:
        _, state = up.step(frame, state)
        kept.append(state)
    assert len({kept_one.previous_hr.tobytes() for kept_one in kept}) == len(FRAMES)
    assert standin.live().pinned == before


def test_a_state_outlives_its_upscaler(standin: Standin, tmp_path: Path, expected: Any) -> None:
    _, last = expected
    gc.collect()
    before = standin.live()
    up = make_upscaler(standin, "plans", tmp_path)
    _, state = steps(up, FRAMES, START)
    del up
    assert standin.live().blocks == before.blocks
    assert np.array_equal(state.previous_hr, last.previous_hr)


def test_nothing_waits_for_a_collection_to_be_given_back(
    standin: Standin, kind: str, tmp_path: Path
) -> None:
    """Streams that ended, that their source ended with an error, and that were closed."""

    def source() -> Iterator[Image]:
        yield from FRAMES[:3]
        raise OSError("the cable is out")

    gc.collect()
    gc.disable()
    try:
        before = standin.live()
        up = make_upscaler(standin, kind, tmp_path)
        ended, failed, closed = up.stream(FRAMES), up.stream(source()), up.stream(FRAMES)
        for leave in (lambda stream: stream.close(), lambda stream: None):
            noted = up.stream(source())
            assert len([next(noted), next(noted)]) == 2  # the error has been seen, not raised
            leave(noted)
            del noted
        list(ended)
        with pytest.raises(OSError, match="cable"):
            list(failed)
        next(closed)
        closed.close()
        assert list(ended) == list(failed) == list(closed) == []
        up.close()
        buffers = standin.live().pinned  # engines are there yet, and no frame's memory
        assert buffers == before.pinned
        del up, ended, failed, closed
        after = standin.live()
    finally:
        gc.enable()
    if kind != "graphs":  # the stand-in's torch has cycles of its own
        assert after == before


def test_a_ring_that_goes_away_while_its_output_is_read(
    standin: Standin, tmp_path: Path, expected: Any
) -> None:
    """A garbage collection in the middle does this while the reading thread holds the locks."""
    _, last = expected
    up = make_upscaler(standin, "plans", tmp_path)
    _, before = steps(up, FRAMES[:-1], START)
    _, state = up.step(FRAMES[-1], before)
    ring, real = up._ring, up.device.copy

    def copy(*arguments: Any) -> None:
        real(*arguments)
        ring.close()

    up.device.copy = copy
    assert np.array_equal(state.previous_hr, last.previous_hr)
    assert before.previous_hr is not None


def test_a_session_upscales_in_tiles(standin: Standin, tmp_path: Path) -> None:
    frames, shape = some_frames(3, (32, 56)), {"size": (32, 56), "tile": (32, 40)}
    expected, _ = expected_frames(standin, frames, StreamState(), **shape)
    session = make_upscaler(standin, "plans", tmp_path, **shape).session()
    assert different([session.step(frame) for frame in frames], expected) == []
    assert set(session.stage_ms()) >= {"denoise", "decode"}


def test_states_are_copied_and_pickled_as_any_value(standin: Standin, tmp_path: Path) -> None:
    up = make_upscaler(standin, "plans", tmp_path)
    _, state = steps(up, FRAMES[:2], START)
    for other in (copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert (other.seed, other.frame_index) == (state.seed, state.frame_index)
        assert np.array_equal(other.previous_hr, state.previous_hr)
        assert different(steps(up, FRAMES[2:], other)[0], steps(up, FRAMES[2:], state)[0]) == []


def test_states_are_read_by_other_threads_while_frames_go_on(
    standin: Standin, tmp_path: Path
) -> None:
    up, state = make_upscaler(standin, "plans", tmp_path), START
    states, read = [], []
    for frame in FRAMES * 3:
        _, state = up.step(frame, state)
        states.append(state)
        if len(states) % 3 == 0:
            latest = states[-3:]
            threads = [
                threading.Thread(target=lambda s=s: read.append((s, s.previous_hr.copy())))
                for s in latest
            ]
            for thread in threads:
                thread.start()
            _, state = up.step(frame, state)
            for thread in threads:
                thread.join()
    by_index = {s.frame_index: s.previous_hr for s in states}
    assert len({array.tobytes() for array in by_index.values()}) == len(by_index)
    assert all(np.array_equal(array, by_index[s.frame_index]) for s, array in read)


@pytest.mark.parametrize("mode", FRAMES_AHEAD)
def test_an_interruption_anywhere_gives_no_wrong_frame(
    standin: Standin, tmp_path: Path, expected: Any, mode: Any
) -> None:
    """A stream that is used on after Ctrl-C gives the frames in their order, or one clear error."""
    frames, _ = expected
    total = _lines_run(lambda stream: next(stream), make_upscaler(standin, "plans", tmp_path), mode)
    for line in range(1, total, 7):
        up = make_upscaler(standin, "plans", tmp_path)
        stream = up.stream(FRAMES, START, mode=mode)
        got = [next(stream) for _ in range(3)]
        with _interrupted_at(line), contextlib.suppress(KeyboardInterrupt):
            got.append(next(stream))
        told = ""
        try:
            got += list(stream)
        except StreamDiffVSRError as error:
            told = str(error)
        numbers = [_number(frame, frames) for frame in got]
        assert None not in numbers and numbers == sorted(set(numbers)), (line, numbers)
        assert told == "" or "failed or was interrupted" in told


def test_a_restore_that_fails_once_leaves_no_wrong_frame(
    standin: Standin, tmp_path: Path, expected: Any
) -> None:
    frames, _ = expected
    up, other = (make_upscaler(standin, "plans", tmp_path) for _ in range(2))
    for n in range(1, 12):
        _, middle = steps(other, FRAMES[:5], START)  # its output is on the other's slots
        stream = up.stream(FRAMES[5:], middle)
        standin.fail(n)
        got = []
        for _ in FRAMES[5:]:
            with contextlib.suppress(StreamDiffVSRError, StopIteration):
                got.append(next(stream))
        standin.fail(0)
        numbers = [_number(frame, frames[5:]) for frame in got]
        assert None not in numbers and numbers == sorted(set(numbers)), n


def _number(frame: Image, frames: list[Image]) -> int | None:
    return next((i for i, other in enumerate(frames) if np.array_equal(frame, other)), None)


class _Lines:
    """Counts lines of the runtime that this thread runs, and interrupts at one of them.

    Python checks for Ctrl-C at calls and jumps, and releases a lock in C: a real one never comes
    between the end of a `with` block and that release. One that is due there comes a line later.
    """

    def __init__(self, stop: int = 0) -> None:
        self.count, self.stop = 0, stop
        self._entries: dict[tuple[Any, int], int] = {}

    def trace(self, frame: Any, event: str, argument: object) -> Any:
        if "runtime" not in Path(frame.f_code.co_filename).parts:
            return None
        if event == "line":
            self.count += 1
            releases = self._releases_a_lock(frame)
            if 0 < self.stop <= self.count and not releases:
                raise KeyboardInterrupt  # which also ends the tracing
        return self.trace

    def _releases_a_lock(self, frame: Any) -> bool:
        """Returns whether the line is that of a `with` of a lock, after its block."""
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if not re.match(r"\s*with .*lock\b", line):
            return False
        entry = self._entries.setdefault((frame.f_code, frame.f_lineno), frame.f_lasti)
        return bool(frame.f_lasti > entry)


def _lines_run(work: Any, up: Upscaler, mode: Any) -> int:
    stream, lines = up.stream(FRAMES, START, mode=mode), _Lines()
    for _ in range(3):
        next(stream)
    sys.settrace(lines.trace)
    try:
        work(stream)
    finally:
        sys.settrace(None)
    return lines.count


@contextlib.contextmanager
def _interrupted_at(line: int) -> Iterator[None]:
    sys.settrace(_Lines(line).trace)
    try:
        yield
    finally:
        sys.settrace(None)


# What is captured, and what is not.


def test_sessions_of_an_unsafe_release_are_never_captured(standin: Standin, expected: Any) -> None:
    frames, _ = expected
    manifest, kernels = kernels_of(standin, Geometry(SIZE))
    engines = {n: SessionEngine(k, 0, "this release frees it") for n, k in kernels.items()}
    up = Upscaler(manifest, engines, CudaDevice())
    for mode in FRAMES_AHEAD:
        run = up.run(START, mode)
        before = standin.calls("cuStreamBeginCapture")
        got = []
        for frame in FRAMES:
            run.begin(frame)
            got.append(run.finish())
        assert different(got, frames) == []
        assert standin.calls("cuStreamBeginCapture") == before
        assert set(run.plain.values()) == {"this release frees it"}


def test_graphs_are_launched_one_by_one_and_not_captured(standin: Standin, tmp_path: Path) -> None:
    up = make_upscaler(standin, "graphs", tmp_path)
    list(up.stream(FRAMES, START, mode="latency"))
    before = standin.calls("cuStreamBeginCapture"), standin.calls("cuGraphLaunch")
    list(up.stream(FRAMES[:1], START, mode="latency"))  # unguided: prepare, features, 4, decode
    assert standin.calls("cuStreamBeginCapture") == before[0]
    assert standin.calls("cuGraphLaunch") - before[1] == 7
    assert standin.illegal() == 0, standin.last_illegal()


def test_a_library_that_refuses_capture_is_asked_and_quoted(
    standin: Standin, tmp_path: Path, expected: Any
) -> None:
    frames, _ = expected
    manifest, kernels = kernels_of(standin, Geometry(SIZE))
    library = Library({}, capturable=False)
    up = Upscaler(manifest, plan_engines(kernels, 0, tmp_path, library), CudaDevice())
    stream = up.stream(FRAMES, START, mode="latency")
    assert different(list(stream), frames) == []
    assert standin.calls("cuStreamBeginCapture") == 0
    assert up.run(START).plain == {"whole": "TensorRT-RTX says prepare cannot be captured"}


def test_compiled_kernels_are_kept_after_the_first_frame_and_taken_again(
    standin: Standin, tmp_path: Path
) -> None:
    manifest, kernels = kernels_of(standin, Geometry(SIZE))
    library = Library({}, compiled=b"")

    def some_steps() -> list[str]:
        library.asked.clear()
        up = Upscaler(manifest, plan_engines(kernels, 0, tmp_path, library), CudaDevice())
        opened = [line for line in library.asked if line.startswith("known")]
        library.compiled = b"of the first run"  # what opening alone does not compile
        steps(up, FRAMES[:3], START)
        return opened

    assert some_steps() == []
    assert some_steps() == ["known b'of the first run'"] * len(kernels)
    (tmp_path / "flow.kernels").write_bytes(b"half of a file")
    assert some_steps() == ["known b'of the first run'"] * (len(kernels) - 1)
    assert some_steps() == ["known b'of the first run'"] * len(kernels)


def test_engines_of_a_lane_share_one_block_and_those_of_two_lanes_none(
    standin: Standin, tmp_path: Path
) -> None:
    _, kernels = kernels_of(standin, Geometry(SIZE))
    library = Library({})
    gc.collect()
    before = standin.live().blocks
    engines = plan_engines(kernels, 0, tmp_path, library)
    assert standin.live().blocks - before == len(LANES)
    blocks = {one.kernel.spec.name: one.memory for one in library.contexts}
    assert len(set(blocks.values())) == len(LANES)
    for lane in LANES:
        needed = max(64 + 16 * kernels[name].number for name in lane)
        assert {blocks[name] for name in lane} == {(blocks[lane[0]][0], needed)}
    del engines


def test_scratch_memory_that_does_not_fit_is_one_line(standin: Standin, tmp_path: Path) -> None:
    _, kernels = kernels_of(standin, Geometry(SIZE))
    standin.limit(standin.used(0))
    with pytest.raises(StreamDiffVSRError, match="the GPU's memory is full"):
        plan_engines(kernels, 0, tmp_path)


def test_another_thread_that_waits_for_the_device_breaks_no_frame(
    standin: Standin, tmp_path: Path, expected: Any
) -> None:
    """Its wait breaks a capture, which is tried again with a later frame."""
    frames, _ = expected
    up = make_upscaler(standin, "plans", tmp_path)
    context, broken = primary_context(0), []

    engine = up.engines["guide"]
    real = engine.launch

    def launch(addresses: Any, stream: int) -> None:
        real(addresses, stream)
        if standin.live().captures and not broken:
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()

    def wait() -> None:
        try:
            context.call("cuCtxSynchronize")
        except StreamDiffVSRError as error:
            broken.append(str(error))

    engine.launch = launch
    run = up.run(START)
    got = []
    for frame in FRAMES:
        run.begin(frame)
        got.append(run.finish())
    assert different(got, frames) == []
    assert len(broken) == 1 and run.plain == {}


def test_binding_in_another_thread_waits_for_a_capture(standin: Standin, tmp_path: Path) -> None:
    """Live's shelf binds engines of the next size while frames of this one are captured."""
    up, other = (make_upscaler(standin, kind, tmp_path) for kind in ("plans", "graphs"))
    failures: list[BaseException] = []
    threads: list[threading.Thread] = []

    def bind() -> None:
        try:
            other.step(FRAMES[0], START)
        except BaseException as error:
            failures.append(error)

    engine = up.engines["guide"]
    real = engine.launch

    def launch(addresses: Any, stream: int) -> None:
        real(addresses, stream)
        if standin.live().captures and not threads:
            threads.append(threading.Thread(target=bind))
            threads[0].start()
            threads[0].join(0.5)  # as long as it wants to be wrong in

    engine.launch = launch
    run = up.run(START)
    for frame in FRAMES:
        run.begin(frame)
        run.finish()
    for thread in threads:
        thread.join()
    assert threads and failures == [] and run.plain == {}
    assert standin.illegal() == 0, standin.last_illegal()
