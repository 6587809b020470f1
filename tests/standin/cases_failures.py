"""Every call of the driver fails in turn: one clear error or right frames, no leak, no hang."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdiffvsr import StreamState
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.upscaler import Image
from streamdiffvsr.tests.standin.engines import expected_frames, make_upscaler, some_frames
from streamdiffvsr.tests.standin.library import Standin

FRAMES = some_frames(6)
START = StreamState(seed=3)
EVERY = int(os.environ.get("STANDIN_EVERY", "29"))
OFFSET = int(os.environ.get("STANDIN_OFFSET", "0"))
Scenario = Callable[[], list[Image]]


def digests(frames: list[Image]) -> list[str]:
    """Returns a short digest of each frame, so that a failed comparison can be read."""
    return [hashlib.sha256(frame.tobytes()).hexdigest()[:8] for frame in frames]


@pytest.fixture(scope="module")
def expected(loaded: Standin) -> list[str]:
    return digests(expected_frames(loaded, FRAMES, START)[0])


@pytest.fixture(params=["plans", "sessions", "graphs"])
def scenario(request: pytest.FixtureRequest, standin: Standin, tmp_path: Path) -> Scenario:
    """From opening engines to closing: a stream of each mode, steps, and a state that is read."""

    def run() -> list[Image]:
        up = make_upscaler(standin, request.param, tmp_path)
        got = [*up.stream(FRAMES, START)][:2] + [*up.stream(FRAMES[:4], START, mode="latency")][2:]
        state = START
        for frame in FRAMES:
            out, state = up.step(frame, state)
        assert state.previous_hr is not None and np.isfinite(state.previous_hr).all()
        return [*got, out]

    return run


def outcome(scenario: Scenario) -> list[str] | str:
    """The frames' digests, or the error in one line."""
    try:
        return digests(scenario())
    except StreamDiffVSRError as error:
        told = str(error)
        assert told and len(told.splitlines()) == 1, told
        return told


def test_every_call_fails_in_turn(standin: Standin, scenario: Scenario, expected: Any) -> None:
    """Or every so many of them, at another offset for each kind: most are of the same places."""
    wanted = [*expected[:4], expected[5]]
    assert outcome(scenario) == wanted  # what is made once in a process is made now
    gc.collect()
    gc.freeze()  # the next thousands of collections need not look at all that came with pytest
    before, calls = standin.live(), standin.calls()
    assert outcome(scenario) == wanted
    gc.collect()
    total = standin.calls() - calls
    assert standin.live() == before and total > 300
    errors = failed = 0
    for n in range(1 + (total + OFFSET) % EVERY, total + 1, EVERY):
        standin.reset()
        standin.fail(n)
        got = outcome(scenario)
        standin.fail(0)
        assert isinstance(got, str) or got == wanted, f"call {n} of {total}"
        errors += isinstance(got, str)
        failed += standin.injected()  # old bindings poll: a quick run has fewer calls
        gc.collect()
        standin.finish()
        left = standin.live()
        if standin.injected_releases() == 0:
            assert left == before, f"call {n} of {total} leaves something ({got})"
        before = left
    assert errors > failed / 4 > 0  # the others are of captures and of giving back
    assert outcome(scenario) == wanted


def test_a_device_that_fails_for_good_is_one_error_and_no_hang(
    standin: Standin, scenario: Scenario, expected: Any
) -> None:
    calls, wanted = standin.calls(), [*expected[:4], expected[5]]
    outcome(scenario)
    total, errors, failed = standin.calls() - calls, 0, 0
    for n in range(1, total, 97):
        standin.reset()
        standin.fail(n, code=719, sticky=True)
        got = outcome(scenario)
        assert isinstance(got, str) or got == wanted, n
        errors += isinstance(got, str)
        failed += standin.injected() > 0
        gc.collect()
    assert errors > failed / 2 > 0  # what fails last is a release, which is not reported


def test_a_stream_that_failed_gives_no_more_frames(standin: Standin, tmp_path: Path) -> None:
    """Not the next one, as if nothing had been left out."""
    stream = make_upscaler(standin, "plans", tmp_path).stream(FRAMES, START)
    next(stream)
    standin.fail(4)
    with pytest.raises(StreamDiffVSRError, match="CUDA failed"):
        next(stream)
    with pytest.raises(StreamDiffVSRError, match=r"earlier frame failed.*CUDA failed"):
        next(stream)
    assert stream.state.frame_index == 1 and stream.state.previous_hr is not None


def test_frames_go_on_after_a_failure(standin: Standin, tmp_path: Path, expected: Any) -> None:
    """From the last state, on the same Upscaler, whichever call of a frame has failed."""
    for n in range(1, 12):
        up, state, got = make_upscaler(standin, "plans", tmp_path), START, []
        for index, frame in enumerate(FRAMES):
            if index == 4:
                standin.fail(n)
                with contextlib.suppress(StreamDiffVSRError):
                    up.step(frame, state)
                standin.fail(0)
            out, state = up.step(frame, state)
            got.append(out)
        assert digests(got) == expected, n
