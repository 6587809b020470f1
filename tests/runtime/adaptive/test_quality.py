"""What adaptive mode promises of the picture, with the built-in model on photographs in motion."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.runtime.adaptive.tile_engine import TILE, load_tile_engine
from streamdiffvsr.runtime.adaptive.upscaler import AdaptiveUpscaler
from streamdiffvsr.runtime.upscaler import load

pytest.importorskip("torch", reason="clips are drawn with torch")
pytest.importorskip("skimage", reason="the photographs ship in scikit-image")

from streamdiffvsr.building.provider import EngineProvider
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.research import adaptive as measured
from streamdiffvsr.research.adaptive import AdaptiveClip
from streamdiffvsr.research.quality.clips import pictures
from streamdiffvsr.research.quality.measure import upscale
from streamdiffvsr.research.quality.metrics import bicubic_frames, psnr

pytestmark = pytest.mark.slow

SIZE = (88, 136)  # twelve tiles


@pytest.fixture(scope="module")
def provider() -> EngineProvider:
    return EngineProvider(BuildRequest(model="tiny", backend="onnxruntime", device="cpu"))


@pytest.fixture(scope="module")
def engine(provider: EngineProvider) -> Any:
    return load_tile_engine(provider.get((TILE, TILE)))


def clips(kinds: tuple[str, ...], frames: int, size: tuple[int, int] = SIZE) -> list[AdaptiveClip]:
    """The research command's clips of these kinds, smaller."""
    source, other = pictures("validation", [])[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "SIZE", size)
        made = [make for make in measured.makers(source, other, frames) if _kind(make) in kinds]
        assert len(made) == len(kinds)
        return [make() for make in made]


def _kind(make: partial[AdaptiveClip]) -> str:
    return next((a for a in make.args if isinstance(a, str)), "shake")


def outputs(engine: Any, clip: AdaptiveClip, tiles: int) -> Any:
    upscaler = AdaptiveUpscaler(engine, (clip.lr.shape[1], clip.lr.shape[2]))
    state, made = upscaler.initial_state(), []
    for frame in clip.lr:
        out, state = upscaler.step(frame, state, tiles=tiles)
        made.append(out)
    return np.stack(made)


def test_a_static_camera_keeps_nearly_all_with_a_seventh_of_the_tiles(engine: Any) -> None:
    (clip,) = clips(("camera",), 48, (160, 256))
    settled, bicubic = slice(24, None), psnr(bicubic_frames(clip.lr), clip.truth)
    every, seventh, fourteenth = (
        float((psnr(outputs(engine, clip, tiles), clip.truth) - bicubic)[settled].mean())
        for tiles in (28, 4, 2)
    )
    assert every > 0.5
    assert seventh >= 0.98 * every
    assert fourteenth >= 0.94 * every


def test_when_everything_moves_each_tile_brings_its_share(engine: Any, provider: Any) -> None:
    for clip in clips(("pan", "zoom"), 16):
        result = measured.measure(provider, engine, clip, (0.25, 0.14, 0.07))
        _, few, some, more, every = result["points"]
        assert every["gain"] > result["whole"]["gain"] - 0.15
        for point, least in ((more, 0.80), (some, 0.62), (few, 0.40)):
            assert point["gain"] >= least * every["gain"]


def test_no_frame_is_below_bicubic_and_the_whole_frame(engine: Any, provider: Any) -> None:
    for clip in clips(("cuts", "dissolve", "flash", "fade", "shake", "noise"), 12):
        result = measured.measure(provider, engine, clip, (0.14,))
        assert all(point["worst"] > -0.05 for point in result["points"]), result


def test_a_static_scene_flickers_no_more_than_the_whole_frame(engine: Any, provider: Any) -> None:
    (clip,) = clips(("noise",), 20)
    whole = upscale(load(provider.get(SIZE)), clip.lr)
    away = np.s_[10:, :80, :80]  # from the thing that moves

    def flicker(made: Any) -> float:
        return float(np.abs(np.diff(made[away].astype(np.float32), axis=0)).mean())

    for tiles in (1, 3, 12):
        assert flicker(outputs(engine, clip, tiles)) <= 1.05 * flicker(whole)


def test_nothing_drifts_over_a_thousand_frames(engine: Any) -> None:
    """A camera goes round and round; the last rounds look as the second did."""
    around, rounds = 50, 20
    (clip,) = clips(("turn",), around // 2 + 1, (64, 96))
    there_and_back = [*range(around // 2), *range(around // 2, 0, -1)]
    upscaler = AdaptiveUpscaler(engine, (64, 96))
    state, found = upscaler.initial_state(), []
    for index in range(around * rounds):
        at = there_and_back[index % around]
        out, state = upscaler.step(clip.lr[at], state, tiles=1)
        found.append(float(psnr(out[None], clip.truth[at][None])[0]))
    by_round = np.reshape(found, (rounds, around)).mean(axis=1)
    assert by_round[-3:].mean() > by_round[1] - 0.05
