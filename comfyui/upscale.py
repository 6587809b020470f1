"""Defines the nodes that upscale images: a batch, or one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..graphs.spec import DEFAULT_STEPS
from .host import explained
from .inputs import ADVANCED, BEFORE, PIPE, SEEDS, SETTINGS, STATE_TYPE, chosen_flow_scale, node

if TYPE_CHECKING:
    from .images import NodeState
    from .pipe import Pipe
    from .run import Settings

OF_ONE_FRAME = (
    "num_inference_steps",
    "seed",
    "controlnet_scale",
    "disable_tpm",
    "flow_scale",
    "scene_cuts",
)


@node("Stream-DiffVSR Upscale (Batch)", outputs={"images": "IMAGE", "state": STATE_TYPE})
class Upscale:
    """Upscale a batch of consecutive frames to four times their width and height. To upscale a
    video in parts, connect the state to the node for the next part; the result is the same as in
    one batch, bit for bit."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipe": PIPE,
                "images": ("IMAGE", {"tooltip": "Consecutive frames of a video, in order."}),
            },
            "optional": {
                "state": BEFORE,
                **SETTINGS,
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @explained
    def run(
        self,
        pipe: Pipe,
        images: Any,
        state: NodeState | None = None,
        unique_id: str | None = None,
        **widgets: Any,
    ) -> tuple[Any, NodeState]:
        from .run import upscale_images

        return upscale_images(pipe, images, state, settings(**widgets), unique_id)


@node(
    "Stream-DiffVSR Process Frame",
    outputs={"image": "IMAGE", "state": STATE_TYPE},
    category=ADVANCED,
)
class ProcessFrame:
    """Upscale one frame to four times its width and height; for loops. Of a batch, only the first
    frame is upscaled."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipe": PIPE,
                "image": ("IMAGE", {"tooltip": "The frame to upscale."}),
                "state": BEFORE,
            },
            "optional": {
                **{name: SETTINGS[name] for name in OF_ONE_FRAME},
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @explained
    def run(
        self,
        pipe: Pipe,
        image: Any,
        state: NodeState,
        unique_id: str | None = None,
        **widgets: Any,
    ) -> tuple[Any, NodeState]:
        from .run import upscale_images

        return upscale_images(pipe, image[:1], state, settings(**widgets), unique_id)


def settings(
    num_inference_steps: int = DEFAULT_STEPS,
    seed: int = 0,
    guidance_scale: float = 0.0,
    controlnet_scale: float = 1.0,
    force_flow_on_lq: bool = False,
    disable_tpm: bool = False,
    flow_scale: str = "auto",
    scene_cuts: bool = True,
) -> Settings:
    """Returns the settings of a run for the values of the widgets, by name."""
    from .run import Settings

    return Settings(
        steps=num_inference_steps,
        seed=seed % SEEDS,
        strength=controlnet_scale,
        flow_scale=chosen_flow_scale(flow_scale, force_flow_on_lq),
        temporal=not disable_tpm,
        scene_cuts=scene_cuts,
    )
