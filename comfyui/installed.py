"""What a node says when it cannot run: what to install, and which widget to turn.

Knows names of modules only; none of them is imported here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..errors import StreamDiffVSRError

P = ParamSpec("P")
R = TypeVar("R")

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
ALWAYS = ("torch", "numpy", "av", "safetensors", "filelock", "platformdirs", "psutil")
# Of every backend but torch, whose engines are the networks themselves.
FOR_GRAPHS = ("onnx", "onnxscript", "onnx_graphsurgeon", "polygraphy")
# What errors call by the command line's names, and nodes by theirs.
WIDGETS = {
    "find the flow nearer to full size: 1, or 2 instead of 4": "turn force_flow_on_lq off, or set "
    "flow_scale to 1/2 or 1",
    ", or see streamdiffvsr doctor": "",
    "leave out --device": "set device to auto or cpu",
    "--device": "device",
    "--backend": "backend",
    "--precision": "dtype",
    "--flow-scale 2": "flow_scale 1/2",
    "--flow-scale 4": "flow_scale 1/4",
    "--flow-scale": "flow_scale",
    "--overwrite": "overwrite",
    "--audio": "audio",
    "--deinterlace": "deinterlace",
    "--start": "start_frame",
    "--end": "end_frame",
}
EXTRA = re.compile(r"pip install 'streamdiffvsr\[([\w-]+)\]'")
PACKAGES = {  # of the extras that are libraries of engines
    "cpu": "onnxruntime",
    "cuda": '"onnxruntime-gpu[cuda,cudnn]" cuda-bindings',
    "tensorrt": "tensorrt cuda-bindings",
    "tensorrt-rtx": "tensorrt-rtx-cu13 cuda-bindings",
}


def require(backend: str = "torch") -> None:
    """Raise StreamDiffVSRError unless all that a backend's engines are made with is installed."""
    needed = ALWAYS if backend == "torch" else ALWAYS + FOR_GRAPHS
    if missing := [name for name in needed if find_spec(name) is None]:
        raise _missing(", ".join(missing))


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """A node's function, whose errors are in the words of nodes."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise _missing(error.name or str(error)) from error
        except StreamDiffVSRError as error:
            raise StreamDiffVSRError(
                error.what, for_nodes(error.why), for_nodes(error.remedy)
            ) from error

    return run


def for_nodes(text: str) -> str:
    """What is said in the command line's words, in those of nodes."""
    for option, widget in WIDGETS.items():
        text = text.replace(option, widget)
    return EXTRA.sub(lambda found: _pip_install(PACKAGES.get(found[1])), text)


def _pip_install(packages: str | None = None) -> str:
    what = packages or f'-r "{REQUIREMENTS}"'
    return f'"{sys.executable}" -m pip install {what} and restart ComfyUI'


def _missing(names: str) -> StreamDiffVSRError:
    return StreamDiffVSRError(
        "this node cannot run yet",
        f"not installed in ComfyUI's Python: {names}",
        f"run {_pip_install()}",
    )
