"""UpscaleVideo: from file to file, as the command line does it; Cancel; videos in memory."""

import av
import numpy as np
import pytest
import torch

from streamdiffvsr.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
from streamdiffvsr.comfyui.run import video_file, write_lossless
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.tests.comfyui.contract import Interrupted, VideoFromFile, components
from streamdiffvsr.tests.comfyui.doubles import Remembering
from streamdiffvsr.tests.comfyui.real.inputs import frames_of, sound_of, write_clip
from streamdiffvsr.tests.comfyui.test_upscale import images_of
from streamdiffvsr.tests.media.clips import see, write_image
from streamdiffvsr.tests.media.sounding import with_sound

NODE = NODES["StreamDiffVSR_UpscaleVideo"]


@pytest.fixture
def clip(comfy):
    path = comfy.folder / "input" / "clip.mp4"
    write_clip(path, 6, (48, 64))
    return path


def sound():
    return {"waveform": torch.zeros(1, 2, 8000), "sample_rate": 8000}


def test_the_file_is_the_command_line_s(pipe, clip, comfy, tmp_path):
    told = NODE().run(pipe=pipe, video=VideoFromFile(str(clip)), seed=3, unique_id="2")
    images, path, video = told["result"]
    assert path == video.file == str(comfy.folder / "output" / "clip_4x_00001_.mp4")
    assert "use the output `video`" in images.message
    assert told["ui"]["images"] == [
        {"filename": "clip_4x_00001_.mp4", "subfolder": "", "type": "output"}
    ]
    upscale_file(clip, tmp_path / "api.mp4", Remembering(), FileOptions(seed=3))
    np.testing.assert_array_equal(frames_of(path), frames_of(tmp_path / "api.mp4"))
    assert sound_of(path) == sound_of(clip) != []
    assert [shown[0] for shown in comfy.shown] == [1, 2, 3, 4, 5, 6]
    assert comfy.shown[0][2][1].size == (256, 192)


def test_the_order_of_fields_can_be_forced(pipe, clip, comfy, tmp_path):
    """The result is the command line's; a file that does not mention fields is left as it is."""
    made = {}
    for mode in ("auto", "tff"):
        NODE().run(pipe=pipe, video_path="clip.mp4", output_path=f"{mode}.mkv", deinterlace=mode)
        upscale_file(clip, tmp_path / f"{mode}.mkv", Remembering(), FileOptions(deinterlace=mode))
        made[mode] = frames_of(comfy.folder / "output" / f"{mode}.mkv")
        np.testing.assert_array_equal(made[mode], frames_of(tmp_path / f"{mode}.mkv"))
    assert not np.array_equal(made["auto"], made["tff"])


def test_sound_is_encoded_anew_or_left_out_as_asked_for(pipe, comfy):
    with_sound(comfy.folder / "input" / "tape.mov", "adpcm_ima_qt")
    asked = {"pipe": pipe, "video_path": "tape.mov"}
    with pytest.raises(StreamDiffVSRError, match=r"cannot hold adpcm_ima_qt .* audio transcode"):
        NODE().run(**asked, output_path="kept.mp4")
    assert not list((comfy.folder / "output").glob("kept*"))
    for audio, streams in (("transcode", 1), ("none", 0)):
        NODE().run(**asked, output_path=f"{audio}.mp4", audio=audio)
        assert len(see(comfy.folder / "output" / f"{audio}.mp4").sounds) == streams


def test_a_part_of_a_file_by_its_name_in_the_input_folder(pipe, clip, comfy):
    told = NODE().run(
        pipe=pipe, video_path="clip.mp4", start_frame=2, end_frame=4, output_path="in/here.mkv"
    )
    path = comfy.folder / "output" / "in" / "here.mkv"
    assert told["result"][1] == str(path)
    assert len(frames_of(path)) == 3
    with FileSource(clip) as source:
        third = [frame.image for frame in source][2]
    small = frames_of(path)[0].reshape(48, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - third).mean() < 12  # this frame, noise in its corner
    with pytest.raises(StreamDiffVSRError, match="end_frame is before start_frame"):
        NODE().run(pipe=pipe, video_path="clip.mp4", start_frame=2, end_frame=1)
    with pytest.raises(StreamDiffVSRError, match="change start_frame or end_frame"):
        NODE().run(pipe=pipe, video_path="clip.mp4", start_frame=60)


def test_a_long_name_is_shortened_where_the_number_has_to_fit(pipe, clip, comfy):
    long = clip.rename(clip.with_name("a" * 251 + ".mp4"))
    told = NODE().run(pipe=pipe, video_path=long.name)
    assert told["result"][1].endswith("_4x_00001_.mp4")


@pytest.mark.parametrize("path", ["-", "http://h/clip.mp4"])
def test_what_is_no_file_is_told_as_it_was_written(pipe, comfy, path):
    with pytest.raises(StreamDiffVSRError, match=f"could not read '{path}'"):
        NODE().run(pipe=pipe, video_path=path)


