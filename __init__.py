"""streamdiffvsr: 4x video super-resolution as the video arrives.

This folder is the package, and also a ComfyUI custom node. Importing it is cheap on purpose:
nothing here loads numpy, torch or an engine library before a name that needs it is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .building.builder import build as build
    from .building.provider import adaptive as adaptive
    from .errors import StreamDiffVSRError as StreamDiffVSRError
    from .runtime.state import StreamState as StreamState
    from .runtime.upscaler import Upscaler as Upscaler
    from .runtime.upscaler import load as load

# Public name -> the module that defines it. pytest imports this file as a module called
# ``__init__``, so an eager relative import here would break collection.
_LAZY = {
    "adaptive": ".building.provider",
    "build": ".building.builder",
    "load": ".runtime.upscaler",
    "Upscaler": ".runtime.upscaler",
    "StreamState": ".runtime.state",
    "StreamDiffVSRError": ".errors",
}
_NODES = ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS")


def __getattr__(name: str) -> object:
    if name in _NODES:
        # ComfyUI imports this folder by its path; its modules still need one common name.
        sys.modules.setdefault("streamdiffvsr", sys.modules[__name__])
        return getattr(import_module("streamdiffvsr.comfyui.nodes"), name)
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], "streamdiffvsr"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
