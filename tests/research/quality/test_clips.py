"""The clips of `quality`: what moves moves as stated, and every run sees the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from streamdiffvsr.errors import StreamDiffVSRError  # noqa: E402
from streamdiffvsr.research.quality import clips  # noqa: E402
from streamdiffvsr.research.quality.metrics import psnr, temporal_errors  # noqa: E402

FRAMES, DRIFT_FRAMES = 4, 30


def picture(name: str, size: tuple[int, int]) -> tuple[str, Any]:
    """Smooth noise, as rich in detail as a photograph, and its colours as pale as one's."""
    generator = torch.Generator().manual_seed(len(name))
    grid = (size[0] // 6, size[1] // 6)
    coarse = torch.rand(1, 1, *grid, generator=generator).repeat(1, 3, 1, 1)
    coarse += 0.1 * torch.rand(1, 3, *grid, generator=generator)
    return name, torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].clamp(0, 1)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    sources = [picture("one", (260, 420)), picture("three", (300, 400))]
    made = (make() for make in clips.makers(sources, FRAMES, DRIFT_FRAMES))
    return {clip.name: clip for clip in made}


def test_there_is_every_kind_for_every_photograph_a_cut_and_a_long_one(made: Any) -> None:
    kinds = [f"{name} {kind}" for name in ("one", "three") for kind in clips.KINDS]
    assert list(made) == [*kinds, "one to three cut", "one drift"]


def test_shapes_agree(made: Any) -> None:
    for name, clip in made.items():
        count = DRIFT_FRAMES if name == "one drift" else FRAMES
        assert clip.lr.shape == (count, 56, 96, 3) and clip.lr.dtype == np.uint8
        assert clip.truth.shape == (count, 224, 384, 3) and clip.truth.dtype == np.uint8
        assert clip.flow.shape == (count, 2, 224, 384)
        assert clip.visible.shape == (count, 1, 224, 384)
        assert clip.size == (56, 96)


def test_the_flow_is_the_true_one(made: Any) -> None:
    """A frame is the frame before it, carried along: to the rounding of the pixels and sampling."""
    for name, clip in made.items():
        error = temporal_errors(clip.truth, clip.truth, clip.flow, clip.visible)["warp_error"]
        assert error < 2.5, name
        if not name.endswith("still"):
            unmoved = temporal_errors(
                clip.truth, clip.truth, torch.zeros_like(clip.flow), clip.visible
            )
            assert unmoved["warp_error"] > 2 * error, name


def test_the_pan_is_of_the_stated_speed(made: Any) -> None:
    flow = made["one pan"].flow[1:]
    expected = torch.tensor(clips.KINDS["pan"]["pan"])[None, :, None, None].expand_as(flow)
    torch.testing.assert_close(flow, expected, atol=1e-3, rtol=0)
    assert made["one still"].flow.abs().max() < 1e-3
    assert made["one turn"].flow.abs().max() > 1


def test_in_layers_two_things_move_apart(made: Any) -> None:
    clip = made["one layers"]
    middle, corner = clip.flow[1, :, 112, 192], clip.flow[1, :, 5, 5]
    assert middle.tolist() == pytest.approx(clips.THING_PAN, abs=1e-3)
    assert corner.tolist() == pytest.approx(clips.KINDS["layers"]["pan"], abs=1e-3)
    assert clip.visible[1, 0, 5, 5] == 1
    assert clip.visible[1:].mean() < 0.999  # something was uncovered


def test_nothing_is_visible_across_a_cut(made: Any) -> None:
    clip = made["one to three cut"]
    assert clip.cut == FRAMES // 2
    assert clip.visible[clip.cut].max() == 0 and clip.visible[clip.cut - 1].mean() > 0.9
    before, after = clip.truth[clip.cut - 1 : clip.cut + 1]
    assert psnr(before[None], after[None])[0] < 15


def test_the_long_clip_ends_where_it_was_at_the_tenth_frame(made: Any) -> None:
    clip = made["one drift"]
    first, last = clip.same
    assert 9 in range(DRIFT_FRAMES)[first] and DRIFT_FRAMES - 1 in range(DRIFT_FRAMES)[last]
    np.testing.assert_allclose(clip.truth[first], clip.truth[last], atol=1)
    assert clip.flow[1:].abs().amax(dim=(1, 2, 3)).min() > 0.5  # it never rests


def test_only_the_noisy_clip_is_noisy(made: Any) -> None:
    for kind in ("still", "noisy"):
        clip = made[f"one {kind}"]
        small = torch.nn.functional.interpolate(
            torch.from_numpy(clip.truth).permute(0, 3, 1, 2).float(),
            scale_factor=0.25,
            mode="bicubic",
            antialias=True,
        )
        off = np.abs(small.permute(0, 2, 3, 1).numpy() - clip.lr).mean()
        assert (off < 0.5) if kind == "still" else (1 < off < 8)


def test_every_run_sees_the_same(made: Any) -> None:
    sources = [picture("one", (260, 420)), picture("three", (300, 400))]
    again = list(clips.makers(sources, FRAMES, DRIFT_FRAMES))[list(clips.KINDS).index("noisy")]()
    np.testing.assert_array_equal(again.lr, made["one noisy"].lr)


def test_a_large_photograph_is_shown_large() -> None:
    sources = [picture("large", (400, 600))]
    made = next(clips.makers(sources, FRAMES, DRIFT_FRAMES))()
    assert made.size == (90, 160)
    assert clips.timing_frames(sources[0], 3).shape == (3, 90, 160, 3)


def test_a_single_photograph_is_cut_to_itself_upside_down() -> None:
    *_, cut, _ = clips.makers([picture("one", (260, 420))], FRAMES, DRIFT_FRAMES)
    clip = cut()
    assert clip.name == "one to one-turned cut"
    assert psnr(clip.truth[1:2], clip.truth[2:3])[0] < 15


def test_pictures_of_ones_own(tmp_path: Path) -> None:
    Image.new("L", (384, 224), 77).save(tmp_path / "mine.png")
    ((name, image),) = clips.pictures("validation", [tmp_path / "mine.png"])
    assert name == "mine" and image.shape == (3, 224, 384)
    torch.testing.assert_close(image, torch.full((3, 224, 384), 77 / 255))


def test_the_photographs_of_training_are_not_among_them() -> None:
    from streamdiffvsr.research.training.photographs import TRAINING, VALIDATION

    pytest.importorskip("skimage")
    names = [name for name, _ in clips.pictures("validation", [])]
    assert names == [photograph.name for photograph in VALIDATION]
    assert not {photograph.name for photograph in TRAINING} & set(names)


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(StreamDiffVSRError, match=r"small.png is too small.*100x100.*384x224"):
        clips.pictures("validation", [tmp_path / "small.png"])
    for name in ("text.png", "missing.png"):
        with pytest.raises(StreamDiffVSRError, match=f"cannot read the picture.*{name}"):
            clips.pictures("validation", [tmp_path / name])
