"""Interlaced video: pictures without combs, each at its time; progressive video untouched."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph

from streamdiffvsr.runtime.media import picture_child
from streamdiffvsr.runtime.media.picture_child import Deinterlacer, Fields
from streamdiffvsr.runtime.media.reader import FileSource
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
    with FileSource(path) as source, FileSource(path, deinterlace="off") as raw:
        told = [(frame.pts, frame.duration) for frame in source]
        assert told == [(frame.pts, frame.duration) for frame in raw]
    assert len(told) == len(PTS)


def test_it_can_be_left_as_it_is(tmp_path):
    path = interlaced(tmp_path / "fields.mkv")
    with FileSource(path, deinterlace="off") as source:
        for index, frame in enumerate(source):
            np.testing.assert_allclose(frame.image, woven(index, 48, 128), atol=1)
        assert source.info.interlaced


def test_a_still_picture_loses_nothing(tmp_path):
    still = np.random.default_rng(0).integers(0, 255, (48, 128), dtype=np.uint8)
    path = interlaced(tmp_path / "still.mkv", image=lambda index, h, w: np.dstack([still] * 3))
    with FileSource(path) as source, FileSource(path, deinterlace="off") as raw:
        pairs = list(zip(source, raw, strict=True))
    for frame, before in pairs[1:-1]:
        np.testing.assert_array_equal(frame.image, before.image)


def test_progressive_frames_never_meet_the_filter(monkeypatch):
    monkeypatch.setattr(picture_child, "Graph", None)
    deinterlacer = Deinterlacer(Fields())
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
    deinterlacer = Deinterlacer(Fields())
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
    with FileSource(joined) as source, FileSource(joined, deinterlace="off") as raw:
        ours, theirs = list(source), list(raw)
    assert [frame.pts for frame in ours] == [frame.pts for frame in theirs]
    plain = slice(12) if order[0] == "plain" else slice(12, None)
    for frame, before in zip(ours[plain], theirs[plain], strict=True):
        np.testing.assert_array_equal(frame.image, before.image)
    fields = ours[slice(12) if order[0] == "fields" else slice(12, None)]
    assert len(fields) == 12
    for index, frame in list(enumerate(fields))[1:]:  # behind the cut its neighbour is of no use
        assert np.abs(frame.image.astype(int) - bar(2 * index, 48, 128)).max() <= 1


UPPER, LOWER, PROGRESSIVE = 2, 3, 1
CAPTURE = Clip(size=(48, 128), pts=PTS, codec="huffyuv", pix_fmt="yuv422p", options={})


def combing(path, **asked) -> float:
    """Returns the largest difference between neighbouring lines in the frames read of a capture."""
    with FileSource(path, **asked) as source:
        images = [frame.image.astype(int) for frame in source]
    assert len(images) == len(PTS)
    return max(np.abs(image[1:] - image[:-1]).max() for image in images)


def wrong(path, **asked) -> float:
    """Returns how far the frames read of it are from the pictures of their first fields."""
    with FileSource(path, **asked) as source:
        frames = list(source)
    assert len(frames) == len(PTS)
    return max(
        np.abs(f.image.astype(int) - bar(2 * i, 48, 128)).max() for i, f in enumerate(frames)
    )


@pytest.mark.parametrize(
    ("name", "codec", "order", "image"),
    [
        ("capture.mkv", "mjpeg", UPPER, woven_upper_first),
        ("capture.mkv", "mjpeg", LOWER, woven),
        ("capture.mov", "mjpeg", LOWER, woven),
        ("capture.y4m", "wrapped_avframe", UPPER, woven_upper_first),
    ],
)
def test_the_order_that_only_the_container_tells(tmp_path, name, codec, order, image):
    form = "yuvj422p" if codec == "mjpeg" else "yuv422p"
    options = {"qmin": "1", "qmax": "1"} if codec == "mjpeg" else {}
    clip = replace(
        CAPTURE, codec=codec, pix_fmt=form, field_order=order, image=image, options=options
    )
    path = clip.write(tmp_path / name)
    with FileSource(path) as source:
        assert source.info.interlaced
    near = 12 if codec == "mjpeg" else 2
    assert wrong(path) <= near
    assert wrong(path, deinterlace="on") <= near
    assert combing(path, deinterlace="off") > 200


@pytest.mark.parametrize(("order", "image"), [("tff", woven_upper_first), ("bff", woven)])
def test_a_capture_that_says_nothing_is_deinterlaced_as_asked(tmp_path, order, image):
    path = replace(CAPTURE, image=image).write(tmp_path / "capture.avi")
    with FileSource(path) as source:
        assert not source.info.interlaced
    assert combing(path) > 200
    assert wrong(path, deinterlace=order) <= 2
    assert (wrong(path, deinterlace="on") <= 2) == (order == "tff"), "the upper field goes first"
    with FileSource(path, deinterlace=order) as whole:
        later = list(whole)[7:]
    with FileSource(path, deinterlace=order, begin=later[0].seconds) as source:
        for ours, theirs in zip(source, later, strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)


def test_frames_are_believed_before_their_container(tmp_path):
    path = replace(
        CAPTURE,
        codec="libx264",
        pix_fmt="yuv420p",
        field_order=PROGRESSIVE,
        image=woven,
        options={"qp": "0", "bf": "0", "x264-params": LINES},
    ).write(tmp_path / "fields.mkv")
    assert wrong(path) <= 1


def test_a_film_on_dvd_is_left_whole(tmp_path):
    """Its container says that it is interlaced, while each of its frames says that it is not."""
    path = replace(
        CAPTURE,
        codec="mpeg2video",
        pix_fmt="yuv420p",
        field_order=UPPER,
        image=lambda index, height, width: noise(0, height, width),
        options={"qmin": "1", "qmax": "1"},
        time_base=Fraction(1, 30),
        pts=range(12),
    ).write(tmp_path / "film.mkv")
    with FileSource(path) as source, FileSource(path, deinterlace="off") as raw:
        for frame, before in zip(source, raw, strict=True):
            np.testing.assert_array_equal(frame.image, before.image)
        assert not source.info.interlaced


def test_true_and_false_are_understood_as_ever(tmp_path):
    path = replace(CAPTURE, codec="wrapped_avframe", field_order=LOWER, image=woven).write(
        tmp_path / "capture.y4m"
    )
    assert wrong(path, deinterlace=True) <= 2
    assert combing(path, deinterlace=False) > 200
    with pytest.raises(ValueError, match="one of auto, on, off, tff, bff"):
        FileSource(path, deinterlace="yes")
