"""The demo's clip, what it says when something is missing, and (slow) all of it."""

import os
from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr import _about
from streamdiffvsr.cli.demo import Watched
from streamdiffvsr.runtime.files import compare
from streamdiffvsr.runtime.frame_stream import Upscaled, mark_images
from streamdiffvsr.runtime.state import StreamState
from streamdiffvsr.tests.media.clips import see


def decoded():
    return [image.to_ndarray(format="rgb24") for image in see(_about.CLIP).images]


def test_the_clip_is_small_and_has_sound():
    seen = see(_about.CLIP)
    assert len(seen.images) == 24 and seen.length == pytest.approx(2, abs=0.05)
    assert (seen.images[0].width, seen.images[0].height) == (160, 88)
    assert len(seen.sounds) == 1 and len(seen.sounds[0]) > 80
    assert sum(path.stat().st_size for path in _about.ASSETS.iterdir()) < 1_000_000


def test_the_truth_is_that_of_its_frame():
    truth = compare.read_picture(_about.TRUTH)
    scores = [compare.psnr(compare.bicubic(frame, 4), truth) for frame in decoded()]
    assert np.argmax(scores) == _about.TRUTH_FRAME
    assert scores[_about.TRUTH_FRAME] > 26


def test_the_photograph_is_credited():
    text = (_about.ASSETS / "README.md").read_text(encoding="utf-8")
    assert "CC0 by the photographer (Rachel\nMichetti)" in text


class Doubling:
    """An upscaler that numbers its frames; it reuses the memory of what it takes and gives."""

    size, identity = (2, 2), "doubling"

    def __init__(self):
        self.out = np.empty((8, 8, 3), np.uint8)

    def stream_frames(self, frames, state=None):
        for index, frame in enumerate(frames):
            self.out[:] = 2 * frame.image[0, 0]
            frame.image[:] = 255
            yield Upscaled(frame, self.out, StreamState(frame_index=index + 1))


def test_the_watched_frame_is_shown_at_once_and_every_frame_goes_through():
    shown = []
    upscaler = Watched(Doubling(), 1, lambda *pair: shown.append([image.copy() for image in pair]))
    frames = (np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30))
    made = []
    for out in upscaler.stream_frames(mark_images(frames)):
        made.append((out.image[0, 0, 0], out.state))
        assert len(shown) == (len(made) > 1)
    assert [corner for corner, _ in made] == [20, 40, 60]
    assert made[-1][1].frame_index == 3
    ((before, after),) = shown
    assert (before == 20).all() and before.shape == (2, 2, 3)
    assert (after == 40).all() and after.shape == (8, 8, 3)
    assert (upscaler.size, upscaler.identity) == ((2, 2), "doubling")


def test_without_the_built_in_model_it_says_so(cli, monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="of the export extra")
    monkeypatch.setattr("streamdiffvsr.export.model_source.BUILT_IN_FOLDER", tmp_path / "not-there")
    ran = cli("demo", "--out", tmp_path)
    assert "the built-in model is not here" in ran.error
    assert ran.code == 1


def test_without_its_clip_it_says_so(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("streamdiffvsr.cli.demo.CLIP", tmp_path / "clip.mp4")
    ran = cli("demo", "--out", tmp_path / "out")
    assert "clip.mp4 is missing from this installation" in ran.error
    assert ran.code == 1 and not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file(cli, tmp_path):
    (tmp_path / "file").touch()
    ran = cli("demo", "--out", tmp_path / "file", "--json")
    assert "cannot make the folder" in ran.error
    assert ran.json["exit_code"] == ran.code == 1


def test_a_device_that_is_not_there_leaves_nothing_behind(cli, tmp_path):
    ran = cli("demo", "--device", "cuda:x", "--out", tmp_path / "a" / "b")
    assert ran.code == 2 and "unknown device 'cuda:x'" in ran.error
    assert list(tmp_path.iterdir()) == []


def test_the_clip_is_made_again_by_its_script():
    pytest.importorskip("torch", reason="of the train extra")
    pytest.importorskip("skimage", reason="of the train extra")
    from streamdiffvsr.research.training.demo_clip import make_frames

    hr, lr = make_frames()
    assert (hr[_about.TRUTH_FRAME] == compare.read_picture(_about.TRUTH)).mean() > 0.99
    pairs = zip(lr, decoded(), strict=True)
    assert min(compare.psnr(made, kept) for made, kept in pairs) > 30


@pytest.mark.slow
def test_the_whole_demo(cli, tmp_path):
    out = tmp_path / "out"
    ran = cli("demo", "--out", out)
    assert ran.code == 0, ran.err
    assert f"look at: {out / 'side_by_side.png'}" in ran.out
    seen, source = see(out / "clip_4x.mp4"), see(_about.CLIP)
    assert (seen.images[0].width, seen.images[0].height) == (640, 352)
    assert seen.times == source.times and seen.sounds == source.sounds
    assert sorted(path.name for path in out.iterdir()) == [
        "clip.mp4",
        "clip_4x.mp4",
        "side_by_side.png",
    ]

    def built() -> dict[str, int]:
        sets = Path(os.environ["STREAMDIFFVSR_CACHE"], "engines").glob("*/manifest.json")
        return {str(manifest.parent): manifest.stat().st_mtime_ns for manifest in sets}

    before = built()
    again = cli("demo", "--out", out, "--json")
    assert (again.code, again.err) == (0, "")
    result = again.json
    assert {"input", "output", "engines", "side_by_side", "psnr", "total_seconds"} <= set(result)
    assert result["engines"] in before and built() == before, "the engines are the first run's"
    assert result["psnr"]["ours"] > result["psnr"]["bicubic"] + 0.3
    sheet = compare.read_picture(out / "side_by_side.png")
    assert sheet.shape[1] == 3 * 640 + 4 * compare.GAP and sheet.shape[0] > 2 * 352
