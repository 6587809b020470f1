"""The inputs that several nodes share, in ComfyUI's form: (type, options).

The names, their order and their defaults are those of workflows that exist: a saved workflow keeps
the values of widgets by their place alone. What is new here comes after what was there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..graphs.spec import DEFAULT_STEPS

Input = tuple[Any, dict[str, Any]]


class _Any(str):
    """A type that links to every other: ComfyUI asks whether two types are unequal."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False


ANY_TYPE = _Any("*")
PIPE_TYPE, STATE_TYPE = "STREAM_DIFFVSR_PIPE", "STREAM_DIFFVSR_STATE"
CATEGORY, ADVANCED = "StreamDiffVSR", "StreamDiffVSR/Advanced"
FLOW_SCALES = {"auto": None, "1": 1, "1/2": 2, "1/4": 4}
SEEDS = 2**63  # a stream's seed; ComfyUI's go to 2**64, and are folded

PIPE: Input = (PIPE_TYPE, {"tooltip": "From Load Stream-DiffVSR Model."})
STEPS: Input = (
    "INT",
    {
        "default": DEFAULT_STEPS,
        "min": 1,
        "max": 50,
        "tooltip": f"Denoising steps. The model is made for {DEFAULT_STEPS}; another number builds "
        "other engines.",
    },
)
SEED: Input = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": 2**64 - 1,
        "tooltip": "Of the noise. It counts where a stream begins: a connected state that has a "
        "previous frame goes on with its own.",
    },
)
GUIDANCE: Input = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": 20.0,
        "step": 0.5,
        "tooltip": "Kept for workflows that have it: without effect, because the model's only "
        "prompt is the empty one, so there is nothing to guide between.",
    },
)
CONTROLNET: Input = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.0,
        "max": 2.0,
        "step": 0.1,
        "tooltip": "How strongly the previous frame guides this one; 0 upscales each by itself.",
    },
)
COARSE_FLOW: Input = (
    "BOOLEAN",
    {
        "default": False,
        "tooltip": "Find the optical flow at the input's size: flow_scale 1/4, if that is auto. "
        "Faster, and less memory; frames of less than 128 pixels a side are too small for it.",
    },
)
FLOW_SCALE: Input = (
    list(FLOW_SCALES),
    {
        "default": "auto",
        "tooltip": "Where the optical flow is found, as a part of the output's size. auto: exact "
        "where it fits, 1/2 for large inputs.",
    },
)
NO_TEMPORAL: Input = (
    "BOOLEAN",
    {
        "default": False,
        "tooltip": "Leave out the decoder's temporal processors, which use the previous frame.",
    },
)
SCENE_CUTS: Input = (
    "BOOLEAN",
    {"default": True, "tooltip": "Forget the previous frame at a scene cut, so it does not ghost."},
)
BEFORE: Input = (
    STATE_TYPE,
    {"tooltip": "What the frames before these have left; nothing at the start of a video."},
)
# How frames are upscaled, wherever more than one is.
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


def flow_scale(name: str, coarse: bool) -> int | None:
    """The flow's scale as `build` takes it, from the two widgets that set it."""
    return 4 if coarse and name == "auto" else FLOW_SCALES[name]


def node(
    name: str, *, outputs: dict[str, Any], output_node: bool = False, category: str = CATEGORY
) -> Callable[[type], type]:
    """A class with `INPUT_TYPES` and `run` as a node in ComfyUI's V1 form.

    That form is read by every ComfyUI there is, while the newer one is not settled yet.

    Args:
        name: What users see.
        outputs: Types by name, in order.
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
