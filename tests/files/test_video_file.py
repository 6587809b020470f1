"""Tests what cannot be written, and what is left on the disk when writing fails."""

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.files.upscale import write_video
from streamdiffvsr.runtime.media.encoders import VideoFormat, h264_format, options
from streamdiffvsr.runtime.media.preflight import check_output
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.media.clips import NTSC, Clip, moving, see
from streamdiffvsr.tests.media.copying import FAST, names


def opened(output, size=(48, 64), *, crf: int = 17, **options):
    """A writer of H.264, thirty thousand ticks a second where there is no source."""
    base = None if "like" in options else NTSC
    format = h264_format(output, crf=crf, preset=FAST)
    return write_video(output, **{"size": size, "time_base": base, "format": format, **options})


def refusals(tmp_path):
    clip = Clip().write(tmp_path / "clip.mp4")
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "same.mp4").symlink_to(clip)
    return {
        "there.mp4": "it already exists",
        "folder.mp4": "it exists and is not a plain file",
        "none/out.mp4": "there is no folder",
        "there.mp4/out.mp4": "is not a folder",
        "out.avi": "no H.264 file is written with the ending '.avi'",
        "out": "no H.264 file is written with the ending ''",
        "clip.mp4": "it is the input file itself",
        "same.mp4": "it is the input file itself",
    }


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
    refused = refusals(tmp_path)
    info = probe(tmp_path / "clip.mp4")
    for name, why in refused.items():
        before = names(tmp_path)
        with pytest.raises(StreamDiffVSRError) as caught:
            opened(tmp_path / name, like=info).__enter__()
        assert str(caught.value).startswith(f"could not write {str(tmp_path / name)!r}: ")
        assert why in str(caught.value)
        assert names(tmp_path) == before
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"


def test_the_input_is_never_overwritten(tmp_path):
    clip = Clip().write(tmp_path / "clip.mp4")
    with pytest.raises(StreamDiffVSRError, match="it is the input file itself"):
        check_output(clip, source=tmp_path / ".." / tmp_path.name / "clip.mp4", overwrite=True)


def test_overwriting_replaces_the_file_at_the_end(tmp_path):
    clip, out = Clip().write(tmp_path / "clip.mp4"), tmp_path / "out.mp4"
    out.write_bytes(b"old")
    with opened(out, like=probe(clip), overwrite=True) as writer:
        writer.write(moving(0, 48, 64), 0)
        assert out.read_bytes() == b"old"
    assert len(see(out).times) == 1
    assert names(tmp_path) == {"clip.mp4", "out.mp4"}


@pytest.mark.parametrize(
    ("size", "why"), [((48, 16388), "up to 16384"), ((47, 64), "both must be even")]
)
def test_a_size_that_cannot_be_encoded_is_refused(tmp_path, size, why):
    with pytest.raises(StreamDiffVSRError, match=why):
        opened(tmp_path / "out.mp4", size).__enter__()
    assert names(tmp_path) == set()


def test_a_frame_of_another_shape_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match=r"image.shape = \(64, 48, 3\)"):  # noqa: SIM117
        with opened(tmp_path / "out.mp4") as writer:
            writer.write(np.zeros((64, 48, 3), np.uint8), 0)
    assert names(tmp_path) == set()


def test_another_format_is_written_when_asked(tmp_path):
    chosen = options("libx265", crf=10, preset=FAST)
    deep = VideoFormat("mp4", "h265", "libx265", "yuv420p10le", chosen, deep=True)
    grey = np.full((48, 64, 3), 30000, np.uint16)
    with opened(tmp_path / "out.mp4", format=deep) as writer:
        with pytest.raises(ValueError, match="not uint16"):
            writer.write(moving(0, 48, 64), 0)
        writer.write(grey, 0, duration=1001)  # one frame: x265 has no decoding time for it
    (image,) = see(tmp_path / "out.mp4").images
    assert image.format.name == "yuv420p10le"
    luma = image.to_ndarray()[:48]
    assert abs(float(luma.mean()) - (64 + 876 * 30000 / 65535)) < 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error):  # noqa: SIM117
        with opened(tmp_path / "out.mp4") as writer:
            writer.write(moving(0, 48, 64), 0)
            assert names(tmp_path) == {"out.mp4.unfinished"}  # not under the final name
            raise error
    assert names(tmp_path) == set()


def test_no_frame_is_no_file(tmp_path):
    with (
        pytest.raises(StreamDiffVSRError, match="there was no frame to write"),
        opened(tmp_path / "out.mp4"),
    ):
        pass
    assert names(tmp_path) == set()


def test_an_output_that_came_into_being_meanwhile_is_kept(tmp_path):
    with (
        pytest.raises(StreamDiffVSRError, match="come into being meanwhile"),
        opened(tmp_path / "out.mp4") as writer,
    ):
        writer.write(moving(0, 48, 64), 0)
        (tmp_path / "out.mp4").write_bytes(b"theirs")
    assert (tmp_path / "out.mp4").read_bytes() == b"theirs"
    assert names(tmp_path) == {"out.mp4"}


def noise(count: int):
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(count))


def fill(output, count: int) -> None:
    with opened(output, (96, 128), crf=1) as writer:
        for index, image in enumerate(noise(count)):
            writer.write(image, index * 1001)


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit there")
@pytest.mark.parametrize(
    ("name", "count"),  # a few frames: found when finishing; many: found while writing
    [("out.mp4", 3), ("out.mp4", 100), ("out.mkv", 100), ("out.ts", 3)],
)
def test_a_file_that_may_not_grow_is_one_clear_line(tmp_path, name, count):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # the child inherits it
    try:
        with pytest.raises(StreamDiffVSRError) as caught:
            fill(tmp_path / name, count)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the largest size allowed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == set()


def test_a_full_disk_is_one_clear_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(StreamDiffVSRError, match=r"out\.mp4': the disk is full"):
            fill(disk / "out.mp4", 100)
        assert names(disk) == set()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_killed_encoder_is_one_clear_line(tmp_path):
    with pytest.raises(StreamDiffVSRError, match="ended unexpectedly") as caught:  # noqa: SIM117
        with opened(tmp_path / "out.mp4", (96, 128)) as writer:
            for index, image in enumerate(noise(200)):
                writer.write(image, index)
                if index == 5:
                    (encoder,) = psutil.Process(os.getpid()).children()
                    encoder.kill()
    assert str(caught.value).startswith(f"could not write {str(tmp_path / 'out.mp4')!r}: ")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == set()
