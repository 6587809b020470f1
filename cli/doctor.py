"""Implements `streamdiffvsr doctor`: checks what works on this machine and what is missing."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from .. import __version__
from ..engines import host, registry
from ..engines.cache import cache_root
from ..engines.cuda_driver import driver_call, primary_context
from ..engines.host import Gpu, cuda_gpu, dotted, free_device_bytes, gpu_count, why_no_gpu
from ..engines.manifest import MANIFEST
from ..engines.onnxruntime_backend import INSTALL, reinstall, usable_cpus
from ..engines.registry import BACKENDS, Backend, choose, installed_version, installing, why_not
from ..engines.tensorrt_build import RTX_CAPABILITIES
from ..engines.trust import check_keys
from ..errors import StreamDiffVSRError
from ..graphs.spec import GIB, format_bytes
from .console import FAILED

OK, OPTIONAL, PROBLEM = "ok", "-", "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: The thing that was checked, such as "video".
        status: "ok", "-" (missing or limited, but not needed for basic use), or "problem".
        value: What was found.
        remedy: What to do about it; empty if nothing.
    """

    name: str
    status: str
    value: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, and the sentences about what can run here and what cannot."""

    checks: tuple[Check, ...]
    can: tuple[str, ...]
    cannot: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Returns whether everything that basic use needs is there."""
        return all(check.status != PROBLEM for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        return {
            "ok": self.ok,
            "version": __version__,
            "checks": [asdict(check) for check in self.checks],
            "can": list(self.can),
            "cannot": list(self.cannot),
            "exit_code": 0 if self.ok else FAILED,
        }


def show(report: Report) -> None:
    """Prints a report as text; each command is on one line, for copying."""
    colours = {OK: "green", OPTIONAL: "bright_black", PROBLEM: "red"}
    typer.echo(f"streamdiffvsr {__version__}")
    for check in report.checks:
        status = typer.style(f"{check.status:8}", fg=colours[check.status])
        typer.echo(f"{status}{check.name:22}{check.value}")
        if check.remedy:
            typer.echo(f"{'':30}{check.remedy}")
    for title, lines in (("Can run here:", report.can), ("Cannot yet:", report.cannot)):
        if lines:
            typer.echo("\n  ".join([f"\n{title}", *lines]))
    if not report.ok:
        typer.echo("\nSomething that is needed is missing: see 'problem' above.")


SCARCE_DISK = 2 * GIB  # less than an engine set of the released model takes
MIN_MEMORY = 4 * GIB
RTX_GPUS = "compute capability " + ", ".join(f"{c // 10}.{c % 10}" for c in RTX_CAPABILITIES)


def examine() -> Report:
    """Runs all checks."""
    checks = (
        *_system(),
        *_cache(),
        *_key(),
        _media(),
        *_backends(),
        *_gpu(),
        _choice(),
        _export(),
        _live(),
        _built_in_model(),
    )
    return Report(checks, *_verdict(checks))


def _system() -> Iterator[Check]:
    yield Check("python", OK, f"{platform.python_version()} ({sys.executable})")
    yield Check("platform", OK, platform.platform())
    yield Check("cpus", OK, str(usable_cpus()))
    try:
        import psutil

        memory = psutil.virtual_memory()
    except Exception as error:
        yield _broken("memory", error)
        return
    value = f"{format_bytes(memory.total, 'GiB')}, {memory.available / GIB:.1f} free"
    remedy = "" if memory.available > MIN_MEMORY else "little; close something, or use small inputs"
    yield Check("memory", OK if not remedy else OPTIONAL, value, remedy)


def _cache() -> Iterator[Check]:
    try:
        root = cache_root()
    except StreamDiffVSRError as error:
        yield Check("cache", PROBLEM, f"{error.what}: {error.why}", error.remedy)
        return
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK)):
        remedy = "set STREAMDIFFVSR_CACHE to a folder that can be written"
        yield Check("cache", PROBLEM, f"{root} cannot be written", remedy)
        return
    free = host.free_bytes(root)
    little = free is not None and free < SCARCE_DISK
    shown = "free space unknown" if free is None else f"{format_bytes(free, 'GiB')} free"
    remedy = "little; free some, or set STREAMDIFFVSR_CACHE to another disk" if little else ""
    yield Check("cache", OPTIONAL if little else OK, f"{root}, {shown}", remedy)
    count, size = _engine_sets(root / "engines")
    yield Check("engine sets", OK, f"{count} in the cache, {format_bytes(size, 'MiB')}")


