"""The nodes by the names that workflows use."""

from __future__ import annotations

from typing import Any

from .loader_nodes import Loader, Unload
from .state_nodes import CreateState, ExtractState, LoadState, SaveState
from .upscale_nodes import ProcessFrame, Upscale
from .video_node import UpscaleVideo

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
