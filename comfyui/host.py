"""Calls ComfyUI itself: progress, cancellation, folders and memory."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..engines.backends import BACKENDS
from ..errors import StreamDiffVSRError, Words, speaking

if TYPE_CHECKING:
    from ..engines.registry import Choice

LOG = logging.getLogger("streamdiffvsr")
MODELS = "StreamDiffVSR"  # the folder under ComfyUI/models, and its key in extra_model_paths.yaml
PREVIEW_PIXELS = 512  # the longer side; ComfyUI shows no more by default
PREVIEW_EVERY_S = 0.1  # the least time from one preview to the next


def model_folders() -> list[Path]:
    """Returns the folders of this pack's models: ComfyUI/models/StreamDiffVSR, and the user's."""
    paths = import_module("folder_paths")
    paths.add_model_folder_path(MODELS, str(Path(paths.models_dir) / MODELS))
    return [Path(folder) for folder in paths.get_folder_paths(MODELS)]


def output_folder() -> Path:
    """Returns ComfyUI's output folder."""
    return Path(import_module("folder_paths").get_output_directory())


def input_folder() -> Path:
    """Returns ComfyUI's input folder."""
    return Path(import_module("folder_paths").get_input_directory())


def temporary_folder() -> Path:
    """Returns ComfyUI's folder for temporary files, which is created if it is missing."""
    folder = Path(import_module("folder_paths").get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def numbered_output(prefix: str, ending: str, size: tuple[int, int] = (0, 0)) -> Path:
    """Returns the path of a new file in the output folder, named as ComfyUI's Save nodes do.

    Args:
        prefix: A name; it may have subfolders and ComfyUI's %placeholders%.
        ending: The file extension, with its dot.
        size: (height, width), for %height% and %width%.
    """
    height, width = size
    folder, name, counter, _, _ = import_module("folder_paths").get_save_image_path(
        prefix, str(output_folder()), width, height
    )
    return Path(folder) / f"{name}_{counter:05}_{ending}"


def torch_device() -> Any:
    """Returns the torch device on which ComfyUI computes."""
    return import_module("comfy.model_management").get_torch_device()


def image_device() -> Any:
    """Returns the torch device on which ComfyUI keeps the images between nodes."""
    return import_module("comfy.model_management").intermediate_device()


def own_gpu() -> str:
    """Returns the name of the GPU that ComfyUI uses, such as "cuda:1"; "cuda" if it uses none.

    torch and CUDA number the GPUs of a process alike.
    """
    device = torch_device()
    return f"cuda:{device.index}" if device.type == "cuda" and device.index else "cuda"


def make_room(needed: float | None = None, gpu: str | None = None) -> None:
    """Makes ComfyUI free memory for engines, which its own accounting does not include.

    Args:
        needed: The bytes that must be free; None frees all that it can.
        gpu: The GPU, such as "cuda:1"; None is the device on which ComfyUI computes.
    """
    memory = import_module("comfy.model_management")
    device = torch_device() if gpu is None else import_module("torch").device(gpu)
    memory.free_memory(1e30 if needed is None else needed, device)
    memory.soft_empty_cache()


def stop_if_cancelled() -> None:
    """Raises ComfyUI's own exception if the user has pressed Cancel."""
    import_module("comfy.model_management").throw_exception_if_processing_interrupted()


def video_from_file(path: Path) -> Any:
    """Returns a file as a VIDEO."""
    try:
        return import_module("comfy_api.latest").InputImpl.VideoFromFile(str(path))
    except (ImportError, AttributeError):  # before the versioned interface
        return import_module("comfy_api.input_impl").VideoFromFile(str(path))


def frames_of(video: Any) -> Any:
    """Returns the components of a VIDEO that is in memory; None if it is a file."""
    kind = import_module("comfy_api.input_impl").VideoFromComponents
    return video.get_components() if isinstance(video, kind) else None


def is_whole(video: Any, path: str) -> bool:
    """Returns whether a VIDEO is all of its file, not a part that another node has cut out."""
    whole = video_from_file(Path(path)).get_duration()
    return bool(abs(video.get_duration() - whole) < 1e-3)


def blocked(message: str) -> Any:
    """Returns an output without a value; the nodes that need it stop with this message."""
    return import_module("comfy_execution.graph").ExecutionBlocker(message)


class Progress:
    """The progress of a node: its bar, a line of text, and the last frame as a preview.

    Every call raises ComfyUI's own exception if the user has pressed Cancel.

    Args:
        total: The number of frames or steps.
        node: The id of the node; None shows no text.
    """

    def __init__(self, total: int, node: str | None = None) -> None:
        self._bar = import_module("comfy.utils").ProgressBar(total, node_id=node)
        self._node, self._shown = node, float("-inf")

    def frames(self, done: int, total: int | None = None, frame: Any = None) -> None:
        """Moves the bar.

        Args:
            done: The number of frames done.
            total: The number of all frames; None keeps the number given before.
            frame: The frame to preview, (H, W, 3) uint8 RGB, or None.
        """
        stop_if_cancelled()
        self._bar.update_absolute(done, total, None if frame is None else self._preview(frame))

    def say(self, line: str) -> None:
        """Shows a line of text in the log, and on the node if this ComfyUI can do that."""
        stop_if_cancelled()
        if not line.endswith("%"):  # only a percentage has changed
            LOG.info(line)
        server: Any = getattr(import_module("server").PromptServer, "instance", None)
        if self._node is not None and hasattr(server, "send_progress_text"):
            server.send_progress_text(line, self._node)

    def _preview(self, frame: Any) -> tuple[str, Any, int] | None:
        now = time.monotonic()
        if now - self._shown < PREVIEW_EVERY_S:
            return None
        self._shown = now
        step = -(-max(frame.shape[:2]) // PREVIEW_PIXELS)
        image = import_module("PIL.Image").fromarray(frame[::step, ::step].copy())
        return "JPEG", image, PREVIEW_PIXELS


P = ParamSpec("P")
R = TypeVar("R")

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
INSTALL = REQUIREMENTS.with_name("install.py")
ALWAYS = ("torch", "numpy", "av", "safetensors", "filelock", "msgspec", "platformdirs", "psutil")
# Also needed by every backend but torch, whose engines are the networks themselves.
FOR_GRAPHS = ("onnx", "onnxscript", "onnx_graphsurgeon", "polygraphy")
# The widget and its names of values, by the option of a build or a job.
WIDGETS: dict[str, tuple[str, dict[str, str]]] = {
    "device": ("device", {}),
    "backend": ("backend", {}),
    "precision": ("dtype", {"fp16": "float16", "fp32": "float32", "fp8": "float8"}),
    "flow_scale": ("flow_scale", {"2": "1/2", "4": "1/4"}),
    "overwrite": ("overwrite", {"True": ""}),
    "audio": ("audio", {}),
    "deinterlace": ("deinterlace", {}),
    "start": ("start_frame", {}),
    "end": ("end_frame", {}),
}
LEFT_OUT = {"device": "set device to auto or cpu"}
EXTRA = re.compile(r"pip install 'streamdiffvsr\[([\w-]+)\]'")


def require(backend: str = "torch") -> None:
    """Raises StreamDiffVSRError unless all that a backend needs to build engines is installed."""
    needed = ALWAYS if backend == "torch" else ALWAYS + FOR_GRAPHS
    if missing := [name for name in needed if find_spec(name) is None]:
        raise _missing(", ".join(missing))


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """Returns a node's function with its errors in the words of nodes."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with speaking(Nodes()):
            try:
                return function(*args, **kwargs)
            except ModuleNotFoundError as error:
                raise _missing(error.name or str(error)) from error
            except StreamDiffVSRError as error:  # rendered here, while `speaking` is in effect
                raise StreamDiffVSRError(error.what, error.why, error.remedy) from error

    return run


class Nodes(Words):
    """Writes options as widgets, and installs packages into ComfyUI's own Python."""

    def said(self, text: str) -> str:
        return EXTRA.sub(lambda found: _pip_install(_packages(found[1])), super().said(text))

    def option(self, name: str, value: str | None) -> str:
        widget, values = WIDGETS.get(name, (name, {}))
        plain = (value or "").replace("'", "")
        return f"{widget} {values.get(plain, plain)}".rstrip()

    def without(self, name: str, value: str | None) -> str:
        return LEFT_OUT.get(name) or super().without(name, value)

    def command(self, line: str, value: str | None) -> str:
        node = "Load Stream-DiffVSR Model"
        return node if line.startswith("engines") else super().command(line, value)

    def also(self, name: str, value: str | None) -> str:
        return ""


def for_nodes(text: str) -> str:
    """Returns a message in the words of nodes."""
    return Nodes().said(text)


def faster(choice: Choice) -> str:
    """Returns the command that installs a faster library than what was chosen, or ""."""
    better = {name for name, _, _ in choice.passed_over}
    absent = {name for name in better if find_spec(BACKENDS[name].module) is None}
    if "onnxruntime" in absent:
        return f'for more speed run "{sys.executable}" "{INSTALL}" and restart ComfyUI'
    if choice.kind == "cuda" and "tensorrt" in absent:
        return f"for more speed run {_pip_install(_packages('tensorrt'))}"
    return ""


def _packages(extra: str) -> str | None:
    """Returns the packages of an extra that installs a backend; None for other extras."""
    rows = (backend.extras for backend in BACKENDS.values())
    return next((extras[extra] for extras in rows if extra in extras), None)


def _pip_install(packages: str | None = None) -> str:
    what = packages or f'-r "{REQUIREMENTS}"'
    return f'"{sys.executable}" -m pip install {what} and restart ComfyUI'


def _missing(names: str) -> StreamDiffVSRError:
    return StreamDiffVSRError(
        "this node cannot run yet",
        f"not installed in ComfyUI's Python: {names}",
        f"run {_pip_install()}",
    )