def _key() -> Iterator[Check]:
    """Checks the keys that engines are signed with; a row only if one cannot be used."""
    try:
        check_keys()
    except StreamDiffVSRError as error:
        yield Check("key", PROBLEM, f"{error.what}: {error.why}", error.remedy)


def _engine_sets(folder: Path) -> tuple[int, int]:
    """Returns the number of engine sets in a folder and their bytes."""
    sets = [path.parent for path in folder.glob(f"*/{MANIFEST}")]
    sizes = (file.stat().st_size for one in sets for file in one.iterdir() if file.is_file())
    return len(sets), sum(sizes)


def _media() -> Check:
    try:
        import av
        from av.codec import Codec

        found = {name: _has_encoder(Codec, name) for name in ("libx264", "aac")}
        lib = ".".join(str(part) for part in av.library_versions["libavcodec"])
    except Exception as error:
        return _broken("video", error)
    value = f"PyAV {host.package_version('av')}, libavcodec {lib}"
    missing = [name for name, there in found.items() if not there]
    if "libx264" in missing:
        remedy = "run pip install --force-reinstall av: its wheels have it"
        return Check("video", PROBLEM, f"{value}, without the encoder libx264", remedy)
    return Check(
        "video", OK, f"{value}, encoders {', '.join(n for n, there in found.items() if there)}"
    )


def _has_encoder(codec: Any, name: str) -> bool:
    try:
        codec(name, "w")
    except Exception:
        return False
    return True


def _backends() -> Iterator[Check]:
    if conflict := _onnxruntime_conflict():
        yield conflict
    for backend in BACKENDS.values():
        yield _backend(backend)


def _backend(backend: Backend) -> Check:
    name = f"backend {backend.name}"
    failed = PROBLEM if backend.basic else OPTIONAL
    if not registry.is_installed(backend):
        return Check(name, failed, "not installed", _install(backend, gpu=bool(host.nvidia_gpus())))
    try:
        return Check(name, OK, backend.details(str(installed_version(backend))))
    except StreamDiffVSRError as error:
        found = ": ".join(part for part in (error.what, error.why) if part)
        return Check(name, failed, found, error.remedy)


def _install(backend: Backend, *, gpu: bool = False) -> str:
    return installing(backend, gpu=gpu).removeprefix("run ")


def _onnxruntime_conflict() -> Check | None:
    both = [host.package_version(name) for name in ("onnxruntime", "onnxruntime-gpu")]
    if None in both:
        return None
    value = f"onnxruntime {both[0]} and onnxruntime-gpu {both[1]} are installed over each other"
    return Check("conflict", PROBLEM, value, reinstall())


def _gpu() -> Iterator[Check]:
    """Checks each GPU in CUDA's order, CUDA itself, and each backend on the first GPU."""
    if obstacle := why_no_gpu():
        listed = host.nvidia_gpus()
        for gpu in listed:
            yield Check("gpu", OPTIONAL, _described(gpu))
        if listed:
            yield Check("cuda", OPTIONAL, obstacle, _cuda_remedy())
        else:
            yield Check("gpu", OPTIONAL, f"{obstacle}; not needed on the CPU")
        return
    for ordinal in range(gpu_count()):
        yield _one_gpu(ordinal)
    bindings = host.package_version("cuda-bindings")
    version = dotted(driver_call("cuDriverGetVersion"))
    yield Check("cuda", OK, f"cuda-bindings {bindings}, a driver for CUDA {version}")
    for backend in BACKENDS.values():
        yield _on_gpu(backend)


def _described(gpu: Gpu) -> str:
    capability = f"compute capability {gpu.compute_capability}"
    return f"{gpu.name}, {gpu.memory}, {capability}, driver {gpu.driver}"


