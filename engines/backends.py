"""The backends by name: what each needs installed, and how it opens a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..errors import StreamDiffVSRError, UsageError
from ..graph_set import onnx_file
from ..spec import GraphSpec
from .protocol import Engine


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a graph.

    Attributes:
        module: The import that must exist.
        packages: Distributions that provide it, any one of which may be installed.
        extra: The extra of this package that installs it.
        open: (engine folder, graph, device) -> engine; None where this version cannot run it yet.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    extra: str
    open: Callable[[Path, GraphSpec, str], Engine] | None


def _open_ort(folder: Path, spec: GraphSpec, device: str) -> Engine:
    from .ort import OrtEngine

    return OrtEngine(folder / onnx_file(spec.name), spec, device)


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("onnxruntime", "onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "cpu", _open_ort),
        Backend("tensorrt", "tensorrt", ("tensorrt",), "tensorrt", None),
        Backend("tensorrt-rtx", "tensorrt_rtx", ("tensorrt-rtx-cu13",), "tensorrt-rtx", None),
        Backend("torch", "torch", ("torch",), "export", None),
    )
}


def installed_version(backend: Backend) -> str | None:
    """Version of the installed library, or None."""
    if find_spec(backend.module) is None:
        return None
    for package in backend.packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def require_backend(name: str) -> Backend:
    """The backend of this name, ready to be used.

    Raises:
        UsageError: There is no such backend.
        StreamDiffVSRError: Its library is not installed, or this version cannot run it.
    """
    backend = BACKENDS.get(name)
    if backend is None:
        raise UsageError(f"unknown backend {name!r}", remedy=f"use one of {', '.join(BACKENDS)}")
    if backend.open is None:
        usable = ", ".join(b.name for b in BACKENDS.values() if b.open is not None)
        raise StreamDiffVSRError(
            f"backend {name} cannot be built by this version",
            "it is not implemented yet",
            f"use --backend {usable}",
        )
    if find_spec(backend.module) is None:
        raise StreamDiffVSRError(
            f"backend {name} is not installed",
            f"there is no module {backend.module}",
            f"run pip install 'streamdiffvsr[{backend.extra}]'",
        )
    return backend
