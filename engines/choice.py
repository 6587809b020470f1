"""Which backend runs here: the best that works, and why each better one does not.

Asks libraries only when their turn comes: loading torch takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import StreamDiffVSRError, UsageError
from .backends import BACKENDS, require_backend
from .gpu import cuda_gpu, why_no_gpu
from .precision import FP8
from .trt_build import RTX_CAPABILITIES
from .trt_library import load_library

# Best first. On a CPU torch is the reference, and slower than ONNX Runtime.
ORDER = (
    ("tensorrt", "cuda"),
    ("tensorrt-rtx", "cuda"),
    ("onnxruntime", "cuda"),
    ("torch", "cuda"),
    ("onnxruntime", "cpu"),
    ("torch", "cpu"),
)
ON = {"cpu": "the CPU", "cuda": "the GPU"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a build or a run uses.

    Attributes:
        passed_over: (backend, device, why not) of every better one, best first.
    """

    backend: str
    precision: str
    device: str
    passed_over: tuple[tuple[str, str, str], ...] = ()

    def describe(self) -> str:
        """One line for the user."""
        line = f"backend: {self.backend} on {ON[self.device]}, {self.precision}"
        return "; ".join([line, *_grouped(self.passed_over)])


def _grouped(passed_over: Sequence[tuple[str, str, str]]) -> list[str]:
    """What does not work, once for each reason; one reason can be that of a whole device."""
    reasons: dict[str, list[str]] = {}
    for backend, device, why in passed_over:
        shared = device == "cuda" and why == why_no_gpu()
        reasons.setdefault(why, []).append(ON[device] if shared else f"{backend} ({device})")
    return [f"not {', '.join(dict.fromkeys(names))}: {why}" for why, names in reasons.items()]


def choose(backend: str = "auto", precision: str | None = None, device: str = "auto") -> Choice:
    """Settle what the user left open; what was asked for is taken as it is.

    Raises:
        UsageError: There is no such backend or device.
        StreamDiffVSRError: The backend is not installed, or none works here.
    """
    if device not in ("auto", *ON):
        raise UsageError(f"unknown device {device!r}", remedy="use auto, cpu or cuda")
    if backend != "auto":
        devices = require_backend(backend).devices
        if device == "auto":
            works = (d for d in reversed(devices) if not why_not(backend, d))  # a GPU first
            device = next(works, devices[0])
        return Choice(backend, precision or default_precision(device), device)
    passed_over: list[tuple[str, str, str]] = []
    for name, where in ORDER:
        if device not in ("auto", where):
            continue
        why = why_not(name, where) or _why_not_in(name, precision)
        if not why:
            chosen = precision or default_precision(where)
            return Choice(name, chosen, where, tuple(passed_over))
        passed_over.append((name, where, why))
    whys = {why for _, _, why in passed_over}
    raise StreamDiffVSRError(
        "no backend works here" if device == "auto" else f"no backend works on {ON[device]} here",
        next(iter(whys)) if len(whys) == 1 else "; ".join(_grouped(passed_over)),
        _remedy(device, precision),
    )


def _remedy(device: str, precision: str | None) -> str:
    if precision == FP8:
        return "use --precision fp16, or build for another machine with --backend tensorrt-rtx"
    if device == "cuda":
        return "leave out --device, or see streamdiffvsr doctor"
    return "run pip install 'streamdiffvsr[cpu]', or see streamdiffvsr doctor"


def default_precision(device: str) -> str:
    """What a device is best at."""
    return "fp16" if device == "cuda" else "fp32"


def why_not(name: str, device: str) -> str:
    """Why a backend cannot run on a device of this machine, or nothing."""
    backend = BACKENDS[name]
    if device == "cuda" and (obstacle := why_no_gpu()):
        return obstacle
    if find_spec(backend.module) is None:
        return "not installed"
    if name == "onnxruntime":
        return _why_not_onnxruntime(device)
    if name == "torch":
        return _why_not_torch(device)
    return _why_not_tensorrt(name)


def _why_not_in(name: str, precision: str | None) -> str:
    """Why a backend cannot compute in fp8, or nothing: other precisions are refused by a build."""
    lacks = precision == FP8 and FP8 not in BACKENDS[name].precisions
    return f"it has no {FP8}" if lacks else ""


def _why_not_onnxruntime(device: str) -> str:
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    try:
        import onnxruntime

        offered = onnxruntime.get_available_providers()
    except Exception as error:  # a library of the wrong platform fails in its own ways
        return f"it does not load ({type(error).__name__})"
    return "" if provider in offered else f"this build of it has no {provider}"


def _why_not_torch(device: str) -> str:
    if device == "cpu":
        return ""
    try:
        import torch
    except Exception as error:
        return f"it does not load ({type(error).__name__})"
    return "" if torch.cuda.is_available() else "this build of it finds no CUDA"


def _why_not_tensorrt(name: str) -> str:
    try:
        library = load_library(name)
    except StreamDiffVSRError as error:
        return error.why or error.what
    gpu = cuda_gpu()
    known = {f"sm{capability}" for capability in RTX_CAPABILITIES}
    if library.builds_for_named_gpus and gpu is not None and gpu.sm not in known:
        return f"it makes no plans for {gpu.sm}"
    return ""
