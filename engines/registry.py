"""The choice of the best backend that works on this machine; `backends` has the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ..errors import OR_DOCTOR, StreamDiffVSRError, UsageError, option, without
from .backends import BACKENDS as BACKENDS
from .backends import FP8, order
from .backends import Backend as Backend
from .cuda_device import CudaDevice
from .host import check_gpu, why_no_gpu
from .interface import Engine, HostArray, StagedEngine, kind_of, ordinal_of
from .parity import Run, run_on_host


def run_on(device: str) -> Run:
    """Returns how the parity gate runs an engine on a device once, on host arrays."""
    return run_on_host if kind_of(device) == "cpu" else partial(_run_on_gpu, device)


def _run_on_gpu(
    device: str, engine: Engine, inputs: Mapping[str, HostArray], outputs: Mapping[str, HostArray]
) -> None:
    """Runs an engine on a GPU once, from host arrays to host arrays."""
    run_on_host(StagedEngine(CudaDevice(ordinal_of(device)), engine), inputs, outputs)


def is_installed(backend: Backend) -> bool:
    """Returns whether the library of a backend is installed; it is not loaded."""
    return find_spec(backend.module) is not None


def installed_package(backend: Backend) -> tuple[str, str] | None:
    """Returns the name and version of the distribution that provides a backend, or None."""
    for package in backend.packages:
        try:
            return package, version(package)
        except PackageNotFoundError:
            continue
    return None


def installed_version(backend: Backend) -> str | None:
    """Returns the installed library's version, "unknown" if no package states it, or None."""
    if find_spec(backend.module) is None:
        return None
    found = installed_package(backend)
    return found[1] if found else "unknown"


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
            installing(backend),
        )
    return backend


def installing(backend: Backend, *, gpu: bool = False) -> str:
    """Returns the command that installs a backend, as the remedy of an error."""
    extra = backend.extra(gpu=gpu)
    packages = f"'streamdiffvsr[{extra}]'" if extra else " ".join(backend.packages[:1])
    return f"run pip install {packages}"


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
    for name, kind in order():
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
    return backend.unavailable(device)


def _why_not_in(name: str, precision: str | None) -> str:
    """Returns why a backend cannot compute in fp8, or "": a build refuses other precisions."""
    lacks = precision == FP8 and FP8 not in BACKENDS[name].precisions
    return f"it has no {FP8}" if lacks else ""
