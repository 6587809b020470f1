"""Overlapped frames are those of the plain loop, in any order of work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr import StreamState
from streamdiffvsr.engines.cpu_device import CpuDevice, CpuStream
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import Geometry
from streamdiffvsr.runtime.frame_stream import MarkedImage
from streamdiffvsr.runtime.upscaler import Mode, Upscaler
from streamdiffvsr.tests.runtime.simulated import (
    SIZE,
    SimulatedDevice,
    mixing_upscaler,
    some_frames,
)

Frames = list[np.ndarray[Any, np.dtype[np.uint8]]]


def plain(up: Upscaler, frames: Frames, state: StreamState) -> tuple[Frames, StreamState]:
    stream = up.stream(frames, state, overlap=False)
    return list(stream), stream.state


def equal(ours: Frames, expected: Frames) -> bool:
    assert len(ours) == len(expected)
    return all(np.array_equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("captures", [True, False], ids=["captured", "plain"])
@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_every_order_that_the_events_allow_gives_the_same_frames(
    mode: Mode, captures: bool
) -> None:
    frames = some_frames(30)
    expected, last = plain(mixing_upscaler(CpuDevice()), frames, StreamState(seed=3))
    assert len({frame.tobytes() for frame in expected}) == 30
    for seed in range(6):
        stream = mixing_upscaler(SimulatedDevice(seed, captures=captures)).stream(
            frames, StreamState(seed=3), overlap=True, mode=mode
        )
        assert equal(list(stream), expected), seed
        assert stream.state.previous_hr is not None and last.previous_hr is not None
        assert np.array_equal(stream.state.previous_hr, last.previous_hr)


EVENTS = {
    "throughput": ("denoise flowed", "denoise decoded", "output guided", "output denoised"),
    "latency": ("denoise flowed", "output guided", "output denoised", "input decoded"),
}


LEFT_OUT = [
    (mode, event, captures)
    for mode in EVENTS
    for event in EVENTS[mode]
    for captures in (True, False)
    # A captured frame is one unit: it has ended when its launch has.
    if (event, captures) != ("input decoded", True)
]


@pytest.mark.parametrize(("mode", "event", "captures"), LEFT_OUT)
def test_a_schedule_without_one_of_its_events_is_caught(
    mode: Mode, event: str, captures: bool
) -> None:
    """Each event is needed: without it some order of the works shows a wrong frame."""
    frames = some_frames(12)
    stream, name = event.split()
    state = mixing_upscaler(CpuDevice()).step(frames[0], StreamState())[1]  # all frames guided
    expected, _ = plain(mixing_upscaler(CpuDevice()), frames, state)
    orders = (
        list(mixing_upscaler(device).stream(frames, state, overlap=True, mode=mode))
        for device in (
            SimulatedDevice(seed, (stream, name), captures=captures) for seed in range(30)
        )
    )
    assert not all(equal(order, expected) for order in orders)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_a_cut_in_the_stream_is_a_state_without_its_past(mode: Mode) -> None:
    frames, beginnings = some_frames(12), (0, 5, 6, 11)
    expected: Frames = []
    state = StreamState(seed=3)
    for index, frame in enumerate(frames):
        before = state.reset() if index in beginnings else state
        out, state = mixing_upscaler(CpuDevice()).step(frame, before)
        expected.append(out)
    whole, _ = plain(mixing_upscaler(CpuDevice()), frames, StreamState(seed=3))
    assert not equal(whole[5:], expected[5:])

    def stream(up: Upscaler, overlap: bool) -> Frames:
        flags = iter([index in beginnings for index in range(12)])
        start = StreamState(seed=3)
        found = up.stream(frames, start, cuts=lambda _: next(flags), mode=mode, overlap=overlap)
        return list(found)

    assert equal(stream(mixing_upscaler(CpuDevice()), False), expected)
    for seed in range(6):
        assert equal(stream(mixing_upscaler(SimulatedDevice(seed)), True), expected), seed


def test_a_stream_goes_on_from_the_state_of_another() -> None:
    frames = some_frames(9)
    expected, _ = plain(mixing_upscaler(CpuDevice()), frames, StreamState(seed=1))
    state = StreamState(seed=1)
    got: Frames = []
    for first, last in ((0, 4), (4, 5), (5, 9)):
        stream = mixing_upscaler(SimulatedDevice(first)).stream(
            frames[first:last], state, overlap=True
        )
        got += list(stream)
        state = stream.state
    assert equal(got, expected)
    assert state.frame_index == 9


def test_steps_on_a_device_are_those_of_the_plain_loop() -> None:
    frames, noise = some_frames(6), np.random.default_rng(1).normal(size=(4, *SIZE))
    plain_up, device_up = mixing_upscaler(CpuDevice()), mixing_upscaler(SimulatedDevice(0))
    state = device_state = StreamState(seed=4)
    for index, frame in enumerate(frames):
        given = {"guidance_scale": index / 5, "noise": noise if index == 3 else None}
        out, state = plain_up.step(frame, state, **given)
        device_out, device_state = device_up.step(frame, device_state, **given)
        assert np.array_equal(device_out, out)
        assert np.array_equal(device_state.previous_hr, state.previous_hr)
    assert device_state.frame_index == 6


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_upscaled_frames_carry_what_they_were_made_of_and_the_state_after_it(mode: Mode) -> None:
    sources = [MarkedImage(image, index == 3) for index, image in enumerate(some_frames(7))]
    plain_up = mixing_upscaler(CpuDevice())
    session = plain_up.session(StreamState(seed=4), guidance_scale=0.5)
    expected = [(session.step(s.image, cut=s.cut), session.state) for s in sources]
    ways = [plain_up.stream_frames(sources, StreamState(seed=4), guidance_scale=0.5)]
    ways += [
        mixing_upscaler(SimulatedDevice(seed)).stream_frames(
            sources, StreamState(seed=4), guidance_scale=0.5, mode=mode
        )
        for seed in range(3)
    ]
    for frames in ways:
        for index, made in enumerate(frames):
            out, state = expected[index]
            assert made.source is sources[index]
            assert made.state.frame_index == state.frame_index == index + 1
            assert np.array_equal(made.image, out)
            assert np.array_equal(made.raw(), state.previous_hr)
        assert index == 6
    unscaled = list(plain_up.stream_frames(sources, StreamState(seed=4)))
    assert not np.array_equal(unscaled[-1].image, expected[-1][0])


def test_tiles_on_a_device_are_those_of_the_plain_loop() -> None:
    geometry = Geometry((50, 70), tile=(32, 40))
    frames = some_frames(4, geometry.size)
    expected, last = plain(mixing_upscaler(CpuDevice(), geometry), frames, StreamState(seed=4))
    stream = mixing_upscaler(SimulatedDevice(0), geometry).stream(frames, StreamState(seed=4))
    assert equal(list(stream), expected)
    assert np.array_equal(stream.state.previous_hr, last.previous_hr)


def test_one_frame_is_taken_ahead_and_no_more() -> None:
    taken = []

    def source() -> Iterator[Any]:
        for index, frame in enumerate(some_frames(6)):
            taken.append(index)
            yield frame

    stream = mixing_upscaler(SimulatedDevice(0)).stream(source(), overlap=True)
    assert taken == []
    next(stream)
    assert taken == [0, 1]
    next(stream)
    assert taken == [0, 1, 2]
    assert stream.state.frame_index == 2  # of what was given, not of what was begun
    stream.close()
    assert list(stream) == []


def test_what_the_source_raises_comes_after_the_frames_before_it() -> None:
    frames = some_frames(3)

    def source() -> Iterator[Any]:
        yield from frames
        raise OSError("the cable is out")

    stream = mixing_upscaler(CpuDevice()).stream(source(), overlap=True)
    got = [next(stream) for _ in frames]
    assert equal(got, plain(mixing_upscaler(CpuDevice()), frames, StreamState())[0])
    with pytest.raises(OSError, match="cable"):
        next(stream)
    assert stream.state.frame_index == 3
    wrong = mixing_upscaler(CpuDevice()).stream([frames[0], frames[1][:-1]], overlap=True)
    next(wrong)
    with pytest.raises(StreamDiffVSRError, match="these engines take"):
        next(wrong)


@pytest.mark.parametrize("overlap", [False, True])
def test_cuts_that_run_out_do_not_end_a_stream_as_if_it_were_whole(overlap: bool) -> None:
    flags = iter([False] * 3)
    stream = mixing_upscaler(CpuDevice()).stream(
        some_frames(6), cuts=lambda _: next(flags), overlap=overlap
    )
    assert len([next(stream) for _ in range(3)]) == 3
    with pytest.raises(RuntimeError, match="cuts has no answer"):
        next(stream)


def test_a_failing_stage_is_raised_and_ends_the_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = threading.active_count()
    upscaler = mixing_upscaler(CpuDevice())
    monkeypatch.setattr("streamdiffvsr.runtime.frame_slot.Slot.denoise", _fail)
    stream = upscaler.stream(some_frames(5), overlap=True)
    with pytest.raises(RuntimeError, match="the card is gone"):
        next(stream)
    stream.close()
    assert threading.active_count() == before


def _fail(self: object, stream: CpuStream) -> None:
    def work() -> None:
        raise RuntimeError("the card is gone")

    stream.call(work)


def test_a_stream_that_is_dropped_leaves_no_threads() -> None:
    before = threading.active_count()
    stream = mixing_upscaler(CpuDevice()).stream(some_frames(5), overlap=True)
    next(stream)
    assert threading.active_count() == before + 3
    del stream
    assert threading.active_count() == before


class DelayedStream(CpuStream):
    """A thread that now and then dawdles."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name)
        self.rng = np.random.default_rng([seed, len(name)])

    def call(self, work: Callable[[], None]) -> None:
        delay = self.rng.exponential(0.002)

        def late() -> None:
            time.sleep(delay)
            work()

        super().call(late)


