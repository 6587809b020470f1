"""ComfyUI's documented call contract, for machines that have no ComfyUI: only what the nodes call.

The real one is tried by `python -m streamdiffvsr.tests.comfyui.real`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import pytest


class Interrupted(Exception):
    """ComfyUI's InterruptProcessingException."""


@dataclass
class Comfy:
    """The part of ComfyUI that it stands in for, as a test sees it.

    Attributes:
        folder: With input, output, temp and models in it.
        shown: (done, total, preview or None) of every update of a progress bar.
        freed: Bytes that were asked of `free_memory`, in order, and `freed_on` of which devices.
        device: What it computes on; None is the CPU.
        cancel_at: The update of a bar at which the user presses Cancel.
    """

    folder: Path
    shown: list[tuple[int, int, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    freed: list[float] = field(default_factory=list)
    freed_on: list[Any] = field(default_factory=list)
    device: Any = None
    cancel_at: int | None = None

    def throw_if_interrupted(self) -> None:
        if self.cancel_at is not None and len(self.shown) >= self.cancel_at:
            self.cancel_at = None  # as in ComfyUI: it is raised once
            raise Interrupted


class VideoFromFile:
    def __init__(self, file: str) -> None:
        self.file = file

    def get_stream_source(self) -> str:
        return self.file

    def get_duration(self) -> float:
        with av.open(self.file) as container:
            assert container.duration is not None
            return container.duration / av.time_base


@dataclass
class VideoFromComponents:
    components: Any

    def get_components(self) -> Any:
        return self.components


class ExecutionBlocker:
    def __init__(self, message: str | None) -> None:
        self.message = message


def components(images: Any, rate: int, audio: Any = None) -> VideoFromComponents:
    """A VIDEO that other nodes have made."""
    return VideoFromComponents(
        SimpleNamespace(images=images, frame_rate=Fraction(rate), audio=audio)
    )


def install(patch: pytest.MonkeyPatch, folder: Path) -> Comfy:
    """Put the modules in place until the patch is undone."""
    comfy = Comfy(folder)
    for name in ("input", "output", "temp", "models"):
        (folder / name).mkdir(parents=True)
    modules: dict[str, dict[str, Any]] = {
        "folder_paths": _folder_paths(folder),
        "comfy": {},
        "comfy.utils": {"ProgressBar": _progress_bar(comfy)},
        "comfy.model_management": _model_management(comfy),
        "comfy_api": {},
        "comfy_api.latest": {"InputImpl": SimpleNamespace(VideoFromFile=VideoFromFile)},
        "comfy_api.input_impl": {"VideoFromComponents": VideoFromComponents},
        "comfy_execution": {},
        "comfy_execution.graph": {"ExecutionBlocker": ExecutionBlocker},
        "server": {"PromptServer": SimpleNamespace(instance=_Server(comfy))},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        patch.setitem(sys.modules, name, module)
    return comfy


@dataclass
class _Server:
    comfy: Comfy

    def send_progress_text(self, text: str, node: str) -> None:
        self.comfy.said.append(text)


def _progress_bar(comfy: Comfy) -> type:
    class ProgressBar:
        def __init__(self, total: int, node_id: str | None = None) -> None:
            self.total = total

        def update_absolute(
            self, value: int, total: int | None = None, preview: Any = None
        ) -> None:
            self.total = self.total if total is None else total
            comfy.shown.append((value, self.total, preview))

    return ProgressBar


def _model_management(comfy: Comfy) -> dict[str, Any]:
    import torch

    cpu = torch.device("cpu")

    def free_memory(needed: float, device: Any) -> None:
        comfy.freed.append(needed)
        comfy.freed_on.append(device)

    return {
        "get_torch_device": lambda: comfy.device or cpu,
        "intermediate_device": lambda: cpu,
        "free_memory": free_memory,
        "soft_empty_cache": lambda: None,
        "throw_exception_if_processing_interrupted": comfy.throw_if_interrupted,
    }


def _save_image_path(prefix: str, output: str, width: int = 0, height: int = 0) -> Any:
    path = Path(output, prefix)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(list(path.parent.glob(f"{path.name}_*"))) + 1
    return str(path.parent), path.name, count, "", prefix


def _folder_paths(folder: Path) -> dict[str, Any]:
    known: dict[str, list[str]] = {}

    def add(name: str, path: str) -> None:
        if path not in known.setdefault(name, []):
            known[name].append(path)

    return {
        "models_dir": str(folder / "models"),
        "add_model_folder_path": add,
        "get_folder_paths": lambda name: known[name],
        "get_output_directory": lambda: str(folder / "output"),
        "get_input_directory": lambda: str(folder / "input"),
        "get_temp_directory": lambda: str(folder / "temp"),
        "get_save_image_path": _save_image_path,
    }


def widgets_of(node: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, type and options of what a node shows as widgets, in the page's order."""
    kinds = {"INT", "FLOAT", "STRING", "BOOLEAN"}
    inputs = node.INPUT_TYPES()
    for group in ("required", "optional"):
        for name, (kind, options) in inputs.get(group, {}).items():
            if isinstance(kind, list) or kind in kinds:
                yield name, kind, options
