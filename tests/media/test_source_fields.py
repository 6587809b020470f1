"""Interlaced video: pictures without combs, each at its time; progressive video untouched."""

import av
import numpy as np
import pytest
from av.filter import Graph

from streamdiffvsr.runtime.media.frames import deinterlacing
from streamdiffvsr.runtime.media.frames.deinterlacing import Deinterlacer
from streamdiffvsr.runtime.media.source import FileSource
from streamdiffvsr.tests.media.clips import NTSC, Clip

PTS = [k * 1001 for k in range(12)]
LINES = "interlaced=1:weightp=0:log=-1"


def bar(moment: int, height: int, width: int) -> np.ndarray:
    """A white bar on black, at its place at that half frame."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, 8 + 4 * moment : 16 + 4 * moment] = 255
    return image


def woven(index: int, height: int, width: int) -> np.ndarray:
    """The lower field of one moment, the upper field of the next."""
    image = bar(2 * index, height, width)
    image[::2] = bar(2 * index + 1, height, width)[::2]
    return image


def woven_upper_first(index: int, height: int, width: int) -> np.ndarray:
    image = bar(2 * index, height, width)
    image[1::2] = bar(2 * index + 1, height, width)[1::2]
    return image


def noise(index: int, height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(index)
    return generator.integers(0, 255, (height, width, 3), dtype=np.uint8)


def interlaced(path, image=woven, lines=LINES):
    options = {"qp": "0", "bf": "0", "x264-params": lines}
    return Clip(size=(48, 128), pts=PTS, options=options, image=image).write(path)


def upper_first(path):
    """H.264 whose frames say that their upper field comes first."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"qp": "0", "x264-params": LINES})
        stream.width, stream.height, stream.pix_fmt = 128, 48, "yuv420p"
        graph = Graph()
        source = graph.add_buffer(width=128, height=48, format="yuv420p", time_base=NTSC)
        graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
        for index, pts in enumerate(PTS):
            image = woven_upper_first(index, 48, 128)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = pts, NTSC
            graph.push(frame)
            output.mux(stream.encode(graph.pull()))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("make", [interlaced, upper_first])
def test_each_frame_becomes_the_picture_of_its_first_field(tmp_path, make):
    path = make(tmp_path / "fields.mkv")
    with FileSource(path) as source:
        assert source.info.interlaced
        frames = list(source)
    assert len(frames) == len(PTS)
    for index, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - bar(2 * index, 48, 128)).max() <= 1


def test_one_frame_comes_out_for_each_one_in_at_its_own_time(tmp_path):
    path = interlaced(tmp_path / "fields.mkv")
    with FileSource(path) as source, FileSource(path, deinterlace=False) as raw:
        told = [(frame.pts, frame.duration) for frame in source]
        assert told == [(frame.pts, frame.duration) for frame in raw]
    assert len(told) == len(PTS)


def test_it_can_be_left_as_it_is(tmp_path):
    path = interlaced(tmp_path / "fields.mkv")
    with FileSource(path, deinterlace=False) as source:
        for index, frame in enumerate(source):
            np.testing.assert_allclose(frame.image, woven(index, 48, 128), atol=1)
        assert source.info.interlaced


def test_a_still_picture_loses_nothing(tmp_path):
    still = np.random.default_rng(0).integers(0, 255, (48, 128), dtype=np.uint8)
    path = interlaced(tmp_path / "still.mkv", image=lambda index, h, w: np.dstack([still] * 3))
    with FileSource(path) as source, FileSource(path, deinterlace=False) as raw:
        pairs = list(zip(source, raw, strict=True))
    for frame, before in pairs[1:-1]:
        np.testing.assert_array_equal(frame.image, before.image)


def test_progressive_frames_never_meet_the_filter(monkeypatch):
    monkeypatch.setattr(deinterlacing, "Graph", None)
    deinterlacer = Deinterlacer()
    frames = [av.VideoFrame(64, 48, "yuv420p") for _ in range(3)]
    assert [deinterlacer.frames(frame) for frame in frames] == [[frame] for frame in frames]
    assert deinterlacer.rest() == []


def test_a_frame_has_the_same_neighbours_wherever_the_filter_began():
    modes = ["tff", "tff", "prog", "prog", "prog", "tff", "tff", "tff"]
    from_the_start = through_filter(marked(range(8), modes))
    from_the_middle = through_filter(marked(range(3, 8), modes))
    for ours, theirs in zip(from_the_middle[1:], from_the_start[4:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def marked(numbers, modes):
    """Frames of noise that say of themselves what fields they have."""
    frames = []
    for number in numbers:
        graph = Graph()
        source = graph.add_buffer(width=64, height=48, format="yuv420p", time_base=NTSC)
        field = graph.add("setfield", modes[number])
        graph.link_nodes(source, field, graph.add("buffersink")).configure()
        frame = av.VideoFrame.from_ndarray(noise(number, 48, 64), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = 1001 * number, NTSC
        graph.push(frame)
        frames.append(graph.pull())
    return frames


def through_filter(frames):
    deinterlacer = Deinterlacer()
    done = [made for frame in frames for made in deinterlacer.frames(frame)]
    return [made.to_ndarray() for made in [*done, *deinterlacer.rest()]]


@pytest.mark.parametrize("order", [("plain", "fields"), ("fields", "plain")])
def test_progressive_frames_beside_interlaced_ones_are_untouched(tmp_path, order):
    makers = {
        "plain": lambda path: Clip(
            size=(48, 128), pts=PTS, options={"qp": "0", "bf": "0"}, image=noise
        ).write(path),
        "fields": lambda path: interlaced(path),
    }
    parts = [makers[kind](tmp_path / f"{kind}.ts").read_bytes() for kind in order]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    with FileSource(joined) as source, FileSource(joined, deinterlace=False) as raw:
        ours, theirs = list(source), list(raw)
    assert [frame.pts for frame in ours] == [frame.pts for frame in theirs]
    plain = slice(12) if order[0] == "plain" else slice(12, None)
    for frame, before in zip(ours[plain], theirs[plain], strict=True):
        np.testing.assert_array_equal(frame.image, before.image)
    fields = ours[slice(12) if order[0] == "fields" else slice(12, None)]
    assert len(fields) == 12
    for index, frame in list(enumerate(fields))[1:]:  # behind the cut its neighbour is of no use
        assert np.abs(frame.image.astype(int) - bar(2 * index, 48, 128)).max() <= 1
