"""Tests what INPUT... and OUTPUT name: one job or a batch, in which order, under which names."""

from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.files.inputs import name_pairs


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def named(*inputs: object, to: object = "out", images: bool = False):
    found = name_pairs([str(one) for one in inputs], str(to), images=images)
    return found.folder, [(pair.input.name, str(pair.output)) for pair in found.pairs]


def outputs(*inputs: object, **keywords) -> list[str]:
    return [Path(output).name for _, output in named(*inputs, **keywords)[1]]


def test_a_file_is_one_job_even_if_it_is_missing(tmp_path):
    assert named(tmp_path / "no.mp4", to="a.mkv") == (None, [("no.mp4", "a.mkv")])


def test_a_name_with_brackets_that_is_there_is_no_pattern(tmp_path):
    (clip,) = touch(tmp_path, "clip [1080p].mp4")
    assert named(clip, to="a.mkv") == (None, [("clip [1080p].mp4", "a.mkv")])


def test_a_folder_of_images_is_one_job(tmp_path):
    touch(tmp_path / "frames", "2.png", "10.png", "notes.txt")
    assert named(tmp_path / "frames", to="a.mp4") == (None, [("frames", "a.mp4")])


def test_a_pattern_of_numbers_is_one_job_and_goes_by_its_folder_in_a_batch(tmp_path):
    first, second = tmp_path / "shot [1]", tmp_path / "shot 2"
    touch(first, "f_1.png", "f_2.png")
    touch(second, "f_1.png")
    assert named(first / "f_%d.png", to="a.mp4") == (None, [("f_%d.png", "a.mp4")])
    assert outputs(first / "f_%d.png", second / "f_%d.png") == ["shot [1]", "shot 2"]


def test_a_folder_of_videos_is_a_batch_in_natural_order(tmp_path):
    touch(tmp_path / "in", "shot 10.mp4", "shot 2.mov", "Shot 1.AVI", "._shot 3.mp4", "notes.txt")
    touch(tmp_path / "in" / "below", "deeper.mp4")
    folder, pairs = named(tmp_path / "in", to=tmp_path / "out")
    assert folder == tmp_path / "out" and not folder.exists()
    assert pairs == [
        ("Shot 1.AVI", str(folder / "Shot 1.mkv")),
        ("shot 2.mov", str(folder / "shot 2.mov")),
        ("shot 10.mp4", str(folder / "shot 10.mp4")),
    ]


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("a.webm", "a.webm"),
        ("a.M4V", "a.M4V"),
        ("a.ts", "a.ts"),
        ("a.wmv", "a.mkv"),
        ("a", "a.mkv"),
        ("a.b.mpg", "a.b.mkv"),
    ],
)
def test_outputs_keep_the_ending_that_can_be_kept(tmp_path, name, output):
    assert outputs(*touch(tmp_path, "other.mp4", name)) == ["other.mp4", output]


@pytest.mark.parametrize(
    "ending",
    [
        "MOD",
        "TOD",
        "m2t",
        "f4v",
        "rm",
        "rmvb",
        "qt",
        "gif",
        "264",
        "265",
        "av1",
        "obu",
        "h264",
        "hevc",
        "mk3d",
        "m2v",
        "vob",
        "wtv",
        "mxf",
        "nut",
        "y4m",
        "roq",
        "swf",
        "smk",
        "bik",
        "mjpeg",
        "MTS",
    ],
)
def test_a_folder_takes_each_ending_that_videos_have(tmp_path, ending):
    touch(tmp_path / "in", f"clip.{ending}", "notes.txt")
    assert outputs(tmp_path / "in") == ["clip.mkv"]
    assert outputs(tmp_path / "in" / "*") == ["clip.mkv"]


def test_a_pattern_may_name_an_ending_that_is_not_known(tmp_path):
    """Old games keep films in files that end like anything."""
    touch(tmp_path, "intro.cin", "logo.cin", "notes.txt", "README")
    assert outputs(tmp_path / "*.cin") == ["intro.mkv", "logo.mkv"]
    with pytest.raises(StreamDiffVSRError, match=r"no video .* matches"):
        named(tmp_path / "READ*")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("-", "could not read '-': it stands for standard input, .*save it to a file first"),
        ("rtsp://me:word@cam/1", r"could not read 'rtsp://\*\*\*@cam/1': .*streamdiffvsr live"),
        ("http://h/x.mp4?a=[1]", r"could not read 'http://h/x.mp4\?a=\[1\]': .*download it first"),
        ("file:///clips/a.mp4", "could not read 'file:///clips/a.mp4': .*name the file's path"),
    ],
)
def test_what_is_no_file_is_told_as_it_was_written(tmp_path, name, told):
    with pytest.raises(StreamDiffVSRError, match=told):
        named(name)
    with pytest.raises(StreamDiffVSRError, match=told):
        named(*touch(tmp_path, "a.mp4"), name)


