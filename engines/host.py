"""Facts about this machine: GPUs, memory, disk, installed packages and usable precisions.

Nothing here is slow or uses a network. A question that a library or a driver does not answer has
the answer None.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import OR_DOCTOR, StreamDiffVSRError, UsageError, option
from ..graphs.spec import Precision
from .backends import FLOATS
from .backends import FP8 as FP8
from .cuda_driver import NO_DEVICE, CudaError, driver_call, primary_context
from .interface import kind_of, ordinal_of

NVIDIA_SMI_S = 10.0
NAME_BYTES = 128
PARTS = ("MAJOR", "MINOR")
GPU_FIELDS = "name,driver_version,memory.total,compute_cap"


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU, as its driver describes it."""

    name: str
    driver: str
    memory: str
    compute_capability: str

    @property
    def sm(self) -> str:
        """The compute capability as engines name it: sm89 for 8.9."""
        return f"sm{self.compute_capability.replace('.', '')}"


def nvidia_gpus() -> list[Gpu]:
    """Returns the GPUs that the NVIDIA driver lists; an empty list without a driver."""
    rows = ask_driver(GPU_FIELDS)
    whole = (row for row in rows if len(row) == len(GPU_FIELDS.split(",")))
    return [Gpu(name, driver, f"{memory} MiB", sm) for name, driver, memory, sm in whole]


def ask_driver(fields: str) -> list[list[str]]:
    """Returns the fields that nvidia-smi reports for each GPU.

    Args:
        fields: Comma-separated names, as its `--query-gpu` takes them.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        listed = subprocess.run(
            [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NVIDIA_SMI_S,
            stdin=subprocess.DEVNULL,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[field.strip() for field in line.split(",")] for line in listed.splitlines()]


def cuda_gpu(ordinal: int = 0) -> Gpu | None:
    """Returns a GPU by its number among those that CUDA shows; None if it is not there.

    CUDA_VISIBLE_DEVICES chooses which those are, and in what order.
    """
    found = _cuda_device(ordinal)
    return found if isinstance(found, Gpu) else None


def why_no_gpu(ordinal: int = 0) -> str:
    """Returns why a GPU cannot be used here, or an empty string if CUDA finds it."""
    found = _cuda_device(ordinal)
    return found if isinstance(found, str) else ""


@cache
def gpu_address(ordinal: int) -> str:
    """Returns a GPU's PCI bus address, the same for all programs; "" if it is not there."""
    try:
        driver_call("cuInit", 0)
        address = driver_call(
            "cuDeviceGetPCIBusId", NAME_BYTES, driver_call("cuDeviceGet", ordinal)
        )
        return bytes(address).split(b"\0")[0].decode().lower()
    except StreamDiffVSRError:
        return ""


@cache
def gpu_count() -> int:
    """Returns how many GPUs CUDA shows; 0 if it cannot be asked."""
    try:
        driver_call("cuInit", 0)
        return int(driver_call("cuDeviceGetCount"))
    except StreamDiffVSRError:
        return 0


def check_gpu(device: str) -> None:
    """Raises `StreamDiffVSRError` if a GPU that is named by its number is not there.

    "cuda" alone may mean the GPU of another machine: some engines are built without a GPU.
    """
    if ":" in device and (obstacle := why_no_gpu(ordinal_of(device))):
        raise StreamDiffVSRError(
            f"{device} cannot be used here",
            obstacle,
            f"use another {option('device')}{OR_DOCTOR}",
        )


@contextlib.contextmanager
def current_gpu(device: str) -> Iterator[None]:
    """Makes a GPU current in this thread inside the body: compilers build for it.

    Does nothing for the CPU, or if the GPU is not there.
    """
    if kind_of(device) == "cpu" or why_no_gpu(ordinal_of(device)):
        yield
        return
    with primary_context(ordinal_of(device)).current():
        yield


@cache
def _cuda_device(ordinal: int) -> Gpu | str:
    """Returns CUDA's device of a number, or why there is none.

    Asks for what `CudaDevice` will use, without making a context. The driver's version comes from
    nvidia-smi, or, where that is missing (in a container), it is CUDA's version.
    """
    listed = nvidia_gpus()
    try:
        driver_call("cuInit", 0)
        count = driver_call("cuDeviceGetCount")
        if ordinal >= count:
            return _why_too_few(ordinal, count)
        return _described(driver_call("cuDeviceGet", ordinal), listed)
    except CudaError as error:
        return _why_failed(error)
    except StreamDiffVSRError as error:  # not installed, or no driver library
        if not listed:
            return "no NVIDIA driver answers"
        reason = (error.why or error.what).splitlines()[0]
        return f"the driver lists the {listed[0].name}, but cuda-bindings does not load ({reason})"


def _described(device: Any, listed: list[Gpu]) -> Gpu:
    name = driver_call("cuDeviceGetName", NAME_BYTES, device)
    major, minor = (driver_call("cuDeviceGetAttribute", _attribute(p), device) for p in PARTS)
    version = driver_call("cuDriverGetVersion")
    return Gpu(
        name=bytes(name).split(b"\0")[0].decode(errors="replace"),
        driver=listed[0].driver if listed else f"CUDA {dotted(version)}",
        memory=f"{driver_call('cuDeviceTotalMem', device) // 2**20} MiB",
        compute_capability=f"{major}.{minor}",
    )


