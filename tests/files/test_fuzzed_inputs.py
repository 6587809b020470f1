"""Every odd input ends in a right file or in one clear line, in time, and leaves nothing behind."""

import os
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.files.upscale import upscale_file
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.files import odd_damage, odd_joins
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.files.odd_inputs import INPUTS

assert odd_damage and odd_joins  # importing them has filled the list
LONGEST_S = 60


def times_in(path: Path) -> list[Fraction | None]:
    """The time of every frame that plain PyAV gets out of a file, stepping over what it cannot."""
    times: list[int | None] = []
    with av.open(str(path), metadata_errors="replace") as container:
        cover = av.stream.Disposition.attached_pic
        picture = next(s for s in container.streams.video if not s.disposition & cover)
        for _ in range(40):  # a demuxer that fails often goes on behind it
            try:
                for packet in container.demux(picture):
                    times.extend(frame.pts for frame in decoded(packet))
                break
            except (av.error.FFmpegError, IndexError):
                continue
        return [None if pts is None else pts * picture.time_base for pts in times]


def decoded(packet) -> list:
    try:
        return packet.decode()
    except (av.error.FFmpegError, IndexError):
        return []


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_an_odd_input_ends_in_a_right_file_or_in_one_clear_line(tmp_path, name):
    odd = INPUTS[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source, output = odd.make(tmp_path / "in"), tmp_path / "out" / "result.mp4"
    started, error = time.monotonic(), ""
    try:
        report = upscale_file(source, output, Nearest(probe(source).size))
    except StreamDiffVSRError as caught:
        error = str(caught)
    assert time.monotonic() - started < LONGEST_S
    if error:
        print(error)
        assert odd.outcome != "file", error
        assert "\n" not in error
        assert not output.exists()
        return
    assert odd.outcome != "error"
    print(report.frames, report.damaged, report.retimed, report.notes)
    assert os.listdir(output.parent) == [output.name]
    made = times_in(output)
    assert len(made) == report.frames
    assert all(later > earlier for earlier, later in pairwise(made))
    if source.is_dir():
        assert made == [Fraction(k, 24) for k in range(len(list(source.iterdir())))]
        return
    given = times_in(source)
    assert len(made) == len(given)
    if None not in given and all(later > earlier for earlier, later in pairwise(given)):
        before = min(given[0], 0)  # players show nothing before zero: what begins there is moved
        assert made == [at - before for at in given]
