"""Which backend runs here: the best that works, and why each better one does not.

Asks libraries only when their turn comes: loading torch takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import StreamDiffVSRError
from .backends import BACKENDS, require_backend
from .device import kind_of, ordinal_of
from .gpu import check_gpu, cuda_gpu, why_no_gpu
from .ort_provider import why_no_cuda_provider
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


@dataclass(frozen=True, slots=True)
class Choice:
    """What a build or a run uses.

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
        """ "cpu" or "cuda": what the engines are for, whichever GPU runs them."""
        return kind_of(self.device)

    def describe(self) -> str:
        """One line for the user."""
        line = f"backend: {self.backend} on {_called(self.device)}, {self.precision}"
        return "; ".join([line, *_grouped(self.passed_over)])


def _called(device: str) -> str:
    """A device in words."""
    if device == "cpu":
        return "the CPU"
    return f"GPU {ordinal_of(device)}" if ":" in device else "the GPU"


def _grouped(passed_over: Sequence[tuple[str, str, str]]) -> list[str]:
    """What does not work, once for each reason; one reason can be that of a whole device."""
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
    """Settle what the user left open; what was asked for is taken as it is.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".
        gpu: The GPU that "auto" tries, by its name as a device.

    Raises:
        UsageError: There is no such backend, or that is no name of a device.
        StreamDiffVSRError: The backend is not installed, a GPU of that number is not there, or
            none works here.
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
        return "use --precision fp16, or build for another machine with --backend tensorrt-rtx"
    if kind == "cuda":
        return "leave out --device, or see streamdiffvsr doctor"
    return "run pip install 'streamdiffvsr[cpu]', or see streamdiffvsr doctor"


def default_precision(device: str) -> str:
    """What a device is best at."""
    return "fp32" if kind_of(device) == "cpu" else "fp16"


def why_not(name: str, device: str) -> str:
    """Why a backend cannot run on a device of this machine, or nothing."""
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
    """Why a backend cannot compute in fp8, or nothing: other precisions are refused by a build."""
    lacks = precision == FP8 and FP8 not in BACKENDS[name].precisions
    return f"it has no {FP8}" if lacks else ""


def _why_not_onnxruntime() -> str:
    try:
        import onnxruntime

        offered = onnxruntime.get_available_providers()
    except Exception as error:  # a library of the wrong platform fails in its own ways
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
