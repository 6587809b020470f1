"""Each fault a model can have is seen in the figure that is meant to show it, and in no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("skimage")
pytest.importorskip("PIL")

from streamdiffvsr.research.quality import measure  # noqa: E402
from streamdiffvsr.research.quality.clips import MeasuredClip  # noqa: E402
from streamdiffvsr.research.quality.metrics import bicubic_frames  # noqa: E402
from streamdiffvsr.runtime.state import StreamState  # noqa: E402

Frame = Any
COUNT, CUT = 20, 10


class FakeUpscaler:
    """Bicubic, to which `fault(out, index, previous)` is done; `previous` is its last output."""

    def __init__(self, fault: Callable[[Frame, int, Frame | None], Frame]) -> None:
        self._fault = fault

    def initial_state(self, seed: int = 0) -> StreamState:
        return StreamState(seed=seed)

    def step(self, frame: Frame, state: StreamState) -> tuple[Frame, StreamState]:
        previous = None if state.previous_hr is None else state.previous_hr[0].transpose(1, 2, 0)
        out = self._fault(bicubic_frames(frame[None])[0].astype(float), state.frame_index, previous)
        out = np.clip(np.rint(out), 0, 255).astype(np.uint8)
        hr = out.astype(np.float32).transpose(2, 0, 1)[None]
        index = state.frame_index + 1
        return out, replace(state, frame_index=index, previous_hr=hr, previous_lr=frame)


def clip(kind: str = "still", **more: Any) -> MeasuredClip:
    """A still picture that is its own truth to bicubic; a cut turns it upside down."""
    y, x = np.mgrid[:16, :20]
    picture = np.stack([90 + 3 * x, 90 + 4 * y, 100 + x + y], axis=-1).astype(np.uint8)
    lr = np.repeat(picture[None], COUNT, axis=0)
    visible = torch.ones(COUNT, 1, 64, 80)
    visible[0] = 0
    if "cut" in more:
        lr[more["cut"] :] = lr[more["cut"] :, ::-1]
        visible[more["cut"]] = 0
    flow = torch.zeros(COUNT, 2, 64, 80)
    return MeasuredClip("ramp", kind, lr, bicubic_frames(lr), flow, visible, **more)


def figures(fault: Callable[..., Frame], made: MeasuredClip) -> dict[str, Any]:
    return measure.measure_clip(FakeUpscaler(fault), made)


def test_a_perfect_model_has_no_faults() -> None:
    found = figures(lambda out, index, previous: out, clip())
    assert found["name"] == "ramp still" and found["frames"] == COUNT and found["input"] == "20x16"
    for way in ("ours", "unguided", "bicubic"):
        assert found[way] == pytest.approx(
            {"psnr": 100, "ssim": 1, "warp_error": 0, "warp_excess": 0, "flicker": 0}, abs=1e-3
        )
    assert found["still_flicker"] == found["ours"]["flicker"]
    assert found["colour_shift_max"] < 0.1
    assert "ghost_db" not in found and "drift_db" not in found


def test_a_tint_is_a_colour_shift_and_no_flicker() -> None:
    found = figures(lambda out, index, previous: out + np.array([0, 0, 4]), clip())
    assert found["colour_shift"] == pytest.approx([0, 0, 4], abs=0.1)
    assert found["colour_shift_max"] == pytest.approx(4, abs=0.1)
    assert found["ours"]["flicker"] == pytest.approx(0, abs=1e-3)
    assert found["ours"]["psnr"] < 45


def test_one_bad_frame_shows_in_the_worst_frame() -> None:
    found = figures(lambda out, index, previous: out + 8 * (index == 7), clip())
    assert found["colour_shift_max"] < 0.5 and found["colour_shift_max_frame"] > 7.5


def test_what_the_previous_frame_calms_flickers_without_it() -> None:
    """Noise of each frame's own, which guidance halves: seen in `unguided`, from the same noise."""

    def noisy(out: Frame, index: int, previous: Frame | None) -> Frame:
        noise = np.random.default_rng(index).normal(0, 6, out.shape)
        return out + noise if previous is None else out + noise / 2

    found = figures(noisy, clip())
    # The first frame is without guidance either way: one pair of 19 is not halved.
    ratio = found["ours"]["flicker"] / found["unguided"]["flicker"]
    assert ratio == pytest.approx((18 * 0.5 + np.sqrt(1.25) * np.sqrt(0.5)) / 19, abs=0.02)
    assert found["bicubic"]["flicker"] == pytest.approx(0, abs=1e-3)
    assert found["ours"]["psnr"] > found["unguided"]["psnr"] + 5


def test_what_shines_through_after_a_cut_is_a_ghost() -> None:
    """Seen although the picture without a cut is perfect: the last frame is kept by a tenth."""

    def ghostly(out: Frame, index: int, previous: Frame | None) -> Frame:
        return out if previous is None else 0.9 * out + 0.1 * previous

    assert figures(ghostly, clip("cut", cut=CUT))["ghost_db"] > 10
    clean = figures(lambda out, index, previous: out, clip("cut", cut=CUT))
    assert clean["ghost_db"] == pytest.approx(0)


def test_a_ghost_is_looked_for_after_the_cut_alone() -> None:
    through, fresh = np.full(COUNT, 30.0), np.full(COUNT, 30.0)
    fresh[CUT - 1] += 5
    fresh[CUT + measure.GHOST_FRAMES] += 5
    assert measure.ghost(through, fresh, CUT) == 0
    fresh[CUT + measure.GHOST_FRAMES - 1] += 2
    assert measure.ghost(through, fresh, CUT) == 2


def test_an_error_that_builds_up_is_drift() -> None:
    def brighter(out: Frame, index: int, previous: Frame | None) -> Frame:
        return out + index / 2

    same = (slice(2, 6), slice(16, 20))
    assert figures(brighter, clip("drift", same=same))["drift_db"] > 6
    assert figures(lambda out, index, previous: out + 2, clip("drift", same=same))[
        "drift_db"
    ] == pytest.approx(0)


def test_frames_without_guidance_have_the_noise_of_those_with_it() -> None:
    seen: list[tuple[int, bool]] = []

    def watch(out: Frame, index: int, previous: Frame | None) -> Frame:
        seen.append((index, previous is not None))
        return out

    lr = clip().lr[:4]
    measure.upscale(FakeUpscaler(watch), lr, resets=range(4))
    assert seen == [(0, False), (1, False), (2, False), (3, False)]
    seen.clear()
    measure.upscale(FakeUpscaler(watch), lr, resets=(2,))
    assert seen == [(0, False), (1, True), (2, False), (3, True)]


def test_the_time_is_that_of_guided_frames_after_a_warm_up(monkeypatch: Any) -> None:
    seconds = iter(np.cumsum([0, 9, 0, 8, 0, 0.2, 0, 0.1, 0, 0.3]))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(seconds))
    found = measure.frame_times(FakeUpscaler(lambda out, index, previous: out), clip().lr[:5])
    assert found["frames"] == 3
    assert found["ms_per_frame_median"] == pytest.approx(200)
    assert (found["input"], found["output"]) == ("20x16", "80x64")
