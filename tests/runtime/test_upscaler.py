"""The runtime's promises: chunked equals unchunked, states are values, sizes come out 4x."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr import StreamState, Upscaler
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.random_model import write_random_model

Frames = list[np.ndarray[Any, np.dtype[np.uint8]]]


@pytest.fixture(scope="module")
def up(parity_engines: Path) -> Upscaler:
    return streamdiffvsr.load(parity_engines)


@pytest.fixture(scope="module")
def frames(parity_trace: dict[str, Any]) -> Frames:
    return [parity_trace[f"input_u8.{f}"] for f in range(4)]


def run(up: Upscaler, frames: Frames, state: StreamState) -> tuple[Frames, StreamState]:
    outs = []
    for frame in frames:
        out, state = up.step(frame, state)
        outs.append(out)
    return outs, state


def assert_equal(ours: Frames, expected: Frames) -> None:
    assert len(ours) == len(expected)
    for out, want in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(out, want)


def test_two_runs_with_a_saved_state_between_equal_one(
    up: Upscaler, frames: Frames, parity_engines: Path, tmp_path: Path
) -> None:
    whole, last = run(up, frames, up.initial_state(seed=5))
    first, state = run(up, frames[:2], up.initial_state(seed=5))
    state.save(tmp_path / "s.safetensors")
    other = streamdiffvsr.load(parity_engines)  # as after a restart: nothing is remembered
    second, end = run(other, frames[2:], StreamState.load(tmp_path / "s.safetensors"))
    assert_equal(first + second, whole)
    assert end.previous_hr is not None and last.previous_hr is not None
    np.testing.assert_array_equal(end.previous_hr, last.previous_hr)


def test_the_stream_equals_the_loop_and_carries_its_state(up: Upscaler, frames: Frames) -> None:
    whole, _ = run(up, frames, up.initial_state(seed=2))
    stream = up.stream(iter(frames[:3]), up.initial_state(seed=2))
    assert_equal(list(stream), whole[:3])
    assert_equal(list(up.stream(frames[3:], stream.state)), whole[3:])


def test_the_stream_takes_frames_only_as_they_are_asked_for(up: Upscaler, frames: Frames) -> None:
    taken = []

    def source() -> Iterator[Any]:
        for i, frame in enumerate(frames):
            taken.append(i)
            yield frame

    next(up.stream(source()))
    assert taken == [0]


def test_a_state_is_a_value(up: Upscaler, frames: Frames) -> None:
    """Stepping twice from one state gives one result: branching and retrying are safe."""
    _, state = up.step(frames[0], up.initial_state())
    assert state.previous_hr is not None
    before = state.previous_hr.copy()
    one, _ = up.step(frames[1], state)
    up.step(frames[2], state)
    again, _ = up.step(frames[1], state)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(state.previous_hr, before)


def test_the_callers_frame_may_be_reused(up: Upscaler, frames: Frames) -> None:
    expected, _ = run(up, frames[:2], up.initial_state())
    buffer = frames[0].copy()
    first, state = up.step(buffer, up.initial_state())
    buffer[:] = frames[1]
    second, _ = up.step(buffer, state)
    assert_equal([first, second], expected)


def test_previous_frame_guides_and_reset_forgets(up: Upscaler, frames: Frames) -> None:
    _, state = up.step(frames[0], up.initial_state())
    guided, _ = up.step(frames[1], state)
    fresh, _ = up.step(frames[1], state.reset())
    unguided, _ = up.step(frames[1], state, guidance_scale=0)
    assert np.abs(guided.astype(int) - fresh).max() > 3
    np.testing.assert_array_equal(fresh, unguided)
    assert state.reset().frame_index == 1, "the count, and so the noise, goes on"


def test_seed_and_index_choose_the_noise(up: Upscaler, frames: Frames) -> None:
    one, state = up.step(frames[0], up.initial_state(seed=1))
    other, _ = up.step(frames[0], up.initial_state(seed=2))
    later, _ = up.step(frames[0], state.reset())
    assert (one != other).any() and (one != later).any()


def test_wrong_frames_and_states_are_one_line(up: Upscaler, frames: Frames) -> None:
    state = up.initial_state()
    small = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(StreamDiffVSRError, match=r"streamdiffvsr\.build\(size=\(20, 30\)\)"):
        up.step(small, state)
    for wrong in (frames[0].astype(np.float32), frames[0][..., :1], frames[0][:, :, 0]):
        with pytest.raises(StreamDiffVSRError, match="uint8 RGB of 64x48"):
            up.step(wrong, state)
    foreign = StreamState(
        previous_hr=np.zeros((1, 3, 80, 120), np.float32),
        previous_lr=np.zeros((20, 30, 3), np.uint8),
    )
    with pytest.raises(StreamDiffVSRError, match="30x20"):
        up.step(frames[0], foreign)
    with pytest.raises(ValueError, match="noise"):
        up.step(frames[0], state, noise=np.zeros((4, 1, 1), np.float32))


def test_frames_with_strides_give_the_same(up: Upscaler, frames: Frames) -> None:
    bgr = frames[0][:, :, ::-1].copy()
    out, _ = up.step(bgr[:, :, ::-1], up.initial_state())
    np.testing.assert_array_equal(out, up.step(frames[0], up.initial_state())[0])


@pytest.mark.slow
def test_tiles_are_seamless_and_carry_the_state(tmp_path: Path) -> None:
    """A tiled run equals its own chunks, and shows no more of an edge at seams than elsewhere."""
    model = write_random_model(
        tmp_path / "m",
        preset="small",
        unet={"layers_per_block": 1},
        flow={"num_flow_updates": 2},
        prompt_tokens=5,
    )
    folder = streamdiffvsr.build(model, size=(50, 70), tile=(32, 40), out=tmp_path / "e")
    up = streamdiffvsr.load(folder)
    ys, xs = np.mgrid[0:50, 0:70]
    frame = np.stack([xs * 3, ys * 4, xs + ys], axis=-1).astype(np.uint8)
    whole, end = run(up, [frame, frame, frame], up.initial_state())
    assert all(out.shape == (200, 280, 3) for out in whole)
    first, state = run(up, [frame], up.initial_state())
    state.save(tmp_path / "s.safetensors")
    rest, _ = run(up, [frame, frame], StreamState.load(tmp_path / "s.safetensors"))
    assert_equal(first + rest, whole)
    assert end.previous_hr is not None
    columns = np.abs(np.diff(end.previous_hr[0], axis=2)).mean(axis=(0, 1))
    seams = [4 * left - 1 for left in (30, 40)]  # where a tile begins and where one ends
    assert max(columns[seam] for seam in seams) < 3 * np.median(columns)