class DelayedDevice(CpuDevice):
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, name: str, *, urgent: bool = False) -> CpuStream:
        return DelayedStream(name, self.seed)


@pytest.fixture
def one(parity_engines: Path, monkeypatch: pytest.MonkeyPatch) -> Upscaler:
    """One thread a session: three sessions at once would fight over two cores."""
    monkeypatch.setattr("streamdiffvsr.engines.onnxruntime_backend.usable_cpus", lambda: 1)
    return streamdiffvsr.load(parity_engines)


def test_real_engines_on_threads_give_the_frames_of_the_plain_loop(one: Upscaler) -> None:
    frames = some_frames(4, one.size)
    expected, _ = plain(one, frames, StreamState(seed=2))
    other = Upscaler(one.manifest, one.engines, DelayedDevice(0))
    assert equal(list(other.stream(frames, StreamState(seed=2), overlap=True)), expected)


@pytest.mark.slow
def test_a_hundred_frames_in_many_orders() -> None:
    frames = some_frames(100)
    expected, _ = plain(mixing_upscaler(CpuDevice()), frames, StreamState(seed=2))
    for seed in range(100, 130):
        stream = mixing_upscaler(SimulatedDevice(seed)).stream(
            frames, StreamState(seed=2), overlap=True
        )
        assert equal(list(stream), expected), seed


@pytest.mark.slow
def test_a_hundred_frames_of_real_engines_on_threads_that_dawdle(one: Upscaler) -> None:
    frames = some_frames(100, one.size)
    expected, _ = plain(one, frames, StreamState(seed=2))
    other = Upscaler(one.manifest, one.engines, DelayedDevice(1))
    assert equal(list(other.stream(frames, StreamState(seed=2), overlap=True)), expected)
