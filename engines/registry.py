"""The backends, and the choice of the best one that works on this machine.

A new backend is one entry of `BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..errors import OR_DOCTOR, StreamDiffVSRError, UsageError, option, without
from ..graphs.program import program_file
from ..graphs.spec import GraphSpec, onnx_file
from . import tensorrt_backend
from .cuda_device import CudaDevice
from .host import FLOATS, FP8, check_gpu, cuda_gpu, why_no_gpu
from .interface import Engine, HostArray, StagedEngine, kind_of, ordinal_of
from .manifest import EngineKey, Target
from .onnxruntime_backend import why_no_cuda_provider
from .parity import Run, run_on_host
from .tensorrt_build import RTX_CAPABILITIES, load_library
from .tensorrt_engine import Scratch
from .torch_backend import TorchEngine, torch_obstacle, torch_version

Fraction = Callable[[float], None]


def _open_ort(folder: Path, spec: GraphSpec, device: str, scratch: Scratch | None) -> Engine:
    from .onnxruntime_backend import OrtEngine

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
            f"a list of compute capabilities is of {option('backend', 'tensorrt-rtx')} alone",
            "other backends run on whatever GPU is there",
        )
    return Target()


def _torch_target(capabilities: tuple[int, ...] | None, precision: str, device: str) -> Target:
    return replace(_no_target(capabilities, precision, device), library=torch_version())


def _no_level(asked: int | None) -> None:
    if asked is not None:
        both = option("backend", "tensorrt", "tensorrt-rtx", between="and")
        raise UsageError(
            f"optimization levels are of {both} alone",
            "other backends run graphs as they are exported",
            f"{without('optimization_level')}, or name one of those backends",
        )


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a graph.

    Attributes:
        module: The module that must be importable.
        packages: Distributions that provide it, any one of which may be installed.
        extra: The extra of this package that installs it.
        devices: The kinds of device it runs on.
        open: (engine folder, graph, device, scratch memory to share or None) -> engine.
        compile: Replaces a graph's ONNX files by its engine: (folder, graph, key, scratch memory in
            bytes or None, progress as a fraction); None if the exported file itself is run.
        target: (compute capabilities or None for the usual, precision, device) -> what its engines
            depend on there.
        level: (requested optimization level or None) -> the level to build engines at, None for the
            library's own.
        obstacle: (key, device) -> why such engines cannot run there, or an empty string.
        scratch: device -> memory that the engines of one lane share; None if each has its own.
        file: graph name -> the file of that graph in a set.
        precisions: The precisions that its engines can compute in.
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
        """Returns how the parity gate runs an engine on a device once, on host arrays."""
        return run_on_host if kind_of(device) == "cpu" else partial(_run_on_gpu, device)


def _run_on_gpu(
    device: str, engine: Engine, inputs: Mapping[str, HostArray], outputs: Mapping[str, HostArray]
) -> None:
    """Runs an engine on a GPU once, from host arrays to host arrays."""
    run_on_host(StagedEngine(CudaDevice(ordinal_of(device)), engine), inputs, outputs)


def _tensorrt(name: str, packages: tuple[str, ...]) -> Backend:
    return Backend(
        name,
        module=name.replace("-", "_"),
        packages=packages,
        extra=name,
        devices=("cuda",),
        open=partial(tensorrt_backend.open_plan, name),
        compile=tensorrt_backend.compile_graph,
        target=partial(tensorrt_backend.target, name),
        level=partial(tensorrt_backend.optimization_level, name),
        obstacle=tensorrt_backend.obstacle,
        scratch=tensorrt_backend.make_scratch,
        file=tensorrt_backend.plan_file,
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
    """Returns whether the library of a backend is installed; it is not loaded."""
    return find_spec(backend.module) is not None


def installed_version(backend: Backend) -> str | None:
    """Returns the installed library's version, "unknown" if no package states it, or None."""
    if find_spec(backend.module) is None:
        return None
    for package in backend.packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def require_backend(name: str) -> Backend:
    """Returns the backend of this name, ready to be used.

    Raises:
        UsageError: There is no such backend.
        StreamDiffVSRError: Its library is not installed.
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


# Best first. On a CPU, torch is slower than ONNX Runtime.
ORDER = (
    ("tensorrt", "cuda"),
    ("tensorrt-rtx", "cuda"),
    ("onnxruntime", "cuda"),
    ("torch", "cuda"),
    ("onnxruntime", "cpu"),
    ("torch", "cpu"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend, precision and device of a build or a run.

    Attributes:
        device: "cpu", "cuda" or "cuda:1".
        passed_over: (backend, device, why not) of every better one, best first.
    """

    backend: str
    precision: str
    device: str
    passed_over: tuple[tuple[str, str, str], ...] = ()

    @property
    def kind(self) -> str:
        """The kind of device that the engines are for: "cpu" or "cuda", with any number dropped."""
        return kind_of(self.device)

    def describe(self) -> str:
        """Returns one line for the user."""
        line = f"backend: {self.backend} on {_called(self.device)}, {self.precision}"
        return "; ".join([line, *_grouped(self.passed_over)])


