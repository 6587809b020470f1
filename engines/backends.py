"""The backends by name: what each needs installed, how it makes an engine, and how it opens one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..errors import StreamDiffVSRError, UsageError
from ..graph_set import onnx_file
from ..program import program_file
from ..spec import GraphSpec
from . import trt_backend
from .cuda_device import CudaDevice
from .device import kind_of, ordinal_of
from .gate import Run, run_on_host
from .gpu import why_no_gpu
from .manifest import EngineKey, Target
from .ort_provider import why_no_cuda_provider
from .precision import FLOATS, FP8
from .protocol import Engine, HostArray
from .staged import StagedEngine
from .torch_engine import TorchEngine, torch_obstacle, torch_version
from .trt_engine import Scratch

Fraction = Callable[[float], None]


def _open_ort(folder: Path, spec: GraphSpec, device: str, scratch: Scratch | None) -> Engine:
    from .ort import OrtEngine

    return OrtEngine(folder / onnx_file(spec.name), spec, device)


def _open_torch(folder: Path, spec: GraphSpec, device: str, scratch: Scratch | None) -> Engine:
    return TorchEngine(folder, spec, device)


def _ort_obstacle(key: EngineKey, device: str) -> str:
    if key.device == "cpu":
        return ""
    return why_no_gpu(ordinal_of(device)) or why_no_cuda_provider()


def _no_target(capabilities: tuple[int, ...] | None, precision: str, device: str) -> Target:
    if capabilities is not None:
        raise UsageError(
            "a list of compute capabilities is of --backend tensorrt-rtx alone",
            "other backends run on whatever GPU is there",
        )
    return Target()


def _torch_target(capabilities: tuple[int, ...] | None, precision: str, device: str) -> Target:
    return replace(_no_target(capabilities, precision, device), library=torch_version())


def _no_level(asked: int | None) -> None:
    if asked is not None:
        raise UsageError(
            "optimization levels are of --backend tensorrt and tensorrt-rtx alone",
            "other backends run graphs as they are exported",
            "leave out --optimization-level, or name one of those backends",
        )


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a graph.

    Attributes:
        module: The import that must exist.
        packages: Distributions that provide it, any one of which may be installed.
        extra: The extra of this package that installs it.
        devices: Where it runs.
        open: (engine folder, graph, device, scratch memory to share or None) -> engine.
        compile: Replaces a graph's ONNX files by its engine: (folder, graph, key, scratch memory in
            bytes or None, progress as a fraction); None where what was exported is run.
        target: (compute capabilities or None for the usual, precision, device) -> what its engines
            depend on there.
        level: (optimization level that was asked for, or None) -> the one to build engines at, None
            for the library's own.
        obstacle: (key, device) -> why such engines cannot run there, or an empty string.
        scratch: device -> memory that the engines of one lane share; None where each has its own.
        file: The file that a set has for a graph of this name.
        precisions: What its engines can compute in.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    extra: str
    devices: tuple[str, ...]
    open: Callable[[Path, GraphSpec, str, Scratch | None], Engine]
    compile: Callable[[Path, GraphSpec, EngineKey, int | None, Fraction], None] | None = None
    target: Callable[[tuple[int, ...] | None, str, str], Target] = _no_target
    level: Callable[[int | None], int | None] = _no_level
    obstacle: Callable[[EngineKey, str], str] = lambda key, device: ""
    scratch: Callable[[str], Scratch] | None = None
    file: Callable[[str], str] = onnx_file
    precisions: tuple[str, ...] = FLOATS

    @staticmethod
    def run(device: str) -> Run:
        """How an engine on a device is run once on host arrays, for the parity gate."""
        return run_on_host if kind_of(device) == "cpu" else partial(_run_on_gpu, device)


def _run_on_gpu(
    device: str, engine: Engine, inputs: Mapping[str, HostArray], outputs: Mapping[str, HostArray]
) -> None:
    """Run an engine of a GPU once, from host arrays to host arrays."""
    run_on_host(StagedEngine(CudaDevice(ordinal_of(device)), engine), inputs, outputs)


def _tensorrt(name: str, packages: tuple[str, ...]) -> Backend:
    return Backend(
        name,
        module=name.replace("-", "_"),
        packages=packages,
        extra=name,
        devices=("cuda",),
        open=partial(trt_backend.open_plan, name),
        compile=trt_backend.compile_graph,
        target=partial(trt_backend.target, name),
        level=partial(trt_backend.optimization_level, name),
        obstacle=trt_backend.obstacle,
        scratch=trt_backend.make_scratch,
        file=trt_backend.plan_file,
        precisions=(*FLOATS, FP8),
    )


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "onnxruntime",
            "onnxruntime",
            ("onnxruntime-gpu", "onnxruntime"),
            "cpu",
            ("cpu", "cuda"),
            _open_ort,
            obstacle=_ort_obstacle,
        ),
        _tensorrt("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
        _tensorrt("tensorrt-rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx")),
        Backend(
            "torch",
            "torch",
            ("torch",),
            "export",
            ("cpu", "cuda"),
            _open_torch,
            target=_torch_target,
            obstacle=torch_obstacle,
            file=program_file,
        ),
    )
}


def is_installed(backend: Backend) -> bool:
    """Whether the library of a backend is there; it is not loaded."""
    return find_spec(backend.module) is not None


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
    if find_spec(backend.module) is None:
        raise StreamDiffVSRError(
            f"backend {name} is not installed",
            f"there is no module {backend.module}",
            f"run pip install 'streamdiffvsr[{backend.extra}]'",
        )
    return backend
