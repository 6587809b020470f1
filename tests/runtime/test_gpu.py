"""Frames on an NVIDIA GPU, by every backend that works on it. `make test-gpu` runs these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr import StreamState
from streamdiffvsr.engines import cuda_device, cuda_driver
from streamdiffvsr.engines.backends import order
from streamdiffvsr.engines.cuda_driver import primary_context
from streamdiffvsr.engines.host import why_no_gpu
from streamdiffvsr.engines.registry import why_not
from streamdiffvsr.runtime.upscaler import FRAMES_AHEAD, Mode, Upscaler
from streamdiffvsr.tests.recorded import FRAMES, assert_gives_the_recorded_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(why_no_gpu() != "", reason=why_no_gpu() or "there is a GPU"),
]
BACKENDS = [backend for backend, device in order() if device == "cuda"]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """A backend that works on this GPU; the others are skipped with their reason."""
    name: str = request.param
    if obstacle := why_not(name, "cuda"):
        pytest.skip(f"{name}: {obstacle}")
    return name


@pytest.fixture(scope="module")
def exact(backend: str, parity_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    """Engines of the recorded model in fp32."""
    out = tmp_path_factory.mktemp(backend) / "fp32"
    build = streamdiffvsr.build
    return streamdiffvsr.load(
        build(parity_model, size=(48, 64), backend=backend, device="cuda", out=out)
    )


@pytest.fixture(scope="module")
def half(backend: str, parity_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    """The same in fp16."""
    out = tmp_path_factory.mktemp(backend) / "fp16"
    folder = streamdiffvsr.build(
        parity_model, size=(48, 64), backend=backend, device="cuda", precision="fp16", out=out
    )
    return streamdiffvsr.load(folder)


def frames_of(upscaler: Upscaler, count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*upscaler.size, 3), np.uint8) for _ in range(count)]


def test_the_recorded_run(exact: Upscaler, parity_trace: dict[str, Any]) -> None:
    assert_gives_the_recorded_run(exact, parity_trace)


def test_half_precision_stays_close(half: Upscaler, parity_trace: dict[str, Any]) -> None:
    state = half.initial_state()
    for f in range(FRAMES):
        noise = parity_trace[f"noise.{f}"][0]
        _, state = half.step(parity_trace[f"input_u8.{f}"], state, noise=noise)
        assert state.previous_hr is not None
        assert np.abs(state.previous_hr.astype(np.float32) - parity_trace[f"raw.{f}"]).max() <= 0.1


@pytest.mark.parametrize("mode", FRAMES_AHEAD)
def test_streams_give_the_frames_of_steps(half: Upscaler, mode: Mode) -> None:
    """Captured and overlapped as far as that goes, bit for bit."""
    frames, state, expected = frames_of(half, 12), StreamState(seed=5), []
    for frame in frames:
        out, state = half.step(frame, state)
        expected.append(out)
    got = list(half.stream(frames, StreamState(seed=5), mode=mode))
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_two_streams_of_one_upscaler_take_turns(half: Upscaler) -> None:
    frames = frames_of(half, 8)
    expected = list(half.stream(frames, StreamState(seed=5)))
    one, other = (half.stream(frames, StreamState(seed=5), mode=mode) for mode in FRAMES_AHEAD)
    got = [(next(one), next(other)) for _ in frames]
    for pair, frame in zip(got, expected, strict=True):
        assert np.array_equal(pair[0], frame) and np.array_equal(pair[1], frame)


def test_a_frame_is_one_launch(half: Upscaler) -> None:
    run = half.run(StreamState())
    for frame in frames_of(half, 8):
        run.begin(frame)
        run.finish()
    if half.manifest.key.backend == "torch":  # each of its engines is a launch
        assert "graphs already" in run.plain["whole"]
    else:
        assert run.plain == {}


def test_steps_and_streams_allocate_nothing_inside_a_frame(
    half: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a step that goes on from the one before it copy the raw output to and fro."""
    state, frames = StreamState(), frames_of(half, 20)
    for frame in frames[:10]:
        _, state = half.step(frame, state)
    list(half.stream(frames))  # captures what is captured
    stream = half.stream(frames)
    called: list[str] = []
    real = cuda_driver.driver_call

    def counted(name: str, *arguments: Any) -> Any:
        called.append(name)
        return real(name, *arguments)

    for module in (cuda_driver, cuda_device):
        monkeypatch.setattr(module, "driver_call", counted)
    free = primary_context(0).call("cuMemGetInfo")[0]
    called.clear()
    for frame in frames[10:]:
        _, state = half.step(frame, state)
    for _ in range(10):
        next(stream)
    allowed = {"cuGraphLaunch", "cuMemcpyAsync", "cuMemsetD8Async", "cuEventSynchronize"}
    allowed |= {"cuEventRecord", "cuStreamWaitEvent", "cuStreamSynchronize", "cuCtxGetCurrent"}
    assert set(called) <= allowed
    assert primary_context(0).call("cuMemGetInfo")[0] == free
