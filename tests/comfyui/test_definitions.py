"""Nodes as ComfyUI reads them: complete, consistent, and of the form that saved workflows have."""

import inspect
import json
from pathlib import Path

import pytest

import streamdiffvsr
from streamdiffvsr.comfyui.nodes import NODE_CLASS_MAPPINGS
from streamdiffvsr.tests.comfyui.contract import widgets_of
from streamdiffvsr.tests.comfyui.real.workflow import to_prompt

ROOT = Path(streamdiffvsr.__file__).resolve().parent
NODES = NODE_CLASS_MAPPINGS.items()
# What the pack that these nodes follow shows, in the order in which workflows keep their values.
BEFORE = {
    "StreamDiffVSR_Loader": "model_version device dtype use_local_models use_huggingface",
    "StreamDiffVSR_Upscale": "num_inference_steps seed guidance_scale controlnet_scale "
    "force_flow_on_lq disable_tpm",
    "StreamDiffVSR_ProcessFrame": "num_inference_steps seed",
    "StreamDiffVSR_UpscaleVideo": "video_path output_path frames_per_batch start_frame end_frame "
    "num_inference_steps seed guidance_scale controlnet_scale force_flow_on_lq",
}
OUTPUTS_BEFORE = {
    "StreamDiffVSR_Loader": ["STREAM_DIFFVSR_PIPE"],
    "StreamDiffVSR_Upscale": ["IMAGE", "STREAM_DIFFVSR_STATE"],
    "StreamDiffVSR_ProcessFrame": ["IMAGE", "STREAM_DIFFVSR_STATE"],
    "StreamDiffVSR_CreateState": ["STREAM_DIFFVSR_STATE"],
    "StreamDiffVSR_ExtractState": ["IMAGE", "IMAGE", "INT", "BOOLEAN"],
    "StreamDiffVSR_UpscaleVideo": ["IMAGE", "STRING"],
}
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))


@pytest.mark.parametrize(("name", "node"), NODES)
def test_a_node_is_complete(comfy, name, node):
    inputs = node.INPUT_TYPES()
    taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    for group in ("required", "optional"):
        for key, (kind, options) in inputs.get(group, {}).items():
            assert open_ended or key in taken
            assert options["tooltip"].endswith("."), key
            if isinstance(kind, list):
                assert options["default"] in kind
            if kind in ("INT", "FLOAT"):
                assert options["min"] <= options["default"] <= options["max"]
    for key in inputs.get("hidden", {}):
        assert key in taken
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    assert node.CATEGORY.split("/")[0] == "StreamDiffVSR"
    assert node.DISPLAY_NAME and node.DESCRIPTION.endswith(".")


@pytest.mark.parametrize("name", BEFORE)
def test_saved_values_of_widgets_stay_in_their_places(comfy, name):
    order = [widget for widget, _, _ in widgets_of(NODE_CLASS_MAPPINGS[name])]
    before = BEFORE[name].split()
    assert order[: len(before)] == before


@pytest.mark.parametrize("name", OUTPUTS_BEFORE)
def test_links_of_saved_workflows_find_their_outputs(name):
    before = OUTPUTS_BEFORE[name]
    assert list(NODE_CLASS_MAPPINGS[name].RETURN_TYPES[: len(before)]) == before


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_fits_the_nodes(comfy, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    ours = [node for node in workflow["nodes"] if node["type"] in NODE_CLASS_MAPPINGS]
    info = {name: {"input": node.INPUT_TYPES()} for name, node in NODES}
    prompt = to_prompt({"nodes": ours, "links": workflow["links"]}, info)
    assert len(prompt) >= 2
    for made in prompt.values():
        node = NODE_CLASS_MAPPINGS[made["class_type"]]
        for widget, kind, options in widgets_of(node):
            assert widget in made["inputs"], f"{made['class_type']} is saved without {widget}"
            value = made["inputs"][widget]
            if isinstance(kind, list):
                assert value in kind
            else:
                assert type(value) is type(options["default"]), widget
        assert set(node.INPUT_TYPES()["required"]) <= set(made["inputs"])


def test_there_are_examples_with_pictures():
    names = {"simple_video", "chunked_with_state", "frame_by_frame", "before_after"}
    assert {path.stem for path in EXAMPLES} == names
    for name in names:
        assert (ROOT / "docs" / "images" / f"comfyui-{name}.png").is_file()
        assert (ROOT / "example_workflows" / f"{name}.jpg").is_file()
