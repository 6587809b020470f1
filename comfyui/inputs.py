"""Defines the inputs that several nodes share, in ComfyUI's form: (type, options).

Names, order and defaults must stay: a saved workflow stores the values of widgets by their position
only. New widgets come last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..graphs.spec import DEFAULT_STEPS

Input = tuple[Any, dict[str, Any]]


def widget(kind: Any, default: object, tip: str, **limits: object) -> Input:
    """Returns an input with its default, tooltip and further options, such as its range."""
    return kind, {"default": default, **limits, "tooltip": tip}


class _Any(str):
    """A type that links to every other, as ComfyUI asks whether two types are unequal."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False


ANY_TYPE = _Any("*")
PIPE_TYPE, STATE_TYPE = "STREAM_DIFFVSR_PIPE", "STREAM_DIFFVSR_STATE"
CATEGORY, ADVANCED = "StreamDiffVSR", "StreamDiffVSR/Advanced"
FLOW_SCALES = {"auto": None, "1": 1, "1/2": 2, "1/4": 4}
SEEDS = 2**63  # the number of a stream's seeds; ComfyUI's 2**64 are taken modulo this

PIPE: Input = (PIPE_TYPE, {"tooltip": "The model, from Load Stream-DiffVSR Model."})
STEPS = widget(
    "INT",
    DEFAULT_STEPS,
    f"Denoising steps per frame. The model is made for {DEFAULT_STEPS}. Each number "
    "needs engines of its own, which are built on first use.",
    min=1,
    max=50,
)
SEED = widget(
    "INT",
    0,
    "Seed of the model's random noise. It counts only at the start of a video: a connected "
    "state with a previous frame keeps its own seed.",
    min=0,
    max=2**64 - 1,
)
GUIDANCE = widget(
    "FLOAT",
    0.0,
    "Without effect, kept for older workflows: the model has only the empty prompt, so there "
    "is nothing to guide towards.",
    min=0.0,
    max=20.0,
    step=0.5,
)
CONTROLNET = widget(
    "FLOAT",
    1.0,
    "How strongly the previous frame guides the next one. 0: each frame is upscaled by "
    "itself. 1: the usual strength.",
    min=0.0,
    max=2.0,
    step=0.1,
)
COARSE_FLOW = widget(
    "BOOLEAN",
    False,
    "Compute the optical flow at the input's size. The same as flow_scale 1/4, and only used "
    "if flow_scale is auto. It is faster, takes less memory, and is less exact. Frames must "
    "have at least 128 pixels a side.",
)
FLOW_SCALE = widget(
    list(FLOW_SCALES),
    "auto",
    "Size at which the optical flow is computed, as a fraction of the output's. 1 is exact; "
    "less is faster and takes less memory. auto: by the model and the size.",
)
NO_TEMPORAL = widget(
    "BOOLEAN",
    False,
    "Turn off the decoder's temporal processors, which use the previous frame for steadier output.",
)
SCENE_CUTS = widget(
    "BOOLEAN",
    True,
    "Detect scene cuts, and ignore the previous frame after one, so that it does not ghost.",
)
BEFORE: Input = (
    STATE_TYPE,
    {
        "tooltip": "State after the previous frames of the video. At its start connect Create "
        "Stream-DiffVSR State, or nothing where the input is optional."
    },
)
SETTINGS: dict[str, Input] = {
    "num_inference_steps": STEPS,
    "seed": SEED,
    "guidance_scale": GUIDANCE,
    "controlnet_scale": CONTROLNET,
    "force_flow_on_lq": COARSE_FLOW,
    "disable_tpm": NO_TEMPORAL,
    "flow_scale": FLOW_SCALE,
    "scene_cuts": SCENE_CUTS,
}


def chosen_flow_scale(name: str, coarse: bool) -> int | None:
    """Returns the flow scale for `build`, from the two widgets that set it."""
    return 4 if coarse and name == "auto" else FLOW_SCALES[name]


def node(
    name: str, *, outputs: dict[str, Any], output_node: bool = False, category: str = CATEGORY
) -> Callable[[type], type]:
    """Returns a decorator that makes a class with `INPUT_TYPES` and `run` a node.

    The node has ComfyUI's V1 form, which every ComfyUI reads; the newer form is still changing.

    Args:
        name: The name that users see.
        outputs: The types of the outputs by name, in order.
        output_node: Whether it runs although nothing is connected to its outputs.
        category: The menu in which users find it.
    """

    def decorate(cls: type) -> type:
        attributes: dict[str, Any] = {
            "DISPLAY_NAME": name,
            "RETURN_TYPES": tuple(outputs.values()),
            "RETURN_NAMES": tuple(outputs),
            "OUTPUT_NODE": output_node,
            "FUNCTION": "run",
            "CATEGORY": category,
            "DESCRIPTION": " ".join((cls.__doc__ or "").split()),
        }
        for key, value in attributes.items():
            setattr(cls, key, value)
        return cls

    return decorate