def _attribute(part: str) -> Any:
    from cuda.bindings import driver

    return getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}")


def _why_failed(error: CudaError) -> str:
    """Returns in words why CUDA refused."""
    if error.code != NO_DEVICE:
        return f"CUDA refuses to start: {error.why}"
    return _why_too_few(0, 0)


def _why_too_few(ordinal: int, count: int) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    if count == 0:
        return f"the driver shows CUDA no GPU{chosen}"
    return f"there is no cuda:{ordinal}, CUDA shows {count}{chosen}"


def dotted(version: int) -> str:
    """Returns a CUDA version number, such as 13010, as people write it: 13.1."""
    return f"{version // 1000}.{version % 1000 // 10}"


TORCH_MODULES = ("torch", "transformers", "huggingface_hub")
LIVE_MODULES = ("tenacity", "aiohttp", "prometheus_client")
ADAPTIVE_MODULE = "cv2"  # of the same extra
GRAPH_MODULES = ("onnx",)  # what making the graphs of a size from exported ones takes
EXPORT_MODULES = (*TORCH_MODULES, "onnx", "onnxscript", "onnx_graphsurgeon", "polygraphy")


def package_version(name: str) -> str | None:
    """Returns the version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing_export(needed: tuple[str, ...] = EXPORT_MODULES) -> list[str]:
    """Returns the modules of the export extra that are not installed."""
    return [name for name in needed if find_spec(name) is None]


def require_export(needed: tuple[str, ...] = EXPORT_MODULES) -> None:
    """Raises `StreamDiffVSRError`, naming what is missing, if engines cannot be built here."""
    if missing := missing_export(needed):
        raise StreamDiffVSRError(
            "engines cannot be built here",
            f"not installed: {', '.join(missing)}",
            "run pip install 'streamdiffvsr[export]', or bring an engine set built elsewhere",
        )


def missing_live() -> list[str]:
    """Returns the modules of the live extra that are not installed."""
    return [name for name in LIVE_MODULES if find_spec(name) is None]


def require_live() -> None:
    """Raises `StreamDiffVSRError`, naming what is missing, if live sources cannot be read here."""
    if missing := missing_live():
        raise StreamDiffVSRError(
            "live sources cannot be upscaled here",
            f"not installed: {', '.join(missing)}",
            "run pip install 'streamdiffvsr[live]'",
        )


def has_adaptive() -> bool:
    """Returns whether what adaptive mode needs is installed."""
    return find_spec(ADAPTIVE_MODULE) is not None


def require_adaptive() -> None:
    """Raises `StreamDiffVSRError` if frames cannot be made from a canvas here."""
    if not has_adaptive():
        raise StreamDiffVSRError(
            "adaptive mode is not possible here",
            "OpenCV is not installed",
            "run pip install 'streamdiffvsr[live]'",
        )


def free_bytes(folder: Path) -> int | None:
    """Returns the free disk space in bytes where a folder is or would be made."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def onnxruntime_providers() -> list[str]:
    """Returns the execution providers of the installed ONNX Runtime; empty if it does not load."""
    try:
        import onnxruntime

        return list(onnxruntime.get_available_providers())
    except Exception:  # a library for another platform raises anything
        return []


CGROUP = Path("/sys/fs/cgroup")  # version 2; inside a container, the container's own


def free_host_bytes() -> int:
    """Returns the bytes this process could still use, with swap, within its container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available + psutil.swap_memory().free)
    limit = _container_free_bytes()
    return free if limit is None else min(free, limit)


def free_device_bytes(ordinal: int = 0) -> int | None:
    """Returns the free memory in bytes of a GPU by its number; None if it cannot be asked."""
    try:
        free, _ = primary_context(ordinal).call("cuMemGetInfo")
        return int(free)
    except StreamDiffVSRError:
        return None


def _container_free_bytes() -> int | None:
    """Returns the bytes that a control group leaves free; its cached files count as free."""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next(int(s.split()[1]) for s in lines if s.startswith("inactive_file "))
        return None if limit == "max" else max(0, int(limit) - used + cached)
    except (OSError, ValueError, IndexError, StopIteration):
        return None  # no control groups, or version 1


PRECISIONS = (*FLOATS, FP8)
FP8_CAPABILITY = 89  # Ada, Hopper, Blackwell: older tensor cores have no e4m3


def graph_precision(name: str) -> Precision:
    """Returns the precision in which a set's graphs are exported: an fp8 set's are fp16."""
    return "fp32" if name == "fp32" else "fp16"


def check_precision(name: str) -> None:
    """Raises `UsageError` unless there is such a precision."""
    if name not in PRECISIONS:
        known = f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
        raise UsageError(f"unknown precision {name!r}", remedy=f"use {known}")


def check_capability(capabilities: tuple[int, ...], precision: str) -> None:
    """Raises `UsageError` if a GPU that the engines are for cannot compute in this precision.

    Args:
        capabilities: The compute capabilities of those GPUs, 89 for 8.9.
    """
    short = [c for c in capabilities if c < FP8_CAPABILITY]
    if precision == FP8 and short:
        listed = ", ".join(f"{c // 10}.{c % 10}" for c in short)
        raise UsageError(
            "fp8 engines need compute capability 8.9 or newer",
            f"a GPU of {listed} does not multiply in fp8",
            f"leave it out ({option('compute_capabilities', (89, 120))}), or use "
            f"{option('precision', 'fp16')}",
        )
