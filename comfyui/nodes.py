"""Lists all ComfyUI nodes, and defines those for stream states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StreamDiffVSRError
from . import host
from .host import explained
from .inputs import ADVANCED, SEED, SEEDS, STATE_TYPE, node, widget
from .loader import Loader, Unload
from .upscale import ProcessFrame, Upscale, UpscaleVideo

if TYPE_CHECKING:
    from .run import NodeState

ENDING = ".safetensors"
PREFIX = "StreamDiffVSR/state"
PREFIX_TIP = "Start of the file name, with subfolders if wanted. A number is added."
SEED_TIP = "Seed of the model's random noise. Used only if frames are connected."


@node("Create Stream-DiffVSR State", outputs={"state": STATE_TYPE}, category=ADVANCED)
class CreateState:
    """Create the state for the start of a video. With a frame and its upscaled version connected:
    the state after that frame."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {},
            "optional": {
                "initial_frame": (
                    "IMAGE",
                    {"tooltip": "The previous frame, upscaled. The last of a batch is used."},
                ),
                "initial_lq_frame": (
                    "IMAGE",
                    {"tooltip": "The same frame before upscaling, a quarter as wide and high."},
                ),
                "seed": ("INT", {**SEED[1], "tooltip": SEED_TIP}),
                "frame_index": widget(
                    "INT",
                    1,
                    "Number of the next frame, from 0. Used only if frames are connected.",
                    min=0,
                    max=2**31 - 1,
                ),
            },
        }

    @explained
    def run(
        self,
        initial_frame: Any = None,
        initial_lq_frame: Any = None,
        seed: int = 0,
        frame_index: int = 1,
    ) -> tuple[NodeState]:
        from ..runtime.state import StreamState
        from .run import NodeState

        if initial_frame is None and initial_lq_frame is None:
            return (NodeState(StreamState()),)
        hr, lr = _pair(initial_frame, initial_lq_frame)
        stream = StreamState(seed % SEEDS, frame_index, previous_hr=hr, previous_lr=lr)
        return (NodeState.after(stream),)


@node(
    "Extract Stream-DiffVSR State",
    outputs={
        "previous_hq": "IMAGE",
        "previous_lq": "IMAGE",
        "frame_index": "INT",
        "has_previous": "BOOLEAN",
    },
    category=ADVANCED,
)
class ExtractState:
    """Return what a state contains: the last output frame and input frame (black if there are
    none), and the number of the next frame."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"state": (STATE_TYPE, {"tooltip": "The state to read."})}}

    @explained
    def run(self, state: NodeState) -> tuple[Any, Any, int, bool]:
        import torch

        from ..runtime.stages import to_uint8
        from .run import from_frame

        stream = state.stream
        black = torch.zeros(1, 64, 64, 3)
        hr = black if stream.previous_hr is None else from_frame(to_uint8(stream.previous_hr))
        lr = black if stream.previous_lr is None else from_frame(stream.previous_lr)
        return hr, lr, stream.frame_index, stream.has_previous


@node("Save Stream-DiffVSR State", outputs={"path": "STRING"}, output_node=True, category=ADVANCED)
class SaveState:
    """Save a state to a file in ComfyUI's output folder, so that the next part of the video can be
    upscaled later, or outside ComfyUI."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        name = {"default": PREFIX, "tooltip": PREFIX_TIP}
        return {
            "required": {
                "state": (STATE_TYPE, {"tooltip": "The state to save."}),
                "filename_prefix": ("STRING", name),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @explained
    def run(
        self, state: NodeState, filename_prefix: str, unique_id: str | None = None
    ) -> tuple[str]:
        prefix = filename_prefix.strip() or PREFIX
        path = host.numbered_output(prefix, ENDING, state.stream.size or (0, 0))
        state.stream.save(path)
        host.Progress(1, unique_id).say(str(path))
        return (str(path),)


@node("Load Stream-DiffVSR State", outputs={"state": STATE_TYPE}, category=ADVANCED)
class LoadState:
    """Load a state that Save Stream-DiffVSR State has saved."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tip = "Path of the state file, or its name in ComfyUI's output or input folder."
        return {"required": {"path": widget("STRING", "", tip)}}

    @classmethod
    def IS_CHANGED(cls, path: str) -> float:
        """Returns the file's time, as another file of the same name is another state."""
        return _found(path).stat().st_mtime

    @classmethod
    def VALIDATE_INPUTS(cls, path: Any = None) -> bool | str:
        """Returns True or what is wrong with the path; one from another node is not known yet."""
        if isinstance(path, str) and not _found(path).is_file():
            return f"no state file {path!r:.200}; give the path that Save State has returned"
        return True

    @explained
    def run(self, path: str) -> tuple[NodeState]:
        from ..runtime.state import StreamState
        from .run import NodeState

        return (NodeState.after(StreamState.load(_found(path))),)


def _found(path: str) -> Path:
    name = Path(path).expanduser()
    folders = (host.output_folder(), host.input_folder())
    return next((folder / name for folder in folders if (folder / name).is_file()), name)


def _pair(upscaled: Any, frame: Any) -> tuple[Any, Any]:
    """Returns the last frames of two IMAGEs in the form of a state.

    Returns:
        HR (1, 3, 4h, 4w) float32 in [-1, 1] and LR (h, w, 3) uint8 RGB.

    Raises:
        StreamDiffVSRError: One is not connected, or the sizes do not match.
    """
    from ..graphs.spec import SCALE
    from .run import size_of, to_frame

    if upscaled is None or frame is None:
        raise StreamDiffVSRError(
            "a state needs both frames",
            f"{'initial_frame' if upscaled is None else 'initial_lq_frame'} is not connected",
            "connect the upscaled frame and the one it was made of, or neither",
        )
    (height, width), (h, w) = size_of(upscaled), size_of(frame)
    if (height, width) != (SCALE * h, SCALE * w):
        raise StreamDiffVSRError(
            "the two frames of a state do not belong together",
            f"{width}x{height} is not four times {w}x{h}",
            "connect an upscaled frame and the one it was made of",
        )
    hr = upscaled[-1, ..., :3].float().cpu().permute(2, 0, 1)[None] * 2 - 1
    return hr.contiguous().numpy(), to_frame(frame[-1])


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    "StreamDiffVSR_Loader": Loader,
    "StreamDiffVSR_Upscale": Upscale,
    "StreamDiffVSR_UpscaleVideo": UpscaleVideo,
    "StreamDiffVSR_ProcessFrame": ProcessFrame,
    "StreamDiffVSR_CreateState": CreateState,
    "StreamDiffVSR_ExtractState": ExtractState,
    "StreamDiffVSR_SaveState": SaveState,
    "StreamDiffVSR_LoadState": LoadState,
    "StreamDiffVSR_Unload": Unload,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    name: cls.DISPLAY_NAME for name, cls in NODE_CLASS_MAPPINGS.items()
}
