"""The nodes that make, look into, save and load a state."""

import numpy as np
import pytest
import torch

from streamdiffvsr.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.comfyui.test_upscale import images_of, upscale


def run(name, **inputs):
    return NODES[f"StreamDiffVSR_{name}"]().run(**inputs)


def test_the_empty_state(comfy):
    (state,) = run("CreateState")
    hr, lr, index, has_previous = run("ExtractState", state=state)
    assert (index, has_previous) == (0, False)
    assert hr.shape == lr.shape == (1, 64, 64, 3)


def test_what_a_state_holds_is_the_last_output_and_input(pipe, frames):
    images, state = upscale(pipe, frames[:2])
    hr, lr, index, has_previous = run("ExtractState", state=state)
    assert torch.equal(hr[0], images[-1])
    assert torch.equal(lr, images_of(frames[1:2]))
    assert (index, has_previous) == (2, True)


def test_a_state_from_a_frame_and_its_upscaled_one_guides_the_next(pipe, frames):
    images, state = upscale(pipe, frames[:1], seed=4)
    (made,) = run(
        "CreateState",
        initial_frame=images,
        initial_lq_frame=images_of(frames[:1]),
        seed=4,
        frame_index=1,
    )
    next_by_made, _ = upscale(pipe, frames[1:2], state=made)
    next_by_state, _ = upscale(pipe, frames[1:2], state=state)
    # An IMAGE is rounded and clipped, a state is not.
    assert (next_by_made - next_by_state).abs().mean() < 0.02
    assert run("ExtractState", state=made)[2:] == (1, True)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"initial_frame": (192, 256)}, "initial_lq_frame is not connected"),
        ({"initial_lq_frame": (48, 64)}, "initial_frame is not connected"),
        (
            {"initial_frame": (192, 250), "initial_lq_frame": (48, 64)},
            "250x192 is not four times 64x48",
        ),
    ],
)
def test_half_a_pair_is_told(comfy, inputs, says):
    with pytest.raises(StreamDiffVSRError) as told:
        run("CreateState", **{name: torch.zeros(1, *size, 3) for name, size in inputs.items()})
    assert says in str(told.value)


def test_a_saved_state_goes_on_as_the_one_in_memory(pipe, comfy, frames):
    _, state = upscale(pipe, frames[:2], seed=6)
    (path,) = run("SaveState", state=state, filename_prefix="states/here")
    name = "states/here_00001_.safetensors"
    assert path == str(comfy.folder / "output" / name)
    (loaded,) = run("LoadState", path=name)
    np.testing.assert_array_equal(loaded.scene, state.scene)
    saved, _ = upscale(pipe, frames[2:], state=loaded)
    kept, _ = upscale(pipe, frames[2:], state=state)
    assert torch.equal(saved, kept)


def test_where_a_state_is_saved_is_shown(pipe, comfy, frames):
    _, state = upscale(pipe, frames[:1])
    (path,) = run("SaveState", state=state, filename_prefix=" ", unique_id="4")
    assert path.endswith("state_00001_.safetensors")  # never a hidden file
    assert comfy.said[-1] == path


def test_a_state_of_other_frames_is_refused_with_scene_cuts_too(pipe, comfy, frames):
    _, state = upscale(pipe, frames[:1])
    wider = torch.zeros(1, 48, 80, 3)
    for cuts in (True, False):
        with pytest.raises(StreamDiffVSRError, match=r"frames of 64x48: these are 80x48.*none"):
            NODES["StreamDiffVSR_Upscale"]().run(
                pipe=pipe, images=wider, state=state, scene_cuts=cuts
            )


def test_a_state_file_that_is_not_there_is_told_before_anything_runs(comfy):
    node = NODES["StreamDiffVSR_LoadState"]
    assert node.VALIDATE_INPUTS(path=None) is True  # it comes from another node
    assert "give the path that Save State has returned" in str(node.VALIDATE_INPUTS(path="gone"))


def test_a_changed_state_file_is_read_again(pipe, comfy, frames):
    _, state = upscale(pipe, frames[:1])
    (path,) = run("SaveState", state=state, filename_prefix="s")
    node = NODES["StreamDiffVSR_LoadState"]
    before = node.IS_CHANGED(path=path)
    import os

    os.utime(path, (1, 1))
    assert node.IS_CHANGED(path=path) != before