@pytest.mark.parametrize(
    ("name", "told"), [("-", "standard output"), ("rtmp://h/a/key", "streamdiffvsr live")]
)
def test_an_output_is_a_file_or_a_folder(tmp_path, name, told):
    for clips in (["a.mp4"], ["a.mp4", "b.mp4"]):
        with pytest.raises(StreamDiffVSRError, match=f"could not write .*{told}") as caught:
            named(*touch(tmp_path, *clips), to=name)
        assert "key" not in str(caught.value)


def test_several_inputs_are_each_taken_once(tmp_path):
    touch(tmp_path / "in", "a.mp4", "b.mp4")
    again = tmp_path / "in" / ".." / "in" / "b.mp4"
    assert outputs(again, tmp_path / "in") == ["b.mp4", "a.mp4"]


def test_patterns_that_the_shell_has_left_alone(tmp_path, monkeypatch):
    touch(tmp_path, "b.mp4", "a10.mp4", "a9.mp4", "a.txt", "deep/c.mkv")
    touch(tmp_path / "a.mkv.unfinished", "0.png")
    monkeypatch.chdir(tmp_path)
    assert outputs("a*") == ["a9.mp4", "a10.mp4"]
    assert outputs("?.mp4") == ["b.mp4"], "one match of a pattern is a batch too"
    assert outputs("**/*.mkv") == ["c.mkv"]
    with pytest.raises(StreamDiffVSRError, match=r"'\*\.mov'.* no video .* matches"):
        named("*.mov")


def test_image_folders_in_a_batch_become_image_folders(tmp_path):
    touch(tmp_path / "shots" / "one.v2", "1.tif")
    touch(tmp_path / "shots" / "two", "1.png")
    assert outputs(str(tmp_path / "shots" / "*")) == ["one.v2", "two"]
    (clip,) = touch(tmp_path, "clip.mp4")
    assert outputs(clip, tmp_path / "shots" / "two", images=True) == ["clip", "two"]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "neither videos nor images"),
        (["notes.txt"], "neither videos nor images"),
        (["a.mp4", "cover.jpg"], r"both videos and images \(a.mp4, cover.jpg\).*\*\.mp4'"),
    ],
)
def test_folders_that_cannot_be_meant(tmp_path, files, told):
    touch(tmp_path / "in", *files)
    with pytest.raises(StreamDiffVSRError, match=f"in': it is a folder.*{told}"):
        named(tmp_path / "in")


def test_a_batch_needs_a_folder(tmp_path):
    clips = touch(tmp_path, "a.mp4", "b.mp4", "there")
    for output in ("new.mp4", "new.avi", "new.png", str(tmp_path / "there")):
        with pytest.raises(UsageError, match="2 inputs need a folder"):
            named(*clips[:2], to=output)
    assert outputs(*clips[:2], to="new.mp4/") == ["a.mp4", "b.mp4"]
    assert outputs(*clips[:2], to="out.2026") == ["a.mp4", "b.mp4"]


def test_two_inputs_with_one_output_are_told(tmp_path):
    with pytest.raises(UsageError, match=r"a.avi' and .*a.mkv' would both become .*a.mkv"):
        named(*touch(tmp_path, "a.avi", "b.avi", "a.mkv"))
    with pytest.raises(UsageError, match="would both become"):  # one name to Windows and macOS
        named(*touch(tmp_path, "one/clip.mp4", "two/Clip.mp4"))


def test_a_batch_does_not_write_over_its_inputs(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(StreamDiffVSRError, match="it is the input file itself"):
        named(tmp_path, to=tmp_path)


def test_images_of_a_sequence_are_named_by_their_folder(tmp_path):
    images = touch(tmp_path / "frames", "1.png", "2.png")
    with pytest.raises(UsageError, match=r"one image among several.*name their folder, .*frames'"):
        named(*images)
