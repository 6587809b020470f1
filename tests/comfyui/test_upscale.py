"""Upscale and ProcessFrame: the API's frames, however the batch is cut; progress; Cancel."""

import numpy as np
import pytest
import torch

from streamdiffvsr.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
from streamdiffvsr.comfyui.run import to_frame
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.frame_stream import CutDetector
from streamdiffvsr.runtime.state import StreamState
from streamdiffvsr.runtime.upscaler import load
from streamdiffvsr.tests.comfyui.contract import Interrupted, widgets_of
from streamdiffvsr.tests.comfyui.doubles import Remembering


def images_of(frames):
    """Returns frames of eight bits as the IMAGE that ComfyUI's own nodes make of them."""
    return torch.stack([torch.from_numpy(frame) / 255.0 for frame in frames])


def frames_of(images):
    """Returns an IMAGE as the frames of eight bits that ComfyUI's own nodes save."""
    return [np.clip(255.0 * image.numpy(), 0, 255).astype(np.uint8) for image in images]


def upscale(pipe, frames, **inputs):
    return NODES["StreamDiffVSR_Upscale"]().run(pipe=pipe, images=images_of(frames), **inputs)


def assert_same(found, expected):
    for a, b in zip(frames_of(found), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_is_the_api_s_stream(pipe, frames):
    images, state = upscale(pipe, frames, seed=5)
    assert_same(images, Remembering().stream(frames, StreamState(seed=5)))
    assert (state.stream.frame_index, state.stream.seed) == (4, 5)


@pytest.mark.parametrize(
    ("name", "key"), [("Upscale", "images"), ("ProcessFrame", "image"), ("UpscaleVideo", "images")]
)
def test_every_widget_is_taken_and_its_default_is_no_change(pipe, frames, name, key):
    node = NODES[f"StreamDiffVSR_{name}"]
    inputs = {widget: options["default"] for widget, _, options in widgets_of(node)}
    if name == "ProcessFrame":
        (inputs["state"],) = NODES["StreamDiffVSR_CreateState"]().run()
    images = node().run(pipe=pipe, unique_id="1", **{key: images_of(frames[:1])}, **inputs)[0]
    assert_same(images, Remembering().stream(frames[:1], StreamState()))


@pytest.mark.slow
def test_the_model_s_frames_are_the_api_s(real_pipe, parity_engines, frames):
    api = load(parity_engines)
    images, _ = upscale(real_pipe, frames, seed=5)
    assert_same(images, api.stream(frames, api.initial_state(5)))


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_where_a_batch_is_cut_makes_no_difference(pipe, frames, cut):
    """Also across a scene cut behind a frame that shows nothing, and with another seed widget."""
    other = [np.ascontiguousarray(frame[::-1, ::-1]) // 2 for frame in frames]
    scenes = [frames[0], np.zeros_like(frames[0]), other[1], other[2]]
    detector = CutDetector()
    assert [detector.is_cut(frame) for frame in scenes] == [False, False, True, False]
    whole, after = upscale(pipe, scenes, seed=3)
    first, state = upscale(pipe, scenes[:cut], seed=3)
    second, end = upscale(pipe, scenes[cut:], seed=99, state=state)
    assert torch.equal(torch.cat([first, second]), whole)
    np.testing.assert_array_equal(end.stream.previous_hr, after.stream.previous_hr)


def test_single_frames_are_the_batch(pipe, frames):
    whole, _ = upscale(pipe, frames, seed=2)
    (state,) = NODES["StreamDiffVSR_CreateState"]().run()
    for number, frame in enumerate(frames):
        image, state = NODES["StreamDiffVSR_ProcessFrame"]().run(
            pipe=pipe, image=images_of([frame]), state=state, seed=2
        )
        assert torch.equal(image[0], whole[number])


def test_a_state_does_not_keep_the_engines(pipe, frames):
    _, state = upscale(pipe, frames[:1])
    assert state.stream.features is None
    NODES["StreamDiffVSR_Unload"]().run(pipe=pipe)
    assert "nothing loaded" in repr(pipe)
    upscale(pipe, frames[1:2], state=state)
    assert "64x48" in repr(pipe)


def test_seeds_beyond_ours_are_taken(pipe, frames):
    _, state = upscale(pipe, frames[:1], seed=2**64 - 1)
    assert state.stream.seed == 2**63 - 1


def test_a_seed_counts_where_a_stream_begins(pipe, frames):
    (empty,) = NODES["StreamDiffVSR_CreateState"]().run()
    begun, _ = upscale(pipe, frames[:1], seed=8, state=empty)
    plain, _ = upscale(pipe, frames[:1], seed=8)
    assert torch.equal(begun, plain)


def test_strength_is_the_controlnet_s(pipe, frames):
    images, _ = upscale(pipe, frames[:3], controlnet_scale=0.5)
    api, state, expected = Remembering(), StreamState(), []
    for frame in frames[:3]:
        out, state = api.step(frame, state, guidance_scale=0.5)
        expected.append(out)
    assert_same(images, expected)


@pytest.mark.slow
def test_without_temporal_processors_only_the_decoder_changes(real_pipe, parity_engines, frames):
    """Frame 0 has no guidance; frame 1 is decoded as if it had none, and denoised as if it had."""
    on, _ = upscale(real_pipe, frames[:2])
    off, state = upscale(real_pipe, frames[:2], disable_tpm=True)
    alone, _ = upscale(real_pipe, frames[:2], disable_tpm=True, controlnet_scale=0.0)
    assert torch.equal(on[0], off[0]) and torch.equal(off[0], alone[0])
    assert not torch.equal(on[1], off[1])
    assert not torch.equal(alone[1], off[1])
    assert state.stream.frame_index == 2


def test_grey_and_alpha(pipe, frames):
    rgb = images_of(frames[:1])
    grey = rgb[..., :1]
    node = NODES["StreamDiffVSR_Upscale"]()
    plain, _ = node.run(pipe=pipe, images=rgb)
    with_alpha, _ = node.run(pipe=pipe, images=torch.cat([rgb, grey], -1))
    assert torch.equal(with_alpha, plain)
    as_grey, _ = node.run(pipe=pipe, images=grey)
    assert torch.equal(as_grey, node.run(pipe=pipe, images=grey.repeat(1, 1, 1, 3))[0])


def test_what_is_finer_than_eight_bits_is_rounded_and_clipped():
    values = torch.tensor([100.6, 100.4, -20.0, 300.0, float("nan"), 7.0]).reshape(1, 2, 3) / 255
    assert to_frame(values).tolist() == [[[101, 100, 0], [255, 0, 7]]]


def test_progress_shows_every_frame(pipe, comfy, frames):
    upscale(pipe, frames[:3], unique_id="5")
    assert [shown[:2] for shown in comfy.shown] == [(1, 3), (2, 3), (3, 3)]
    kind, picture, _ = comfy.shown[0][2]
    assert (kind, picture.size) == ("JPEG", (256, 192))


def test_cancel_ends_within_a_frame(pipe, comfy, frames):
    comfy.cancel_at = 2
    with pytest.raises(Interrupted):
        upscale(pipe, frames)
    assert len(comfy.shown) == 2
    images, _ = upscale(pipe, frames[:1])  # the pipe is as good as new
    assert len(images) == 1


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(0, 48, 64, 3), "connect an IMAGE with at least one frame"),
        (torch.zeros(48, 64, 3), "(count, height, width, channels)"),
        (torch.zeros(1, 48, 64, 2), "grey, RGB or RGBA"),
    ],
)
def test_what_is_no_image_is_told(pipe, images, says):
    with pytest.raises(StreamDiffVSRError) as told:
        NODES["StreamDiffVSR_Upscale"]().run(pipe=pipe, images=images)
    assert says in str(told.value)


def test_outputs_that_do_not_fit_in_memory_are_refused_before_any_work(pipe, comfy):
    many = torch.zeros(1, 48, 64, 3).expand(10**7, 48, 64, 3)
    with pytest.raises(StreamDiffVSRError, match="UpscaleVideo"):
        NODES["StreamDiffVSR_Upscale"]().run(pipe=pipe, images=many)
    assert comfy.shown == []
    assert "nothing loaded" in repr(pipe)  # a build would take minutes


def test_a_flow_that_is_too_coarse_for_the_frames_is_told_by_the_widgets(pipe, frames):
    with pytest.raises(StreamDiffVSRError, match="1/4 does not fit 64x48") as told:
        upscale(pipe, frames[:1], force_flow_on_lq=True)
    assert told.value.remedy == "turn force_flow_on_lq off, or set flow_scale to 1/2 or 1"