def _one_gpu(ordinal: int) -> Check:
    """Checks whether a GPU can be used; another process may have it exclusively."""
    gpu = cuda_gpu(ordinal)
    if gpu is None:
        return Check("gpu", OPTIONAL, f"cuda:{ordinal}: {why_no_gpu(ordinal)}")
    value = f"cuda:{ordinal} {_described(gpu)}"
    try:
        primary_context(ordinal)
    except StreamDiffVSRError as error:
        why = f"{value}; it cannot be used: {error.why or error.what}"
        return Check("gpu", OPTIONAL, why, "close what else uses it, or choose another --device")
    free = free_device_bytes(ordinal)
    return Check("gpu", OK, value if free is None else f"{value}, {free // 2**20} MiB free")


def _on_gpu(backend: Backend) -> Check:
    """Checks whether a backend runs on the first GPU."""
    name = f"gpu {backend.name}"
    why = why_not(backend.name, "cuda")
    if not why:
        return Check(name, OK, "loads")
    installed = registry.is_installed(backend)
    remedy = backend.repair() or ("" if installed else _install(backend))
    return Check(name, OPTIONAL, why, remedy)


def _cuda_remedy() -> str:
    """Returns what to do if the driver lists a GPU that CUDA does not find."""
    if host.package_version("cuda-bindings") is None:
        return INSTALL
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return "unset CUDA_VISIBLE_DEVICES, or name a GPU in it"
    return "install a newer driver, and restart the machine"


def _choice() -> Check:
    """Checks which backend a build without `--backend` would choose."""
    try:
        return Check("auto", OK, choose().describe().removeprefix("backend: "))
    except StreamDiffVSRError as error:
        return Check("auto", PROBLEM, f"{error.what}: {error.why}", error.remedy)


def _export() -> Check:
    if missing := host.missing_export():
        remedy = "to build engines of other models: pip install 'streamdiffvsr[export]'"
        return Check("export", OPTIONAL, f"not installed: {', '.join(missing)}", remedy)
    return Check("export", OK, f"torch {host.package_version('torch')} and all that goes with it")


def _live() -> Check:
    if missing := host.missing_live():
        remedy = "for cameras and streams: pip install 'streamdiffvsr[live]'"
        return Check("live", OPTIONAL, f"not installed: {', '.join(missing)}", remedy)
    from ..runtime.media.formats import live_encoder

    value = f"cameras and streams; H.264 by {live_encoder((360, 640)).name}"
    if not host.has_adaptive():
        remedy = "for adaptive mode: pip install 'streamdiffvsr[live]'"
        return Check("live", OK, f"{value}; whole frames only, as OpenCV is not installed", remedy)
    return Check("live", OK, value)


def _built_in_model() -> Check:
    from ..export.model_source import BUILT_IN, BUILT_IN_FOLDER

    if BUILT_IN_FOLDER.is_dir():
        return Check("model", OK, f"{BUILT_IN} is built in")
    return Check("model", OPTIONAL, "none built in yet", "give one with --model (docs/models.md)")


def _broken(name: str, error: Exception) -> Check:
    value = " ".join(f"{type(error).__name__}: {error}".split())
    return Check(name, PROBLEM, value, "pip install --force-reinstall streamdiffvsr")


def _verdict(found: Sequence[Check]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the sentences about what can run here and about what cannot."""
    checks = {check.name: check for check in found}
    runs = all(checks[name].status == OK for name in ("video", "backend onnxruntime"))
    runs = runs and "conflict" not in checks
    gpu = any(check.name == "gpu" and check.status == OK for check in found)
    cuda = gpu and checks["gpu onnxruntime"].status == OK
    where = "on the GPU with CUDA, and on the CPU" if cuda else "on the CPU (slow)"
    live, export, model, rtx = (
        checks[name].status == OK for name in ("live", "export", "model", "backend tensorrt-rtx")
    )
    claims = [
        (runs, f"upscale files with ONNX Runtime {where}"),
        (runs and live, "upscale cameras and streams as they come"),
        (runs and export, "build engines of other models than the built-in one"),
        (model, "run without a model of your own: the built-in one"),
        (export and rtx, f"build TensorRT-RTX engines, for GPUs of {RTX_GPUS}"),
    ]
    if not gpu:
        claims.append((False, "upscale with TensorRT or TensorRT-RTX: that needs an NVIDIA GPU"))
    can, cannot = ([line for works, line in claims if works is answer] for answer in (True, False))
    return tuple(can), tuple(cannot)