def test_cancel_leaves_nothing(pipe, clip, comfy, monkeypatch):
    """Nor of what is finished already, which the command line would keep to be resumed."""
    monkeypatch.setattr("streamdiffvsr.runtime.files.checkpoint.LONGEST", 2)
    comfy.cancel_at = 5
    with pytest.raises(Interrupted):
        NODE().run(pipe=pipe, video_path=str(clip))
    assert len(comfy.shown) == 5
    assert list((comfy.folder / "output").rglob("*")) == []


def test_what_exists_is_replaced_only_if_asked(pipe, clip, comfy):
    taken = comfy.folder / "output" / "taken.mp4"
    taken.write_bytes(b"precious")
    with pytest.raises(StreamDiffVSRError, match=r"taken\.mp4"):
        NODE().run(pipe=pipe, video_path=str(clip), output_path="taken.mp4")
    assert taken.read_bytes() == b"precious"
    NODE().run(pipe=pipe, video_path=str(clip), output_path="taken.mp4", overwrite=True)
    assert len(frames_of(taken)) == 6


def test_frames_go_before_files_and_stay_frames(pipe, frames):
    images, path, video = NODE().run(
        pipe=pipe, images=images_of(frames[:2]), video_path="left from before.mp4"
    )
    assert images.shape == (2, 192, 256, 3)
    assert path == "" and "use the output `images`" in video.message


def test_a_part_of_the_frames_is_taken_and_none_is_written(pipe, frames):
    batch = images_of(frames[:3])
    whole, _, _ = NODE().run(pipe=pipe, images=batch[1:], scene_cuts=False)
    part, _, _ = NODE().run(pipe=pipe, images=batch, start_frame=1, end_frame=2, scene_cuts=False)
    assert torch.equal(part, whole)
    with pytest.raises(StreamDiffVSRError, match="there is no frame 3: images has 3"):
        NODE().run(pipe=pipe, images=batch, start_frame=3)
    with pytest.raises(StreamDiffVSRError, match="are not written to a file"):
        NODE().run(pipe=pipe, images=batch, output_path="out.mp4")


@pytest.mark.parametrize("path", ["out", "sub/", "out.gif"])
def test_an_output_is_named_like_a_video(pipe, clip, comfy, path):
    with pytest.raises(StreamDiffVSRError, match=r"its ending is not a video's; use one of \.mp4"):
        NODE().run(pipe=pipe, video_path=str(clip), output_path=path)


def test_a_folder_is_no_video(pipe, comfy, frames):
    write_image(comfy.folder / "input" / "0.png", frames[0])  # which a job could upscale
    with pytest.raises(StreamDiffVSRError, match="it is a folder; give one video"):
        NODE().run(pipe=pipe, video_path=str(comfy.folder / "input"))


def test_nothing_connected_is_told(pipe):
    with pytest.raises(StreamDiffVSRError, match="connect a video, or write its path"):
        NODE().run(pipe=pipe)


def test_frames_in_memory_reach_the_model_unchanged(tmp_path, frames):
    write_lossless(tmp_path / "video.mov", images_of(frames), 30, sound())
    with FileSource(tmp_path / "video.mov") as source:
        read = list(source)
    for frame, expected in zip(read, frames, strict=True):
        np.testing.assert_array_equal(frame.image, expected)
    assert [frame.pts * frame.time_base * 30 for frame in read] == [0, 1, 2, 3]
    with av.open(str(tmp_path / "video.mov")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"


def test_a_video_in_memory_is_upscaled_with_its_sound(pipe, comfy, frames):
    video = components(images_of(frames[:2]), 25, sound())
    _, path, _ = NODE().run(pipe=pipe, video=video, output_path="made.mp4")["result"]
    assert len(frames_of(path)) == 2
    assert sound_of(path) != []
    assert list((comfy.folder / "temp").iterdir()) == []


def test_a_part_that_another_node_has_cut_out_of_a_file_stays_a_part(comfy, clip):
    class Part(VideoFromFile):
        def get_duration(self):
            return 0.1

        def save_to(self, path):
            write_clip(path, 2, (48, 64))

    with video_file(VideoFromFile(str(clip))) as path:
        assert path == clip
    with video_file(Part(str(clip))) as path:
        assert len(frames_of(path)) == 2
    assert not path.exists()


def test_a_changed_file_is_another_video(comfy, clip):
    import os

    before = NODE.IS_CHANGED(video_path="clip.mp4", seed=0)
    os.utime(clip, (1, 1))
    assert NODE.IS_CHANGED(video_path="clip.mp4", seed=0) != before
    assert NODE.IS_CHANGED(video_path=None) == 0.0


@pytest.mark.parametrize("path", ["../above.mp4", "/tmp/elsewhere.mp4", "in/../../above.mp4"])
def test_nothing_is_written_outside_the_output_folder(pipe, clip, comfy, path):
    with pytest.raises(StreamDiffVSRError, match="outside ComfyUI's output folder"):
        NODE().run(pipe=pipe, video_path=str(clip), output_path=path, overwrite=True)
    assert not list(comfy.folder.glob("*.mp4"))
