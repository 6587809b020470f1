"""Names as long as the disk allows: names of files next to an output are shortened for it."""

import os
from pathlib import Path

import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.durable import beside
from streamdiffvsr.runtime.files.compare import sheet_of
from streamdiffvsr.runtime.files.journal import folder_of, frames_kept
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.state import StreamState
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.files.films import film
from streamdiffvsr.tests.media.clips import Clip

LONGEST, CUT = 255, 40
WIDE = "\N{CINEMA}"  # four bytes, two units of UTF-16


def long_name(letter: str, ending: str, length: int = LONGEST) -> str:
    letters = (length - len(ending)) // len(os.fsencode(letter))
    return letters * letter + ending


class Stopped(Nearest):
    """Is stopped behind the scene cut."""

    def step(self, frame, state):
        if state.frame_index == CUT + 10:
            raise KeyboardInterrupt
        return super().step(frame, state)


@pytest.mark.slow
@pytest.mark.parametrize("letter", ["a", WIDE])
def test_a_job_is_stopped_and_gone_on_with_under_the_longest_name(tmp_path, letter):
    source = film(tmp_path / "in.mp4", CUT + 12, [CUT])
    output = tmp_path / long_name(letter, ".mkv")
    with pytest.raises(KeyboardInterrupt):
        upscale_file(source, output, Stopped())
    assert frames_kept(output) == CUT
    assert not output.exists()
    report = upscale_file(source, output, Nearest(), FileOptions(resume=True))
    assert (report.frames, report.resumed_at) == (CUT + 12, CUT)
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", output.name}


def test_images_replace_those_of_the_longest_name(tmp_path):
    source, output = Clip().write(tmp_path / "in.mp4"), tmp_path / long_name("f", "")
    options = FileOptions(images="png", max_frames=2, overwrite=True)
    for _ in range(2):
        assert upscale_file(source, output, Nearest(), options).frames == 2
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", output.name}
    assert len(list(output.iterdir())) == 2


def test_a_name_that_no_disk_takes_is_one_clear_line(tmp_path):
    source = Clip().write(tmp_path / "in.mp4")
    for output in (
        tmp_path / long_name("a", ".mp4", LONGEST + 1),
        tmp_path / long_name("a", "", LONGEST + 1) / "out.mp4",
        tmp_path.joinpath(*["folder"] * 900, "out.mp4"),
    ):
        with pytest.raises(StreamDiffVSRError, match="its name is too long for the disk"):
            upscale_file(source, output, Nearest())
    with pytest.raises(StreamDiffVSRError, match="its name is too long for any file"):
        upscale_file(tmp_path / long_name("a", ".mp4", LONGEST + 1), tmp_path / "o.mp4", Nearest())
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4"}


def test_what_lies_beside_two_long_names_is_never_the_same(tmp_path):
    outputs = [tmp_path / long_name("a", f"{ending}.mkv") for ending in ("x", "y")]
    first, second = map(folder_of, outputs)
    assert first != second
    assert first.name.endswith(".unfinished")
    assert folder_of(outputs[0]) == first
    assert folder_of(Path("short.mkv")) == Path("short.mkv.unfinished")
    for name in (first, second, sheet_of(tmp_path / long_name("a", ".ts"))):
        name.mkdir()
    half = beside(tmp_path / long_name(WIDE, ".mkv"), ".", ".part")
    half.touch()
    assert half.name.startswith("." + WIDE)


def test_states_and_later_files_of_a_stream_fit_too(tmp_path):
    path = tmp_path / long_name("a", ".state")
    StreamState(seed=3).save(path)
    assert StreamState.load(path).seed == 3
    target = parse_target(str(tmp_path / long_name("a", ".mkv")))
    target.next_file().touch()
    assert target.next_file().name.endswith("-3.mkv")
