"""Access to ComfyUI itself: progress, cancellation, folders and memory."""

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
from typing import Any, ParamSpec, TypeVar

from ..engines.backends import BACKENDS
from ..errors import StreamDiffVSRError, Words, speaking

LOG = logging.getLogger("streamdiffvsr")
MODELS = "StreamDiffVSR"  # the folder under ComfyUI/models, and its key in extra_model_paths.yaml
PREVIEW_PIXELS = 512  # the longer side; ComfyUI shows no more by default
PREVIEW_EVERY_S = 0.1  # faster frames do not all get a picture


def model_folders() -> list[Path]:
    """Where models of this pack may lie: ComfyUI/models/StreamDiffVSR, and what the user added."""
    paths = import_module("folder_paths")
    paths.add_model_folder_path(MODELS, str(Path(paths.models_dir) / MODELS))
    return [Path(folder) for folder in paths.get_folder_paths(MODELS)]


def output_folder() -> Path:
    """ComfyUI's output folder."""
    return Path(import_module("folder_paths").get_output_directory())


def input_folder() -> Path:
    """ComfyUI's input folder."""
    return Path(import_module("folder_paths").get_input_directory())


def temporary_folder() -> Path:
    """ComfyUI's folder of files that it removes when it starts, made if it is not there."""
    folder = Path(import_module("folder_paths").get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def numbered_output(prefix: str, ending: str, size: tuple[int, int] = (0, 0)) -> Path:
    """A new file in the output folder, named as ComfyUI's own Save nodes name theirs.

    Args:
        prefix: A name, with subfolders and ComfyUI's %placeholders% if wanted.
        size: (height, width), for %height% and %width%.
    """
    height, width = size
    folder, name, counter, _, _ = import_module("folder_paths").get_save_image_path(
        prefix, str(output_folder()), width, height
    )
    return Path(folder) / f"{name}_{counter:05}_{ending}"


def torch_device() -> Any:
    """Where ComfyUI itself computes."""
    return import_module("comfy.model_management").get_torch_device()


def image_device() -> Any:
    """Where ComfyUI wants the images that go from node to node."""
    return import_module("comfy.model_management").intermediate_device()


def own_gpu() -> str:
    """The GPU that ComfyUI computes on, as a device's name; the first where it uses none.

    torch and CUDA number GPUs alike, in one process.
    """
    device = torch_device()
    return f"cuda:{device.index}" if device.type == "cuda" and device.index else "cuda"


def make_room(needed: float | None = None, gpu: str | None = None) -> None:
    """Have ComfyUI give memory back: engines are outside its accounting.

    Args:
        needed: Bytes; None for all that it can give.
        gpu: Of which GPU, "cuda:1"; None is what ComfyUI computes on.
    """
    memory = import_module("comfy.model_management")
    device = torch_device() if gpu is None else import_module("torch").device(gpu)
    memory.free_memory(1e30 if needed is None else needed, device)
    memory.soft_empty_cache()


def stop_if_cancelled() -> None:
    """Raise ComfyUI's own exception if the user has pressed Cancel."""
    import_module("comfy.model_management").throw_exception_if_processing_interrupted()


def video_from_file(path: Path) -> Any:
    """A VIDEO that is a file."""
    try:
        return import_module("comfy_api.latest").InputImpl.VideoFromFile(str(path))
    except (ImportError, AttributeError):  # before the versioned interface
        return import_module("comfy_api.input_impl").VideoFromFile(str(path))


def frames_of(video: Any) -> Any:
    """The components of a VIDEO that is frames in memory; None if it is a file."""
    kind = import_module("comfy_api.input_impl").VideoFromComponents
    return video.get_components() if isinstance(video, kind) else None


def is_whole(video: Any, path: str) -> bool:
    """Whether a VIDEO is all of its file, and not a part that another node has cut out."""
    whole = video_from_file(Path(path)).get_duration()
    return bool(abs(video.get_duration() - whole) < 1e-3)


def blocked(message: str) -> Any:
    """An output that has no value: the nodes that need it are stopped with this message."""
    return import_module("comfy_execution.graph").ExecutionBlocker(message)


class Progress:
    """The bar of the running node, a line of text on it, and the last frame as its preview.

    Every call is a point at which Cancel is obeyed.
    """

    def __init__(self, total: int, node: str | None = None) -> None:
        self._bar = import_module("comfy.utils").ProgressBar(total, node_id=node)
        self._node, self._shown = node, float("-inf")

    def frames(self, done: int, total: int | None = None, frame: Any = None) -> None:
        """Say how many are done, of how many, and show the last: (H, W, 3) uint8 RGB."""
        stop_if_cancelled()
        self._bar.update_absolute(done, total, None if frame is None else self._preview(frame))

    def say(self, line: str) -> None:
        """Show a line of text on the node, where this ComfyUI can, and in its log."""
        stop_if_cancelled()
        if not line.endswith("%"):  # those only move
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
ALWAYS = ("torch", "numpy", "av", "safetensors", "filelock", "platformdirs", "psutil")
# Of every backend but torch, whose engines are the networks themselves.
FOR_GRAPHS = ("onnx", "onnxscript", "onnx_graphsurgeon", "polygraphy")
# By the option of a build or a job: the widget, and what its values are called there.
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
    """Raise StreamDiffVSRError unless all that a backend's engines are made with is installed."""
    needed = ALWAYS if backend == "torch" else ALWAYS + FOR_GRAPHS
    if missing := [name for name in needed if find_spec(name) is None]:
        raise _missing(", ".join(missing))


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """A node's function, whose errors are in the words of nodes."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with speaking(Nodes()):
            try:
                return function(*args, **kwargs)
            except ModuleNotFoundError as error:
                raise _missing(error.name or str(error)) from error
            except StreamDiffVSRError as error:  # in these words also behind this block
                raise StreamDiffVSRError(error.what, error.why, error.remedy) from error

    return run


class Nodes(Words):
    """Options as widgets, and packages as ComfyUI's own Python gets them."""

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
    """A message in the words of nodes."""
    return Nodes().said(text)


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
