"""Frames on a GPU equal the plain loop's, by every kind of engine, in any order of its work."""

from __future__ import annotations

import gc
import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.engines.cuda_driver import primary_context
from streamdiffvsr.runtime.upscaler import FRAMES_AHEAD, Upscaler
from streamdiffvsr.tests.standin.engines import (
    FRAMES,
    START,
    different,
    expected_frames,
    make_upscaler,
    some_frames,
    steps,
)
from streamdiffvsr.tests.standin.library import Standin


@pytest.mark.parametrize("seed", range(9))
def test_streams_and_steps_give_the_frames_of_the_plain_loop(
    standin: Standin, kind: str, tmp_path: Path, seed: int, expected: Any
) -> None:
    frames, last = expected
    standin.seed(seed)
    standin.progress((0, 20, 30)[seed % 3])
    up = make_upscaler(standin, kind, tmp_path)
    for mode in FRAMES_AHEAD:
        stream = up.stream(FRAMES, START, mode=mode)
        assert different(list(stream), frames) == [], mode
        assert np.array_equal(stream.state.previous_hr, last.previous_hr)
    got, state = steps(up, FRAMES, START)
    assert different(got, frames) == []
    assert np.array_equal(state.previous_hr, last.previous_hr)
    assert np.array_equal(state.previous_lr, FRAMES[-1])
    assert standin.illegal() == 0, standin.last_illegal()


def test_frames_behind_a_cut_are_those_of_a_new_epoch(up: Upscaler, standin: Standin) -> None:
    beginnings = (0, 3, 4, 8)
    expected, _ = expected_frames(standin, FRAMES, START, beginnings=beginnings)
    for mode in FRAMES_AHEAD:
        flags = iter([index in beginnings for index in range(len(FRAMES))])
        stream = up.stream(FRAMES, START, mode=mode, cuts=lambda _: next(flags))  # noqa: B023
        assert different(list(stream), expected) == [], mode


def test_tiles_are_those_of_the_plain_loop(standin: Standin, kind: str, tmp_path: Path) -> None:
    frames = some_frames(3, (32, 56))
    shape: dict[str, Any] = {"size": (32, 56), "tile": (32, 40)}
    expected, last = expected_frames(standin, frames, START, **shape)
    for seed in range(4):
        standin.seed(seed)
        got, state = steps(make_upscaler(standin, kind, tmp_path, **shape), frames, START)
        assert different(got, expected) == [], seed
        assert np.array_equal(state.previous_hr, last.previous_hr)


def test_two_streams_of_one_upscaler_take_turns(up: Upscaler, expected: Any) -> None:
    frames, last = expected
    for one, other in itertools.product(FRAMES_AHEAD, repeat=2):
        a, b = (up.stream(FRAMES, START, mode=mode) for mode in (one, other))
        got = [(next(a), next(b)) for _ in FRAMES]
        assert different([out for out, _ in got], frames) == []
        assert different([out for _, out in got], frames) == []
        assert np.array_equal(a.state.previous_hr, last.previous_hr)


def test_a_stream_and_steps_take_turns(up: Upscaler, expected: Any) -> None:
    frames, last = expected
    stream, state = up.stream(FRAMES, START), START
    streamed, stepped, middle = [], [], None
    for index, frame in enumerate(FRAMES):
        streamed.append(next(stream))
        middle = stream.state if index == 4 else middle
        out, state = up.step(frame, state)
        stepped.append(out)
    assert different(streamed, frames) == different(stepped, frames) == []
    assert np.array_equal(state.previous_hr, last.previous_hr)
    again, _ = steps(up, FRAMES[5:], middle)  # of a frame whose slot has long been taken again
    assert different(again, frames[5:]) == []


def test_a_dropped_stream_leaves_the_next_one_right(
    up: Upscaler, standin: Standin, expected: Any
) -> None:
    frames, _ = expected
    _, middle = steps(up, FRAMES[:5], START)
    steps(up, FRAMES, START)  # captured as a whole from now on
    for seed in range(6):
        standin.seed(seed)
        standin.progress(20)
        next(up.stream(FRAMES, START))  # a frame more is on the device
        assert different(steps(up, FRAMES[5:7], middle)[0], frames[5:7]) == []
        next(up.stream(FRAMES, START))
        assert different(list(up.stream(FRAMES, START)), frames) == []


def test_a_stream_goes_on_in_another_thread(up: Upscaler, expected: Any) -> None:
    frames, _ = expected
    stream = up.stream(FRAMES, START)
    got = [next(stream) for _ in range(4)]
    for _ in range(3):
        thread = threading.Thread(target=lambda: got.extend([next(stream), next(stream)]))
        thread.start()
        thread.join()
    assert different(got, frames) == []


def test_the_second_gpu(standin: Standin, kind: str, tmp_path: Path, expected: Any) -> None:
    """Objects of the first GPU are refused there, so any call with the wrong one fails."""
    frames, last = expected
    gc.collect()
    before = standin.used(0)
    with primary_context(0).current():  # as another library leaves it
        up = make_upscaler(standin, kind, tmp_path, device=1)
        stream = up.stream(FRAMES, START)
        assert different(list(stream), frames) == []
        assert np.array_equal(stream.state.previous_hr, last.previous_hr)
        assert standin.used(0) == before and standin.used(1) > 0
