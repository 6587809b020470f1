"""Images: what they hold, how they become the output, and what is left when writing ends early."""

import os

import av
import numpy as np
import psutil
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.encoders import ImageFormat
from streamdiffvsr.runtime.media.join import join
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.runtime.media.writer import SegmentWriter
from streamdiffvsr.tests.media.clips import NTSC, Clip
from streamdiffvsr.tests.media.copying import names

SIZE = (50, 70)  # rows that libav pads
PNG, DEEP = ImageFormat(".png", deep=False), ImageFormat(".png", deep=True)


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return probe(Clip(pts=[0], sounds=[("aac", 48000)]).write(folder / "clip.mp4"))


def picture(index: int, dtype=np.uint8) -> np.ndarray:
    rng = np.random.default_rng(index)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*SIZE, 3), dtype)


def write(folder, info, format, count, first=0):
    folder.mkdir(exist_ok=True)
    dtype = np.uint16 if format.deep else np.uint8
    with SegmentWriter(folder, size=SIZE, like=info, format=format, first_index=first) as writer:
        for index in range(first, first + count):
            if (index - first) % 4 == 0:
                writer.begin(f"part{index}")
            writer.write(picture(index, dtype), index * 1001, NTSC, 1001)
    return [(folder, segment) for segment in writer.finished()]


def read(path, layout):
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format=layout)


@pytest.mark.parametrize(
    ("format", "layout", "dtype"),
    [
        (PNG, "rgb24", np.uint8),
        (DEEP, "rgb48le", np.uint16),
        (ImageFormat(".tif", deep=True), "rgb48le", np.uint16),
    ],
)
def test_images_hold_every_value(tmp_path, info, format, layout, dtype):
    entries = write(tmp_path / "work", info, format, 6)
    assert [(s.frames, s.first_pts, s.end_pts) for _, s in entries] == [
        (4, 0, 4004),
        (2, 4004, 6006),
    ]
    done = join(entries, tmp_path / "out", like=info, format=format)
    assert names(tmp_path / "out") == {f"{k:08d}{format.suffix}" for k in range(6)}
    for index in range(6):
        got = read(tmp_path / "out" / f"{index:08d}{format.suffix}", layout)
        np.testing.assert_array_equal(got, picture(index, dtype))
    assert done.bytes == sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    assert list(done.notes) == ["audio left out: images hold none"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_images_look_like_their_frames(tmp_path, info, suffix):
    y, x = np.indices(SIZE)
    image = np.stack([x * 3, y * 5, 255 - x - y], axis=-1).astype(np.uint8)
    (tmp_path / "work").mkdir()
    format = ImageFormat(suffix, deep=False)
    with SegmentWriter(tmp_path / "work", size=SIZE, like=info, format=format) as writer:
        writer.begin("part")
        writer.write(image, 0)
    got = read(tmp_path / "work" / "frames" / f"00000000{suffix}", "rgb24")
    assert np.abs(got.astype(int) - image).mean() < 3


def test_images_of_several_folders_become_one_and_leftovers_are_dropped(tmp_path, info):
    entries = write(tmp_path / "a", info, PNG, 3) + write(tmp_path / "b", info, PNG, 2, first=3)
    (tmp_path / "a" / "frames" / "00000009.png").write_bytes(b"of an interrupted run")
    (tmp_path / "out").mkdir()
    join(entries, tmp_path / "out", like=info, format=PNG)
    assert names(tmp_path / "out") == {f"{k:08d}.png" for k in range(5)}
    np.testing.assert_array_equal(read(tmp_path / "out" / "00000004.png", "rgb24"), picture(4))


def test_only_images_of_ours_are_ever_replaced(tmp_path, info):
    entries = write(tmp_path / "work", info, PNG, 2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "00000007.png").write_bytes(b"old")
    with pytest.raises(StreamDiffVSRError, match="come into being meanwhile"):
        join(entries, out, like=info, format=PNG)
    (out / "holiday.png").write_bytes(b"precious")
    with pytest.raises(StreamDiffVSRError, match=r"holds 'holiday\.png'"):
        join(entries, out, like=info, format=PNG, overwrite=True)
    (out / "holiday.png").unlink()
    join(entries, out, like=info, format=PNG, overwrite=True)
    assert names(out) == {"00000000.png", "00000001.png"}
    assert names(tmp_path) == {"work", "out"}


def test_a_killed_writer_leaves_whole_images_only(tmp_path, info):
    (tmp_path / "work").mkdir()
    writer = SegmentWriter(tmp_path / "work", size=SIZE, like=info, format=PNG)
    with pytest.raises(StreamDiffVSRError, match="ended unexpectedly"):
        for index in range(100):
            if index % 4 == 0:
                writer.begin(f"part{index}")
            writer.write(picture(index), index)
            if index == 9:
                (child,) = psutil.Process(os.getpid()).children()
                child.kill()
    assert [segment.name for segment in writer.finished()] == ["part0", "part4"]
    left = names(tmp_path / "work" / "frames")
    assert {f"{k:08d}.png" for k in range(8)} <= left
    for name in left:
        expected = picture(int(name.split(".")[0]))
        np.testing.assert_array_equal(read(tmp_path / "work" / "frames" / name, "rgb24"), expected)
