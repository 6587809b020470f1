"""A stand-in for ComfyUI, and pipes: of a quick double, and of the recorded model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="ComfyUI's images are tensors")

from streamdiffvsr.building import provider
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.comfyui import pipe as pipes
from streamdiffvsr.comfyui.pipe import Pipe
from streamdiffvsr.engines.registry import Choice
from streamdiffvsr.tests.comfyui.contract import Comfy, install
from streamdiffvsr.tests.comfyui.doubles import Remembering

CHOICE = Choice("onnxruntime", "fp32", "cpu")


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Comfy:
    return install(monkeypatch, tmp_path / "comfyui")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the sets that a pipe has opened; each is a double, and was built before."""
    sizes: list[tuple[int, int]] = []

    def find(request: BuildRequest, size: tuple[int, int]) -> Path:
        sizes.append(size)
        return Path(str(size))

    monkeypatch.setattr(provider, "find_set", find)
    monkeypatch.setattr(pipes, "load", lambda folder, device: Remembering(sizes[-1], device))
    needs = SimpleNamespace(needs=SimpleNamespace(total=123))
    monkeypatch.setattr(pipes, "check_memory_fit", lambda folder, device: needs)
    return sizes


@pytest.fixture
def pipe(comfy: Comfy, opened: list[tuple[int, int]]) -> Pipe:
    """Returns a pipe of the double."""
    return Pipe("tiny", CHOICE)


@pytest.fixture
def real_pipe(
    comfy: Comfy, parity_model: Path, parity_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> Pipe:
    """Returns a pipe of the recorded model, for frames of 64x48 and four steps."""
    monkeypatch.setattr(provider, "find_set", lambda request, size: parity_engines)
    return Pipe(str(parity_model), CHOICE)


@pytest.fixture(scope="session")
def frames(parity_trace: dict[str, Any]) -> list[Any]:
    """Four consecutive frames (48, 64, 3) uint8 RGB."""
    return [parity_trace[f"input_u8.{number}"] for number in range(4)]