def _called(device: str) -> str:
    """Returns a device in words."""
    if device == "cpu":
        return "the CPU"
    return f"GPU {ordinal_of(device)}" if ":" in device else "the GPU"


def _grouped(passed_over: Sequence[tuple[str, str, str]]) -> list[str]:
    """Returns each reason once, with what it applies to; a reason may apply to a whole device."""
    reasons: dict[str, list[str]] = {}
    for backend, device, why in passed_over:
        shared = device != "cpu" and why == why_no_gpu(ordinal_of(device))
        reasons.setdefault(why, []).append(_called(device) if shared else f"{backend} ({device})")
    return [f"not {', '.join(dict.fromkeys(names))}: {why}" for why, names in reasons.items()]


def choose(
    backend: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    *,
    gpu: str = "cuda",
) -> Choice:
    """Chooses what the user left open; explicit choices are kept.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".
        gpu: The GPU that "auto" tries, by its name as a device.

    Raises:
        UsageError: There is no such backend, or `device` is not the name of a device.
        StreamDiffVSRError: The backend is not installed, a GPU of that number is not there, or none
            works here.
    """
    asked = None if device == "auto" else kind_of(device)
    if asked is not None:
        check_gpu(device)
    places = {"cpu": "cpu", "cuda": device if asked == "cuda" else gpu}
    if backend != "auto":
        kinds = require_backend(backend).devices
        if asked is None:
            works = (k for k in reversed(kinds) if not why_not(backend, places[k]))  # a GPU first
            device = places[next(works, kinds[0])]
        return Choice(backend, precision or default_precision(device), device)
    passed_over: list[tuple[str, str, str]] = []
    for name, kind in ORDER:
        if asked not in (None, kind):
            continue
        where = places[kind]
        why = why_not(name, where) or _why_not_in(name, precision)
        if not why:
            chosen = precision or default_precision(where)
            return Choice(name, chosen, where, tuple(passed_over))
        passed_over.append((name, where, why))
    whys = {why for _, _, why in passed_over}
    on = "" if asked is None else f" on {_called(device)}"
    raise StreamDiffVSRError(
        f"no backend works{on} here",
        next(iter(whys)) if len(whys) == 1 else "; ".join(_grouped(passed_over)),
        _remedy(asked, precision),
    )


def _remedy(kind: str | None, precision: str | None) -> str:
    if precision == FP8:
        other = option("backend", "tensorrt-rtx")
        return f"use {option('precision', 'fp16')}, or build for another machine with {other}"
    if kind == "cuda":
        return f"{without('device')}{OR_DOCTOR}"
    return f"run pip install 'streamdiffvsr[cpu]'{OR_DOCTOR}"


def default_precision(device: str) -> str:
    """Returns the precision that suits a device best."""
    return "fp32" if kind_of(device) == "cpu" else "fp16"


def why_not(name: str, device: str) -> str:
    """Returns why a backend cannot run on a device of this machine, or an empty string."""
    backend, on_gpu = BACKENDS[name], kind_of(device) == "cuda"
    if on_gpu and (obstacle := why_no_gpu(ordinal_of(device))):
        return obstacle
    if find_spec(backend.module) is None:
        return "not installed"
    if name == "onnxruntime":
        return why_no_cuda_provider() if on_gpu else _why_not_onnxruntime()
    if name == "torch":
        return _why_not_torch(ordinal_of(device)) if on_gpu else ""
    return _why_not_tensorrt(name, ordinal_of(device))


def _why_not_in(name: str, precision: str | None) -> str:
    """Returns why a backend cannot compute in fp8, or "": a build refuses other precisions."""
    lacks = precision == FP8 and FP8 not in BACKENDS[name].precisions
    return f"it has no {FP8}" if lacks else ""


def _why_not_onnxruntime() -> str:
    try:
        import onnxruntime

        offered = onnxruntime.get_available_providers()
    except Exception as error:  # a library for another platform raises anything
        return f"it does not load ({type(error).__name__})"
    provider = "CPUExecutionProvider"
    return "" if provider in offered else f"this build of it has no {provider}"


def _why_not_torch(ordinal: int) -> str:
    try:
        import torch
    except Exception as error:
        return f"it does not load ({type(error).__name__})"
    if not torch.cuda.is_available():
        return "this build of it finds no CUDA"
    count = torch.cuda.device_count()
    return "" if ordinal < count else f"it finds no cuda:{ordinal}, but {count}"


def _why_not_tensorrt(name: str, ordinal: int) -> str:
    try:
        library = load_library(name)
    except StreamDiffVSRError as error:
        return error.why or error.what
    gpu = cuda_gpu(ordinal)
    known = {f"sm{capability}" for capability in RTX_CAPABILITIES}
    if library.builds_for_named_gpus and gpu is not None and gpu.sm not in known:
        return f"it makes no plans for {gpu.sm}"
    return ""
