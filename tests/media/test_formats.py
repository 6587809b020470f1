"""Tests which encoder and pixel format an output gets, and what is refused before any work."""

from dataclasses import replace
from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.media.encoders import (
    CODECS,
    CONTAINERS,
    HOLDS,
    ImageFormat,
    VideoFormat,
    encoder_of,
    options,
)
from streamdiffvsr.runtime.media.formats import choose_format
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.media.clips import Clip

SIZE = (192, 256)


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    return probe(Clip(pts=[0]).write(tmp_path_factory.mktemp("formats") / "clip.mp4"))


def choose(name, info, depth=8, **asked):
    return choose_format(Path(name), info=replace(info, depth=depth), size=SIZE, **asked)


@pytest.mark.parametrize(
    ("name", "depth", "asked", "expected"),
    [
        ("o.mp4", 8, {}, ("mp4", "libx264", "yuv420p", False, "")),
        ("o.M4V", 8, {}, ("mp4", "libx264", "yuv420p", False, "")),
        ("o.mkv", 10, {}, ("matroska", "libx265", "yuv420p10le", True, "")),
        ("o.mp4", 12, {}, ("mp4", "libx265", "yuv420p10le", True, "hvc1")),
        ("o.ts", 10, {"codec": "h264"}, ("mpegts", "libx264", "yuv420p10le", True, "")),
        ("o.webm", 8, {}, ("webm", "libsvtav1", "yuv420p", False, "")),
        ("o.webm", 10, {}, ("webm", "libsvtav1", "yuv420p10le", True, "")),
        ("o.mov", 8, {"codec": "prores"}, ("mov", "prores_ks", "yuv422p10le", False, "")),
        ("o.mkv", 8, {"codec": "ffv1"}, ("matroska", "ffv1", "bgr0", False, "")),
        ("o.mkv", 12, {"codec": "ffv1"}, ("matroska", "ffv1", "gbrp12le", True, "")),
        ("o.mkv", 8, {"encoder": "libx265"}, ("matroska", "libx265", "yuv420p", False, "")),
        ("o.mkv", 8, {"encoder": "software"}, ("matroska", "libx264", "yuv420p", False, "")),
    ],
)
def test_the_format_follows_name_and_depth(info, name, depth, asked, expected):
    made = choose(name, info, depth, **asked)
    assert isinstance(made, VideoFormat)
    assert (made.container, made.encoder, made.pixel_format, made.deep, made.tag) == expected


def test_high_10_is_chosen_with_a_word_of_warning(info):
    assert "few players" in choose("o.mp4", info, 10, codec="h264").note
    assert choose("o.mp4", info, 10).note == choose("o.mp4", info, codec="h264").note == ""


def test_quality_and_speed_are_put_in_the_encoders_own_words(info):
    assert choose("o.mp4", info, crf=12, preset="slow").options["crf"] == "12"
    assert choose("o.webm", info, crf=60, preset="13").options["preset"] == "13"
    prores = choose("o.mov", info, codec="prores", preset="4444")
    assert (prores.options["profile"], prores.pixel_format) == ("4444", "yuv444p10le")


@pytest.mark.parametrize(
    ("name", "images", "depth", "expected"),
    [
        ("frames", None, 8, ImageFormat(".png", deep=False)),
        ("frames", "png", 10, ImageFormat(".png", deep=True)),
        ("frames", "tiff", 16, ImageFormat(".tif", deep=True)),
        ("frames.d", "jpeg", 10, ImageFormat(".jpg", deep=False)),
        ("frames", "webp", 8, ImageFormat(".webp", deep=False)),
    ],
)
def test_a_folder_gets_images(info, name, images, depth, expected):
    assert choose(name, info, depth, images=images) == expected


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("o.webm", {"codec": "h264"}, r"\.webm cannot hold h264 video, but av1; \.mp4, \.m4v"),
        ("o.mp4", {"codec": "prores"}, r"cannot hold prores .*; \.mov, \.mkv can hold prores"),
        ("o.ts", {"encoder": "libsvtav1"}, r"\.ts cannot hold av1"),
        ("o.avi", {}, r"ending '\.avi'; use one of \.mp4"),
    ],
)
def test_what_a_container_cannot_hold_is_one_line_with_what_can(info, name, asked, why):
    with pytest.raises(StreamDiffVSRError, match=why):
        choose(name, info, **asked)


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("o.mp4", {"codec": "divx"}, "no codec 'divx' here; use one of h264"),
        ("o.mp4", {"encoder": "libdivx"}, "no encoder 'libdivx' here; use one of"),
        ("o.mp4", {"encoder": "libx264", "codec": "h265"}, "libx264 makes h264, not h265"),
        ("o.mp4", {"crf": 52}, "CRF 52 is out of range; libx264 takes 0 to 51"),
        ("o.mov", {"codec": "prores", "crf": 10}, "prores_ks has no CRF"),
        ("o.mp4", {"preset": "warp"}, "libx264 has no preset 'warp'; use one of ultrafast"),
        ("frames", {"images": "gif"}, "'gif' is no kind of image"),
        ("frames", {"crf": 3}, "images have no codec"),
        ("o.mp4", {"images": "png"}, "named like a video"),
    ],
)
def test_what_means_nothing_is_a_mistake_of_usage(info, name, asked, why):
    with pytest.raises(UsageError, match=why):
        choose(name, info, **asked)


def test_a_size_that_cannot_be_encoded_is_refused(info):
    with pytest.raises(StreamDiffVSRError, match=r"av1 goes up to 16384x8704; scale"):
        choose_format(Path("o.webm"), info=info, size=(8708, 16), codec="av1")
    with pytest.raises(StreamDiffVSRError, match="h265 is encoded from 16 a side; use h264"):
        choose_format(Path("o.mp4"), info=info, size=(8, 64), codec="h265")
    tiny = choose_format(Path("o.mp4"), info=replace(info, depth=10), size=(8, 64))
    assert (tiny.encoder, tiny.pixel_format) == ("libx264", "yuv420p10le")


def test_an_encoder_that_does_not_work_here_is_told_with_its_reason(info):
    """Whichever this machine lacks: an encoder for Apple's or another maker's chips."""
    import sys

    name = "h264_qsv" if sys.platform == "darwin" else "h264_videotoolbox"
    with pytest.raises(StreamDiffVSRError, match=f"{name} does not work here: .+; use encoder="):
        choose("o.mp4", info, encoder=name)


@pytest.mark.parametrize("name", CODECS)
def test_every_row_of_the_table_can_be_chosen(info, name):
    codec = CODECS[name]
    assert set(codec.containers) <= set(CONTAINERS.values())
    for encoder in (codec.software, *codec.hardware):
        assert encoder_of(encoder).memory[0] > 0
        assert options(encoder, crf=None, preset=None)
    for ending, container in CONTAINERS.items():
        if name in HOLDS[container]:
            made = choose(f"o{ending}", info, codec=name)
            assert (made.container, made.encoder) == (container, codec.software)
