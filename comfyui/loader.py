"""Defines the nodes that load a model's engines, building them if necessary, and unload them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.backends import ranked_names
from ..errors import StreamDiffVSRError
from . import host
from .host import explained, faster, for_nodes, require
from .inputs import ADVANCED, ANY_TYPE, PIPE, PIPE_TYPE, node, widget

if TYPE_CHECKING:
    from .pipe import Pipe

BUILT_IN = "tiny"
RELEASED = {
    "v1": "Jamichsu/Stream-DiffVSR",
    "v1-mix-degradation": "Jamichsu/Stream-DiffVSR-Mix-Degradation",
}


def names() -> list[str]:
    """Returns the models to choose from: the released ones, the built-in one and local folders."""
    local = [entry.name for folder in host.model_folders() for entry in _folders_in(folder)]
    return list(dict.fromkeys([*RELEASED, BUILT_IN, *sorted(local)]))


def find(name: str, *, local: bool = True, fetch: bool = True) -> str:
    """Returns a model for `streamdiffvsr.build`: `tiny`, a folder, or a Hugging Face repository.

    A folder of that name in ComfyUI/models/StreamDiffVSR is preferred to a repository.

    Args:
        name: One of `names`, a folder's path, or owner/name of a repository.
        local: Whether to look in ComfyUI's models folder.
        fetch: Whether a repository may be used.

    Raises:
        StreamDiffVSRError: There is no such model, or it would have to be fetched and must not be.
    """
    if name == BUILT_IN:
        return BUILT_IN
    folders = host.model_folders()
    named = bool(name.strip(". "))  # a name like ".." would be the folder of models itself
    here = [f / name for f in folders if (f / name).is_dir()] if local and named else []
    if here or (named and Path(name).expanduser().is_dir()):
        return str(here[0] if here else Path(name).expanduser())
    where = f"put a model folder at {folders[0] / name}" if "/" not in name else "give a folder"
    repository = RELEASED.get(name, name if name.count("/") == 1 else None)
    if repository is None:
        raise StreamDiffVSRError(
            f"no model {name!r:.90}",
            f"there are {', '.join(names())}",
            f"choose one of them, or {where} (docs/models.md says what is in it)",
        )
    if not fetch:
        raise StreamDiffVSRError(
            f"model {name!r:.90} is not here",
            "use_huggingface is false, so it is not fetched",
            f"{where}, or set use_huggingface to true",
        )
    return repository


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return []


PRECISIONS = {
    "auto": None,
    "float16": "fp16",
    "bfloat16": "fp16",  # engines have no bfloat16; fp16 has as many bits and is no worse
    "float32": "fp32",
    "float8": "fp8",
}
YES_NO = ["true", "false"]
MODEL_TIP = (
    "v1: the released weights, downloaded from Hugging Face on first use (2.7 GB). "
    "v1-mix-degradation: the second released checkpoint. tiny: a small built-in model, for a first "
    "try. Others are folders in ComfyUI/models/StreamDiffVSR."
)
DEVICES = ("cuda", "cpu", "auto")
DEVICE_TIP = (
    "Where the model runs. auto: on the GPU if ComfyUI uses one, else on the CPU. cuda: on the GPU "
    "that ComfyUI uses. cuda:N: on GPU number N, from 0."
)
DTYPE = widget(
    ["float16", "bfloat16", "float32", "auto", "float8"],
    "auto",
    "Number format of the engines. auto: float16 on a GPU. A CPU always computes in float32. "
    "bfloat16 runs as float16. float8 needs TensorRT and a recent GPU.",
)
LOCAL = widget(
    YES_NO, "true", "Look for the model in ComfyUI/models/StreamDiffVSR before it is downloaded."
)
FETCH = widget(YES_NO, "true", "Download the model from Hugging Face if it is not here.")
BACKEND_TIP = "Library that runs the model. auto: the fastest that is installed and works."
MODEL_PATH = widget(
    "STRING",
    "",
    "A model to use instead of model_version: the path of a folder, or owner/name of a "
    "Hugging Face repository. Empty: model_version.",
)
SIDE = {"default": 0, "min": 0, "max": 7680}
WIDTH_TIP = (
    "Width of the input frames in pixels. With height, builds the engines for that size now. 0: "
    "they are built on first use."
)
HEIGHT_TIP = "Height of the input frames in pixels; see width."


@node("Load Stream-DiffVSR Model", outputs={"pipe": PIPE_TYPE})
class Loader:
    """Choose a model, and where and how it runs. Its engines are built once for each frame size: on
    first use, or here if width and height are set. That takes from half a minute to several
    minutes."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Returns the inputs; ComfyUI calls it with each page load, so new folders are found."""
        return {
            "required": {
                "model_version": widget(names(), "v1", MODEL_TIP),
                "device": widget(_devices(), "auto", DEVICE_TIP),
                "dtype": DTYPE,
            },
            "optional": {
                "use_local_models": LOCAL,
                "use_huggingface": FETCH,
                "backend": widget(["auto", *ranked_names()], "auto", BACKEND_TIP),
                "model_path": MODEL_PATH,
                "width": ("INT", {**SIDE, "tooltip": WIDTH_TIP}),
                "height": ("INT", {**SIDE, "tooltip": HEIGHT_TIP}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        model_version: str,
        model_path: str | None = "",
        use_local_models: str = "true",
        use_huggingface: str = "true",
        device: str | None = "auto",
    ) -> bool | str:
        """Returns True, or what to do about a missing model or GPU, before anything runs."""
        if device is not None and device not in _devices():
            return f"no device {device!r:.20} here; choose among {', '.join(_devices())}"
        try:
            _find(model_version, model_path, use_local_models, use_huggingface)
        except StreamDiffVSRError as error:
            return str(error)
        return True

    @explained
    def run(
        self,
        model_version: str,
        device: str,
        dtype: str,
        use_local_models: str = "true",
        use_huggingface: str = "true",
        backend: str = "auto",
        model_path: str = "",
        width: int = 0,
        height: int = 0,
        unique_id: str | None = None,
    ) -> tuple[Pipe]:
        _check_sides(width, height)
        require(backend)
        from ..engines.registry import choose
        from ..export.model_source import resolve_model
        from .pipe import EngineWish, Pipe

        own = host.own_gpu()
        if device == "auto" and host.torch_device().type == "cpu":
            device = "cpu"
        elif device == "cuda":
            device = own
        precision = PRECISIONS[dtype] if device != "cpu" else "fp32"
        choice = choose(backend, precision, device, gpu=own)
        require(choice.backend)
        model = _find(model_version, model_path, use_local_models, use_huggingface)
        progress = host.Progress(1, unique_id)
        facts = (f"model {model}", for_nodes(choice.describe()), faster(choice))
        progress.say("; ".join(filter(None, facts)))
        resolve_model(model)  # fetches it
        pipe = Pipe(model, choice)
        if width and height:
            pipe.upscaler(EngineWish((height, width)), unique_id)
        return (pipe,)


@node("Unload Stream-DiffVSR", outputs={"value": ANY_TYPE}, output_node=True, category=ADVANCED)
class Unload:
    """Free the memory of a model's engines, once what is connected to `after` is done. They are
    loaded again on the next use."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"pipe": PIPE},
            "optional": {
                "after": (
                    ANY_TYPE,
                    {"tooltip": "Any output that must be finished first. It is passed on."},
                )
            },
        }

    @explained
    def run(self, pipe: Pipe, after: Any = None) -> tuple[Any]:
        pipe.unload()
        host.make_room(0)
        return (after,)


def _devices() -> list[str]:
    """Returns the devices to choose from, with GPUs by number if there are several."""
    try:
        from ..engines.host import gpu_count
    except ModuleNotFoundError:  # the requirements are missing; running the node says so
        return [*DEVICES]
    count = gpu_count()
    return [*DEVICES, *(f"cuda:{number}" for number in range(count if count > 1 else 0))]


def _check_sides(width: int, height: int) -> None:
    if bool(width) != bool(height):
        raise StreamDiffVSRError(
            f"no engines can be made for {width}x{height}",
            f"{'height' if width else 'width'} is 0",
            "give both sides of the input, or leave both 0",
        )


def _find(version: str, path: str | None, local: str, fetch: str) -> str:
    name = (path or "").strip() or version
    return find(name, local=local == "true", fetch=fetch == "true")
