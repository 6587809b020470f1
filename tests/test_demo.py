"""The demo's clip, its honesty about the weights, and (slow) all of it."""

import av
import pytest

from streamdiffvsr import demo
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.media.sample_clip import sample_image, write_sample_clip
from streamdiffvsr.tests.media.clips import see


def test_the_clip_moves_and_has_sound(tmp_path):
    path = write_sample_clip(tmp_path / "clip.mp4", size=(48, 80), frames=12)
    seen = see(path)
    assert len(seen.times) == 12 and float(seen.times[-1]) == pytest.approx(11 / 12)
    assert seen.length == pytest.approx(1, abs=0.05)
    assert len(seen.sounds) == 1 and len(seen.sounds[0]) > 40
    with av.open(str(path)) as container:
        kinds = [stream.codec_context.name for stream in container.streams]
    assert kinds == ["h264", "aac"]
    first, second = (sample_image(index, (48, 80)) for index in (0, 1))
    assert (first != second).any() and (sample_image(0, (48, 80)) == first).all()
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(StreamDiffVSRError, match="could not write"):
        write_sample_clip(tmp_path / "missing" / "clip.mp4")
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(StreamDiffVSRError, match="could not write"):
        write_sample_clip(tmp_path / "clip.mp4", frames=2)
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"]


def test_without_torch_it_names_the_extra(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("streamdiffvsr.host.missing_export", lambda: ["torch"])
    monkeypatch.setattr("streamdiffvsr.export.hub.BUILT_IN_FOLDER", tmp_path / "not-there")
    ran = cli("demo", "--out", tmp_path)
    assert "pip install 'streamdiffvsr[export]'" in ran.error
    assert ran.code == 1


def test_an_output_folder_that_is_a_file(cli, tmp_path):
    (tmp_path / "file").touch()
    ran = cli("demo", "--out", tmp_path / "file", "--json")
    assert "cannot make the folder" in ran.error
    assert ran.json["exit_code"] == ran.code == 1


@pytest.mark.slow
def test_the_whole_demo(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("streamdiffvsr.export.hub.BUILT_IN_FOLDER", tmp_path / "not-there")
    ran = cli("demo", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("THE WEIGHTS ARE UNTRAINED")
    seen = see(tmp_path / "out" / "clip_4x_untrained.mp4")
    source = see(tmp_path / "out" / "clip.mp4")
    assert len(seen.images) == demo.FRAMES
    assert (seen.images[0].width, seen.images[0].height) == (320, 192)
    assert seen.times == source.times and seen.sounds == source.sounds

    again = cli("demo", "--out", tmp_path / "out", "--json")
    assert (again.code, again.err) == (0, "")
    assert again.json["trained"] is False
