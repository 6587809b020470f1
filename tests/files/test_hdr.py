"""HDR10's mastering metadata goes from the input to what players read of the output."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import av
import pytest

from streamdiffvsr.runtime.files.inputs import InOut
from streamdiffvsr.runtime.files.job_report import inspect_job, policies
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.media.clips import Clip

DISPLAY = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000.0)
X265 = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
HDR = Clip(
    codec="libx265",
    pix_fmt="yuv420p10le",
    colour=(9, 1, 9, 16),
    options={
        "preset": "ultrafast",
        "x265-params": f"log-level=error:master-display={X265}:max-cll=987,321",
    },
)


def told_by_frames(path: Path) -> tuple[tuple[float, ...], tuple[int, int]]:
    """Returns the metadata of the first frame, by libav's own structs."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        told = {data.type.name: bytes(data) for data in frame.side_data}
    parts = struct.unpack("=20i", told["MASTERING_DISPLAY_METADATA"][:80])
    display = tuple(a / b for a, b in zip(parts[::2], parts[1::2], strict=True))
    return display, struct.unpack("=2I", told["CONTENT_LIGHT_LEVEL"])


@pytest.mark.parametrize(("name", "codec"), [("out.mp4", "h265"), ("out.mkv", "av1")])
def test_a_player_is_told_what_it_was_mastered_on(tmp_path, name, codec):
    source = HDR.write(tmp_path / "in.mkv")
    options = FileOptions(codec=codec, preset="ultrafast" if codec == "h265" else "12")
    upscale_file(source, tmp_path / name, Nearest(), options)
    display, light = told_by_frames(tmp_path / name)
    assert display == pytest.approx(DISPLAY, abs=1e-4, rel=1e-4)
    assert light == (987, 321)


def test_what_is_not_told_is_not_made_up(tmp_path):
    plain = replace(HDR, options={"preset": "ultrafast", "x265-params": "log-level=error"})
    assert probe(plain.write(tmp_path / "plain.mkv")).mastering is None
    only_light = {"preset": "ultrafast", "x265-params": "log-level=error:max-cll=987,321"}
    mastering = probe(replace(HDR, options=only_light).write(tmp_path / "light.mkv")).mastering
    assert mastering is not None
    assert (mastering.display, mastering.light) == (None, (987, 321))


@pytest.mark.parametrize(
    ("name", "codec", "lost"),
    [
        ("out.mkv", "auto", False),
        ("out.mkv", "av1", False),
        ("out.mov", "prores", True),
        ("out", "auto", True),
    ],
)
def test_what_is_lost_is_told_before(tmp_path, name, codec, lost):
    seen = inspect_job(
        InOut(HDR.write(tmp_path / "in.mkv"), tmp_path / name), FileOptions(codec=codec)
    )
    notes = [note for note in policies(seen) if "mastering" in note]
    assert len(notes) == lost
